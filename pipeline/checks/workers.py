"""Checks of Dataflow's workers: machines and accelerators, where they are to be had, and how many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apache_beam.options.pipeline_options import WorkerOptions

from labelbeam.pipeline.checks.account import lacks_api
from labelbeam.pipeline.checks.findings import Case, Check, Finding, always, error, ok, on_dataflow, warning
from labelbeam.pipeline.checks.google_api import ApiError, ask_all_zones, ask_compute, untold
from labelbeam.pipeline.checks.machines import (
    QUOTAS,
    Accelerator,
    Pool,
    asked_accelerators,
    built_in,
    core_quota,
    cores_by_name,
    machines_with,
    misfit,
    parse_accelerator,
)

_VIEWER = "roles/compute.viewer"
_MORE = "Ask for more (console: IAM and admin, Quotas), or lower --max_num_workers."


def _check_machines(case: Case) -> Iterator[Finding]:
    for flag, text, _ in asked_accelerators(case.config.predict, case.options):
        if isinstance(wrong := parse_accelerator(text), str):
            yield error(f"{flag}: {text!r} is not understood: {wrong}.")
    for pool in case.pools:
        yield from _check_pool(pool)


def _check_pool(pool: Pool) -> Iterator[Finding]:
    machine, wanted = pool.machine_type, pool.accelerator
    if wanted is None:
        own = built_in(machine) if machine else None
        if own:
            kind, count = own
            yield warning(
                f"{machine} has {count} x {kind}, which is paid for, and no option asks for it.",
                f"Give --dataflow_service_options='worker_accelerator=type:{kind};count:{count};"
                "install-nvidia-driver', or another --machine_type.",
            )
        else:
            yield ok(f"workers are {pool.name}.")
        return
    if not wanted.installs_driver:
        told = f"{pool.asked} asks for {wanted} without NVIDIA's driver, which TensorFlow needs to see it."
        yield warning(told, "Add ;install-nvidia-driver.")
    yield _fitted(pool, machine, wanted)


def _fitted(pool: Pool, machine: str | None, wanted: Accelerator) -> Finding:
    candidates = ", ".join(machines_with(wanted)[:3])
    remedy = (
        f"Machines that have it: {candidates}." if candidates else "See cloud.google.com/compute/docs/gpus."
    )
    if not machine:
        return warning(f"{pool.asked} asks for {wanted}, and nothing for a machine type.", remedy)
    surely, why = misfit(machine, wanted)
    if not why:
        return ok(f"workers{'' if pool.for_all else ' that label'} are {pool.name}.")
    told = f"{machine} with {wanted}: {why}."
    return error(told, remedy) if surely else warning(told, "Check that they go together.")


def _check_zones(case: Case) -> Iterator[Finding]:
    for pool in case.pools:
        try:
            yield from _check_zones_of(case, pool)
        except ApiError as e:
            yield untold(f"where {pool.name} is to be had", e, _VIEWER)


def _check_zones_of(case: Case, pool: Pool) -> Iterator[Finding]:
    region, zone = _where(case)
    zones: set[str] | None = None
    wanted = [("machineTypes", pool.machine_type or "")]
    wanted += [("acceleratorTypes", pool.accelerator.type)] if pool.accelerator else []
    for kind, name in wanted:
        if not name:
            continue
        found = ask_all_zones(case, kind, name)
        _learn_cores(case, kind, found)
        if not found:
            yield error(f"Compute Engine has no {name}.", "Check its name.")
            return
        here = {z for z in found if (z == zone if zone else z.startswith(f"{region}-"))}
        if not here:
            others = ", ".join(sorted({z.rpartition("-")[0] for z in found})[:8])
            yield error(f"{name} is not to be had in {zone or region}.", f"Regions that have it: {others}.")
            return
        zones = here if zones is None else zones & here
    if zones:
        yield ok(f"{pool.name} is to be had in {', '.join(sorted(zones))}.")
    elif zones is not None:
        told = f"no zone of {region} has both {pool.machine_type} and {pool.accelerator}."
        yield error(told, "Give another --region.")


def _learn_cores(case: Case, kind: str, found: dict[str, Any]) -> None:
    if kind == "machineTypes":
        case.cores_of |= {item["name"]: int(item["guestCpus"]) for item in found.values()}


def _where(case: Case) -> tuple[str, str]:
    """The region of workers, and their zone if that is given, too."""
    workers = case.options.view_as(WorkerOptions)
    zone = workers.worker_zone or workers.zone or ""
    return zone.rpartition("-")[0] or workers.worker_region or case.region or "", zone


def _check_quotas(case: Case) -> Iterator[Finding]:
    region, _ = _where(case)
    workers = case.options.view_as(WorkerOptions).max_num_workers
    if not workers:
        told = "--max_num_workers is not given: as many workers may start as Dataflow likes and quota allows."
        yield warning(told, "Give it, so that the cost has a bound.")
    try:
        quotas = _free(ask_compute(case, f"/regions/{region}"))
        whole = _free(ask_compute(case, ""))
    except ApiError as e:
        yield untold(f"the quota in {region}", e, _VIEWER)
        return
    needed: dict[str, int] = {}
    for pool in case.pools:
        for metric, each in _needs_of(case, pool).items():
            needed[metric] = max(each, needed.get(metric, 0))
    for metric, each in needed.items():
        if metric in quotas:
            yield _enough(f"{metric} in {region}", quotas[metric], each, workers)
        elif metric in whole:
            yield _enough(f"{metric} of the project", whole[metric], each, workers)
        elif not metric.endswith("_ALL_REGIONS"):
            yield warning(f"the quota {metric} in {region} could not be told.", "See it in the console.")


def _needs_of(case: Case, pool: Pool) -> dict[str, int]:
    """What one worker takes of each quota."""
    needs: dict[str, int] = {}
    machine = pool.machine_type
    if machine and (cores := case.cores_of.get(machine) or cores_by_name(machine)):
        needs |= {core_quota(machine): cores, "CPUS_ALL_REGIONS": cores}
    if case.options.view_as(WorkerOptions).use_public_ips is not False:
        needs["IN_USE_ADDRESSES"] = 1
    if pool.accelerator:
        metric = QUOTAS.get(pool.accelerator.type, f"of {pool.accelerator.type}")
        needs |= {metric: pool.accelerator.count, "GPUS_ALL_REGIONS": pool.accelerator.count}
    return needs


def _free(answer: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """What is left of each quota, and all of it."""
    quotas = answer.get("quotas", ())
    return {q["metric"]: (q["limit"] - q.get("usage", 0), q["limit"]) for q in quotas}


def _enough(name: str, quota: tuple[float, float], each: int, workers: int | None) -> Finding:
    free, limit = quota
    fit = int(free // each)
    told = f"{name}: {free:,.0f} of {limit:,.0f} are free, and a worker takes {each:,}"
    if fit < 1:
        return error(f"{told}: not one can start.", _MORE)
    if workers and fit < workers:
        return warning(f"{told}: {fit:,} of {workers:,} workers can start.", _MORE)
    return ok(f"{told}: enough for {workers or fit:,} workers.")


CHECKS = (
    Check("machines", _check_machines, on_dataflow),
    Check("zones", _check_zones, on_dataflow, always, lacks_api, too_slow=warning),
    Check("quota", _check_quotas, on_dataflow, always, lacks_api, too_slow=warning),
)
