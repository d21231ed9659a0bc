"""Checks of Dataflow's workers: machines, accelerators and the container image."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from apache_beam.options.pipeline_options import SetupOptions, WorkerOptions

from labelbeam.pipeline.checks.findings import Case, Check, Finding, always, error, ok, on_dataflow, warning
from labelbeam.pipeline.checks.google import ApiError, call_api, lacks_project
from labelbeam.pipeline.runners import options as beam
from labelbeam.transforms.errors import UserError

COMPUTE = "https://compute.googleapis.com/compute/v1"
_DRIVER = "install-nvidia-driver"
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
    if not case.options.view_as(WorkerOptions).max_num_workers:
        yield warning("--max_num_workers is missing, so the cost has no limit.", "Set --max_num_workers.")
    for pool in _worker_pools(case):
        if not pool.has_driver:
            text = f"{pool}: NVIDIA's driver is missing, so TensorFlow would not see the accelerator."
            yield warning(text, f"Add ;{_DRIVER} to the option.")
        try:
            yield _find_pool(case, pool)
        except ApiError as e:
            remedies = {0: "Check the network.", 404: "Check --project, --region and the name."}
            remedy = remedies.get(e.status, "Enable the API in the project, or get roles/compute.viewer.")
            yield warning(f"zones with {pool} could not be checked: {str(e).rstrip('.')}.", remedy)


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
        if misfit := _misfit(pool, next(iter(resources.values()))):
            return misfit
        # A worker needs both in one zone, because Dataflow starts all workers of a job in one.
        zones = usable if zones is None else zones & usable
    if zones is not None and not zones:
        text = f"no zone of the region has both {pool.machine} and {pool.card}."
        return error(text, "Set another --region.")
    return ok(f"workers are {pool}.", *([f"zones: {', '.join(sorted(zones))}"] if zones else ()))


def _list_by_zone(case: Case, kind: str, name: str) -> dict[str, dict[str, Any]]:
    zones: dict[str, dict[str, Any]] = {}
    params = {"filter": f"name={name}"}
    while True:
        page = call_api(case, f"{COMPUTE}/projects/{case.project}/aggregated/{kind}", params=params)
        for scope, resources in page.get("items", {}).items():
            zones |= {scope.removeprefix("zones/"): item for item in resources.get(kind, ())}
        # In pages, because a type that all zones have takes more than one.
        if not (token := page.get("nextPageToken")):
            return zones
        params["pageToken"] = token


def _misfit(pool: _Pool, resource: dict[str, Any]) -> Finding | None:
    """Return the contradiction between a kind of workers and a machine type or accelerator type.

    Machine types without accelerators of their own pass, because the API does not list what they accept.
    """
    # Built-in accelerators are billed with the machine, whether a job requests them or not.
    for own in resource.get("accelerators", ()):
        card, count = own["guestAcceleratorType"], own["guestAcceleratorCount"]
        if (card, count) != (pool.card, pool.card_count):
            report, wish = (error, f"{pool.card_count} x {pool.card}") if pool.card else (warning, "none")
            text = f"{pool.machine} has {count} x {card}, which is billed, and the options request {wish}."
            flag = f"--dataflow_service_options='worker_accelerator=type:{card};count:{count};{_DRIVER}'"
            return report(text, f"Set {flag}, or another --machine_type.")
    if pool.card_count > (most := resource.get("maximumCardsPerInstance", pool.card_count)):
        return error(f"{pool} exceeds the limit of {most} x {pool.card}.", "Lower the count.")
    if pool.card and not pool.machine:
        return warning(f"--machine_type is missing, and workers need {pool.card}.", "Set --machine_type.")
    return None


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
            remedy = "Check that Python and Beam have the same versions there as here."
            yield warning(f"{image} could not be checked: {e}.", remedy)
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
    # An index lists one image for each processor. That of amd64 is read, because most machines of Dataflow
    # are.
    for entry in manifest.get("manifests", ()):
        if entry["platform"]["architecture"] == "amd64":
            manifest = call_api(case, f"{url}/manifests/{entry['digest']}", headers=headers)
    return call_api(case, f"{url}/blobs/{manifest['config']['digest']}")["config"].get("Labels") or {}


MACHINES = Check("machines", _check_machines, on_dataflow, always, lacks_project)
CONTAINER = Check(
    "container",
    _check_container,
    applies=lambda case: beam.starts_image(case.options),
    is_remote=lambda case: bool(_IMAGE.fullmatch(beam.worker_image(case.options))),
)
