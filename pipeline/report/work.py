"""The work of a run's worker processes, from the metrics of its runner."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

from labelbeam.pipeline.runners.errors import FOREIGN_ERRORS
from labelbeam.transforms.load import LoadImages
from labelbeam.transforms.predict import PredictLabels
from labelbeam.transforms.stage import StageResults

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """Totals over a run's worker processes.

    Attributes:
      counts: Counters of `labelbeam.transforms.models.meter`, by name.
      times_usec: Microseconds spent in a step and the number of calls, by name of the step.
    """

    counts: Counter[str]
    times_usec: dict[str, tuple[int, int]]


def work_of(result: Any) -> Work | None:
    """Read the metrics of a finished run from the runner's result; None if the runner has none."""
    try:
        metrics = query_metrics(result)
    except FOREIGN_ERRORS as e:
        # Not raised, because the results are published already.
        _LOG.info("The runner returned no metrics: %r", e)
        return None
    times = {
        "fetch": _sum(metrics, LoadImages, "fetch_usec"),
        "decode": _sum(metrics, LoadImages, "decode_usec"),
        "write": _sum(metrics, StageResults, "write_usec"),
    }
    return Work(counters_of(metrics, PredictLabels), times)


def query_metrics(result: Any) -> dict:
    """Query the present metrics of a job."""
    if getattr(result, "_metrics", None):
        # Reset, because Beam's portable runners cache the first response and would return it for ever.
        result._metrics = None
    return result.metrics().query()


def counters_of(metrics: dict, transform: type) -> Counter[str]:
    """Return a step's counters by name, from the result of `query_metrics`."""
    counts: Counter[str] = Counter()
    for counter in metrics["counters"]:
        if counter.key.metric.namespace == namespace_of(transform):
            # Attempted values count bundles that failed, too, but not every runner has committed ones.
            counts[counter.key.metric.name] += counter.committed or counter.attempted or 0
    return counts


def namespace_of(transform: type) -> str:
    """Return the namespace of a step's metrics."""
    return f"{transform.__module__}.{transform.__qualname__}"


def _sum(metrics: dict, transform: type, name: str) -> tuple[int, int]:
    total = count = 0
    for distribution in metrics["distributions"]:
        metric, values = distribution.key.metric, distribution.committed or distribution.attempted
        if values and (metric.namespace, metric.name) == (namespace_of(transform), name):
            total, count = total + values.sum, count + values.count
    return total, count
