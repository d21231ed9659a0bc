"""Which of Compute Engine's machines take which accelerators.

The table is from Compute Engine's page "GPU machine types" (cloud.google.com/compute/docs/gpus), as it was in
2025. What it does not know is a doubt, never an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions

from labelbeam.pipeline.config import PredictConfig
from labelbeam.pipeline.runners.options import accelerators_for_all, worker_accelerators

# Accelerators that a machine type has by itself, and how many.
_L4, _A100, _A100_80 = "nvidia-l4", "nvidia-tesla-a100", "nvidia-a100-80gb"
_H100, _H100_MEGA, _H200 = "nvidia-h100-80gb", "nvidia-h100-mega-80gb", "nvidia-h200-141gb"
_BUILT_IN = {
    **{f"g2-standard-{cpus}": (_L4, 1) for cpus in (4, 8, 12, 16, 32)},
    **{f"g2-standard-{cpus}": (_L4, count) for cpus, count in ((24, 2), (48, 4), (96, 8))},
    **{f"a2-highgpu-{n}g": (_A100, n) for n in (1, 2, 4, 8)},
    "a2-megagpu-16g": (_A100, 16),
    **{f"a2-ultragpu-{n}g": (_A100_80, n) for n in (1, 2, 4, 8)},
    **{f"a3-highgpu-{n}g": (_H100, n) for n in (1, 2, 4, 8)},
    "a3-megagpu-8g": (_H100_MEGA, 8),
    "a3-ultragpu-8g": (_H200, 8),
}
# Accelerators that can be attached to machines of the N1 family, and in which numbers.
_ATTACHED = {
    "nvidia-tesla-t4": (1, 2, 4),
    "nvidia-tesla-p4": (1, 2, 4),
    "nvidia-tesla-p100": (1, 2, 4),
    "nvidia-tesla-v100": (1, 2, 4, 8),
}
# Families whose machines take no accelerator.
_WITHOUT = frozenset(
    "c2 c2d c3 c3d c4 c4a c4d e2 f1 g1 h3 m1 m2 m3 n2 n2d n4 t2a t2d z3".split()  # noqa: SIM905
)
_ACCELERATORS = {*_ATTACHED, *(name for name, _ in _BUILT_IN.values())}
# The region's quota of each; of others none is told by the API.
QUOTAS = {
    _L4: "NVIDIA_L4_GPUS",
    _A100: "NVIDIA_A100_GPUS",
    _A100_80: "NVIDIA_A100_80GB_GPUS",
    "nvidia-tesla-t4": "NVIDIA_T4_GPUS",
    "nvidia-tesla-p4": "NVIDIA_P4_GPUS",
    "nvidia-tesla-p100": "NVIDIA_P100_GPUS",
    "nvidia-tesla-v100": "NVIDIA_V100_GPUS",
}
# Families whose cores count against the quota CPUS; others have one of their own.
_PLAIN_FAMILIES = ("n1", "e2", "f1", "g1", "custom")


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What a worker is to have beside its cores.

    Attributes:
      type: Compute Engine's name, such as `nvidia-l4`.
      count: How many.
      installs_driver: Whether Dataflow is asked for NVIDIA's driver.
      machine_type: The machine that is asked for with it.
    """

    type: str
    count: int
    installs_driver: bool
    machine_type: str | None = None

    def __str__(self) -> str:
        return f"{self.count} x {self.type}"


@dataclass(frozen=True, slots=True)
class Pool:
    """A kind of workers.

    Attributes:
      machine_type: Compute Engine's name; None leaves it to Dataflow.
      accelerator: What each worker has.
      asked: The option that asks for the accelerator.
      for_all: Whether they are the workers of the whole job.
    """

    machine_type: str | None
    accelerator: Accelerator | None = None
    asked: str = ""
    for_all: bool = True

    @property
    def name(self) -> str:
        """The kind in words."""
        machine = self.machine_type or "a machine type of Dataflow's choice"
        return f"{machine} with {self.accelerator}" if self.accelerator else machine


def parse_accelerator(text: str) -> Accelerator | str:
    """Reads `type:nvidia-l4;count:1;install-nvidia-driver`; gives what is wrong with it instead if so."""
    parts = {part.partition(":")[0]: part.partition(":")[2] for part in text.split(";") if part}
    kind, count = parts.get("type", ""), parts.get("count", "1")
    if not kind or not count.isdecimal() or int(count) < 1:
        return "it must name a type and a count, such as type:nvidia-l4;count:1;install-nvidia-driver"
    return Accelerator(kind, int(count), "install-nvidia-driver" in parts, parts.get("machine_type"))


def asked_accelerators(predict: PredictConfig, options: PipelineOptions) -> list[tuple[str, str, bool]]:
    """The options that ask for accelerators: what the option is, what it asks for, and if of all workers."""
    of_service, of_hints = worker_accelerators(options), accelerators_for_all(options)
    return [
        *(("--dataflow_service_options", option.partition("=")[2], True) for option in of_service),
        *(("--resource_hints", hint.partition("=")[2], True) for hint in of_hints),
        *(("--accelerator_hint", hint, False) for hint in (predict.accelerator_hint,) if hint),
    ]


def pools_of(predict: PredictConfig, options: PipelineOptions) -> list[Pool]:
    """The kinds of workers that Dataflow is to start; accelerators that can't be read are left out."""
    machine_type = options.view_as(WorkerOptions).machine_type
    pools = []
    for flag, text, for_all in asked_accelerators(predict, options):
        accelerator = parse_accelerator(text)
        if isinstance(accelerator, Accelerator):
            pools.append(Pool(accelerator.machine_type or machine_type, accelerator, flag, for_all))
    everywhere = any(pool.for_all for pool in pools)
    return pools if everywhere else [Pool(machine_type), *pools]


def family_of(machine_type: str) -> str:
    """A machine type's family, such as `n1`."""
    return machine_type.partition("-")[0]


def built_in(machine_type: str) -> tuple[str, int] | None:
    """The accelerators that a machine type has by itself."""
    return _BUILT_IN.get(machine_type)


def misfit(machine_type: str, accelerator: Accelerator) -> tuple[bool, str]:
    """Whether a machine surely can't have an accelerator, and why; an empty reason where it can."""
    if accelerator.type not in _ACCELERATORS:
        known = ", ".join(sorted(_ACCELERATORS))
        return False, f"the accelerator {accelerator.type!r} is not known here; {known} are"
    own = built_in(machine_type)
    if own:
        return True, "" if own == (accelerator.type, accelerator.count) else f"it has {own[1]} x {own[0]}"
    family = family_of(machine_type)
    if family in _WITHOUT:
        return True, f"machines of the family {family} take no accelerator"
    if family not in ("n1", "custom"):
        return False, f"the machine type {machine_type!r} is not known here"
    if accelerator.type not in _ATTACHED:
        return True, f"machines of the family n1 take {', '.join(_ATTACHED)}"
    counts = _ATTACHED[accelerator.type]
    return True, "" if accelerator.count in counts else f"it takes {', '.join(map(str, counts))} of them"


def machines_with(accelerator: Accelerator) -> list[str]:
    """Machine types that have, or take, an accelerator in that number."""
    if accelerator.count in _ATTACHED.get(accelerator.type, ()):
        return ["n1-standard-4", "n1-standard-8"]
    return [name for name, own in _BUILT_IN.items() if own == (accelerator.type, accelerator.count)]


def cores_by_name(machine_type: str) -> int | None:
    """The cores that a machine type's name tells."""
    found = re.search(r"custom-(\d+)-\d+|-(?:standard|highmem|highcpu)-(\d+)$", machine_type)
    return int(found[1] or found[2]) if found else None


def core_quota(machine_type: str) -> str:
    """The region's quota that counts a machine type's cores."""
    family = family_of(machine_type)
    return "CPUS" if family in _PLAIN_FAMILIES else f"{family.upper()}_CPUS"
