"""Checks of Dataflow's workers: machines and accelerators, quota, and the container image."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from apache_beam.options.pipeline_options import SetupOptions, WorkerOptions

from labelbeam.pipeline.checks.findings import Case, Check, Finding, always, error, ok, on_dataflow, warning
from labelbeam.pipeline.checks.google import ApiError, call_api, get_compute, lacks_project
from labelbeam.pipeline.runners import options as beam
from labelbeam.transforms.errors import UserError

_VIEWER = "roles/compute.viewer"
_DRIVER = "install-nvidia-driver"
_MORE_QUOTA = "Request more (console: IAM and admin, Quotas), or lower --max_num_workers."
# Registries of Google; the credentials must not be sent to other registries.
_IMAGE = re.compile(
    r"(?P<host>(?:[\w-]+\.)*(?:pkg\.dev|gcr\.io))/(?P<path>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>.+))?"
)
_REGISTRY = "https://{host}"
_OCI, _DOCKER = "application/vnd.oci.image", "application/vnd.docker.distribution.manifest"
_MANIFESTS = f"{_OCI}.index.v1+json, {_OCI}.manifest.v1+json, {_DOCKER}.list.v2+json, {_DOCKER}.v2+json"


class _Pool(NamedTuple):
    """Workers of one kind: machine type, and type and count of accelerators, by Compute Engine's names."""

    machine: str
    card: str = ""
    card_count: int = 0
    has_driver: bool = True

    def __str__(self) -> str:
        machine = self.machine or "a machine type of Dataflow's choice"
        return f"{machine} with {self.card_count} x {self.card}" if self.card else machine


def _worker_pools(case: Case) -> list[_Pool]:
    machine = case.options.view_as(WorkerOptions).machine_type or ""
    for_all = [*beam.worker_accelerators(case.options), *beam.accelerators_for_all(case.options)]
    pools = [_read_pool(option.partition("=")[2], machine) for option in for_all]
    # A hint for one step starts workers beside those of the other steps.
    hint = case.config.predict.accelerator_hint
    return (pools or [_Pool(machine)]) + ([_read_pool(hint, machine)] if hint else [])


def _read_pool(text: str, machine: str) -> _Pool:
    parts = {part.partition(":")[0]: part.partition(":")[2] for part in text.split(";")}
    card, count = parts.get("type", ""), parts.get("count", "1")
    if not card or not count.isdecimal() or int(count) < 1:
        raise UserError(f"{text!r} names no accelerator. Write it as type:nvidia-l4;count:1;{_DRIVER}.")
    return _Pool(parts.get("machine_type") or machine, card, int(count), _DRIVER in parts)


def _location(case: Case) -> str:
    """Return the zone of the workers, or the region followed by a dash."""
    workers = case.options.view_as(WorkerOptions)
    return workers.worker_zone or workers.zone or f"{workers.worker_region or case.region}-"


def _check_machines(case: Case) -> Iterator[Finding]:
    for pool in _worker_pools(case):
        if not pool.has_driver:
            text = f"{pool}: NVIDIA's driver is missing, so TensorFlow would not see the accelerator."
            yield warning(text, f"Add ;{_DRIVER} to the option.")
        try:
            yield _find_pool(case, pool)
        except ApiError as e:
            yield e.warning(f"zones with {pool}", _VIEWER)


def _find_pool(case: Case, pool: _Pool) -> Finding:
    zones: set[str] | None = None
    for kind, name in (("machineTypes", pool.machine), ("acceleratorTypes", pool.card)):
        if not name:
            continue
        resources = _list_by_zone(case, kind, name)
        usable = {zone for zone in resources if zone.startswith(_location(case))}
        if not usable:
            regions = ", ".join(sorted({zone.rpartition("-")[0] for zone in resources})) or "none"
            text = f"{name} is not available in {_location(case).rstrip('-')}."
            return error(text, f"Check the name and the region. Regions that have it: {regions}.")
        if misfit := _misfit(case, pool, next(iter(resources.values()))):
            return misfit
        zones = usable if zones is None else zones & usable
    if zones is not None and not zones:
        text = f"no zone of the region has both {pool.machine} and {pool.card}."
        return error(text, "Set another --region.")
    return ok(f"workers are {pool}.", *([f"zones: {', '.join(sorted(zones))}"] if zones else ()))


def _list_by_zone(case: Case, kind: str, name: str) -> dict[str, dict[str, Any]]:
    zones: dict[str, dict[str, Any]] = {}
    params = {"filter": f"name={name}"}
    while True:
        page = get_compute(case, f"/aggregated/{kind}", **params)
        for scope, resources in page.get("items", {}).items():
            zones |= {scope.removeprefix("zones/"): item for item in resources.get(kind, ())}
        if not (token := page.get("nextPageToken")):
            return zones
        params["pageToken"] = token


def _misfit(case: Case, pool: _Pool, resource: dict[str, Any]) -> Finding | None:
    """Return the contradiction between a kind of workers and a machine type or accelerator type.

    Machine types without accelerators of their own pass, because the API does not list what they accept.
    """
    if "guestCpus" in resource:
        case.worker_cores[pool.machine] = int(resource["guestCpus"])
    for own in resource.get("accelerators", ()):
        card, count = own["guestAcceleratorType"], own["guestAcceleratorCount"]
        if (card, count) != (pool.card, pool.card_count):
            report, wish = (error, f"{pool.card_count} x {pool.card}") if pool.card else (warning, "none")
            text = f"{pool.machine} has {count} x {card}, which is billed, and the options ask for {wish}."
            flag = f"--dataflow_service_options='worker_accelerator=type:{card};count:{count};{_DRIVER}'"
            return report(text, f"Set {flag}, or another --machine_type.")
    if pool.card_count > (most := resource.get("maximumCardsPerInstance", pool.card_count)):
        return error(f"{pool} exceeds the limit of {most} x {pool.card}.", "Lower the count.")
    if pool.card and not pool.machine:
        return warning(f"--machine_type is missing, and workers need {pool.card}.", "Set --machine_type.")
    return None


def _check_quota(case: Case) -> Iterator[Finding]:
    limit = case.options.view_as(WorkerOptions).max_num_workers
    if not limit:
        yield warning("--max_num_workers is missing, so the cost has no limit.", "Set --max_num_workers.")
    region = _location(case).rpartition("-")[0]
    try:
        # The region's quotas replace those of the project that have the same metric.
        answers = [get_compute(case, path) for path in ("", f"/regions/{region}")]
    except ApiError as e:
        yield e.warning(f"quota in {region}", _VIEWER)
        return
    quotas = {quota["metric"]: quota for answer in answers for quota in answer.get("quotas", ())}
    needs: Counter[str] = Counter()
    for pool in _worker_pools(case):
        # The larger need counts, because all kinds of workers share the limit of --max_num_workers.
        needs |= _quota_needs(case, pool, quotas)
    for metric, each in needs.items():
        if metric in quotas:
            yield _compare_quota(quotas[metric], each, limit)
        elif not metric.endswith("_ALL_REGIONS"):
            yield warning(f"Compute Engine lists no quota {metric} in {region}.", "See the console.")


def _quota_needs(case: Case, pool: _Pool, quotas: dict[str, Any]) -> Counter[str]:
    """Return the amount of each quota that one worker uses."""
    # Metrics are named after the family or type: N2_CPUS, NVIDIA_L4_GPUS, NVIDIA_T4_GPUS (nvidia-tesla-t4).
    family = f"{pool.machine.partition('-')[0].upper()}_CPUS"
    card = pool.card.removeprefix("nvidia-").removeprefix("tesla-").replace("-", "_").upper()
    has_address = case.options.view_as(WorkerOptions).use_public_ips is not False
    cores = case.worker_cores.get(pool.machine, 0)
    needs = {family if family in quotas else "CPUS": cores, "CPUS_ALL_REGIONS": cores}
    needs |= {f"NVIDIA_{card}_GPUS": pool.card_count, "GPUS_ALL_REGIONS": pool.card_count}
    return +Counter({**needs, "IN_USE_ADDRESSES": int(has_address)})


def _compare_quota(quota: dict[str, Any], each: int, workers: int | None) -> Finding:
    free = quota["limit"] - quota.get("usage", 0)
    fit = int(free // each)
    text = f"{quota['metric']}: {free:,.0f} of {quota['limit']:,.0f} are free, and a worker uses {each:,}"
    if fit < 1:
        return error(f"{text}: no worker can start.", _MORE_QUOTA)
    if workers and fit < workers:
        return warning(f"{text}: {fit:,} of {workers:,} workers can start.", _MORE_QUOTA)
    return ok(f"{text}: enough for {workers or fit:,} workers.")


def _check_container(case: Case) -> Iterator[Finding]:
    image, setup = beam.worker_image(case.options), case.options.view_as(SetupOptions)
    if not image:
        option = "--sdk_container_image" if case.on_dataflow else "--environment_config=IMAGE"
        if not setup.setup_file and not setup.requirements_file and not setup.extra_packages:
            text = "workers start from Beam's own image, which has no labelbeam."
            yield error(text, f"Set {option} (see Dockerfile), or --setup_file=./setup.py.")
        else:
            yield ok("workers install labelbeam when they start; an image starts faster.")
        return
    python = ".".join(platform.python_version_tuple()[:2])
    here = {"labelbeam.python": python, "labelbeam.beam": importlib.metadata.version("apache-beam")}
    try:
        labels = _image_labels(case, image)
    except ApiError as e:
        if e.status == 404:
            yield error(f"there is no image {image}.", "Push it, or check its name.")
        else:
            yield warning(f"{image} could not be checked: {e}.", "Run python deploy/check_image.py IMAGE.")
        return
    for name, version in here.items():
        text = f"{image} has {name} {labels.get(name)}, and this machine {version}."
        yield ok(text) if labels.get(name) == version else error(text, "Build the image again.")


def _image_labels(case: Case, image: str) -> dict[str, str]:
    """Read an image's labels from its registry; raises ApiError."""
    name = _IMAGE.fullmatch(image)
    if not name or not case.credentials:
        raise ApiError(0, "its registry is not Google's, or there are no credentials")
    url = f"{_REGISTRY.format(host=name['host'])}/v2/{name['path']}"
    reference, headers = name["digest"] or name["tag"] or "latest", {"Accept": _MANIFESTS}
    manifest = call_api(case, f"{url}/manifests/{reference}", headers=headers)
    for entry in manifest.get("manifests", ()):
        if entry["platform"]["architecture"] == "amd64":
            manifest = call_api(case, f"{url}/manifests/{entry['digest']}", headers=headers)
    return call_api(case, f"{url}/blobs/{manifest['config']['digest']}")["config"].get("Labels") or {}


MACHINES = Check("machines", _check_machines, on_dataflow, always, lacks_project, too_slow=warning)
QUOTA = Check("quota", _check_quota, on_dataflow, always, lacks_project, too_slow=warning)
CONTAINER = Check(
    "container",
    _check_container,
    applies=lambda case: beam.starts_image(case.options),
    is_remote=lambda case: bool(_IMAGE.fullmatch(beam.worker_image(case.options))),
)
