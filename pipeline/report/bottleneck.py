"""The bottleneck of a run: fetching, decoding or the model, and remedies."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.runners.errors import FOREIGN_ERRORS
from labelbeam.transforms.load import LoadImages
from labelbeam.transforms.models import meter
from labelbeam.transforms.predict import PredictLabels
from labelbeam.transforms.stage import StageResults

_LOG = logging.getLogger(__name__)

# Least time with images under way. Shorter runs get no bottleneck, because start-up dominates their shares.
_SHORTEST_SEC = 5.0
# Share of the time from which on a step counts as busy.
_BUSY = 0.85

# Remedies by bottleneck. One that begins with an option is left out of the advice if the option is set.
_REMEDIES = {
    "fetching": (
        "more --fetch_threads",
        "more --host_connections if few hosts serve the images and can bear them",
        "more workers",
        "workers near the images",
    ),
    "decoding": ("--decoding fast", "more cores or workers", "smaller images"),
    "unpacking": ("more cores a labelling worker", "more labelling workers"),
    "model": ("--precision bfloat16", "more cores or workers", "a GPU", "a smaller model"),
    "model on GPU": ("--precision float16", "--batch_size auto", "more GPUs", "a smaller model"),
}


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


def find_bottleneck(work: Work, split: bool = False) -> str:
    """Return the slowest step: `fetching`, `decoding`, `unpacking`, `model` or `model on GPU`.

    With `split`, the model had workers of its own, which only wait for unpacking.
    """
    on_gpu = work.counts[meter.ON_GPU] > 0
    model, decode = _model_share(work), _decode_share(work)
    model_name = "model on GPU" if on_gpu else "model"
    if model >= _BUSY:
        return model_name
    if split:  # the decoders have other workers, so their share shows nothing about the model's wait
        return "unpacking"
    if decode >= _BUSY:
        return "decoding"
    # Shares are added on CPUs only, because there the model and the decoders compete for the same cores.
    if not on_gpu and model + decode >= _BUSY:
        return model_name if model >= decode else "decoding"
    return "fetching"


def _model_share(work: Work) -> float:
    # Open time counts each call that may run at once, so several callers can't exceed a share of 1.
    return work.counts[meter.BUSY_USEC] / max(1, work.counts[meter.OPEN_USEC])


def _decode_share(work: Work) -> float:
    return work.times_usec["decode"][0] / max(1, work.counts[meter.CORE_USEC])


def describe_work(work: Work, config: RunConfig) -> list[str]:
    """Describe a run's bottleneck, unless the run was too short, its automatic choices, and its troubles."""
    counts = work.counts
    lines = []
    if counts[meter.WALL_USEC] >= 1e6 * _SHORTEST_SEC and counts[meter.SLOTS_RUN]:
        lines += [_describe_bottleneck(work, config), *_describe_times(work)]
    lines += [*_describe_choices(counts, config), *_warnings(counts)]
    return ["", *lines] if lines else []


def _describe_bottleneck(work: Work, config: RunConfig) -> str:
    split = config.predict.layout == "split"
    bottleneck, where = find_bottleneck(work, split), "the labelling side" if split else "this run"
    is_set = {
        "--precision": config.predict.precision != "float32",
        "--batch_size": config.predict.batch_size is not None,
        "--decoding": config.model.decoding == "fast",
    }
    *some, last = [remedy for remedy in _REMEDIES[bottleneck] if not is_set.get(remedy.split()[0])]
    return f"Bottleneck of {where}: {bottleneck}. Remedies: {', '.join(some)} or {last}."


def _describe_times(work: Work) -> list[str]:
    counts = work.counts
    # Fetching and decoding are averages over their own calls, because some images fail before the model.
    images = max(1, counts[meter.IMAGES_RUN])
    fetch, decode = (
        total / 1000 / max(1, n) for total, n in (work.times_usec[k] for k in ("fetch", "decode"))
    )
    model, write = (usec / 1000 / images for usec in (counts[meter.BUSY_USEC], work.times_usec["write"][0]))
    waited, fill = max(0.0, 1 - _model_share(work)), images / counts[meter.FULL_SLOTS]
    padding = 1 - images / counts[meter.SLOTS_RUN]
    return [
        f"  an image took {fetch:.1f} ms to fetch, {decode:.1f} to decode, {model:.1f} in the model, "
        f"{write:.2f} to write",
        f"  the model waited {waited:.0%} of the time; its batches were {fill:.0%} full, and "
        f"{padding:.1%} of what it computed was padding",
    ]


def _describe_choices(counts: Counter[str], config: RunConfig) -> list[str]:
    lines = []
    if config.predict.batch_size == "auto" and counts[meter.LOADED]:
        lines.append(f"  --batch_size auto chose {counts[meter.BATCH_SIZE] / counts[meter.LOADED]:,.0f}")
    if counts[meter.COMPARED]:
        kept = counts[meter.AGREED] / counts[meter.COMPARED]
        lines.append(f"  the faster model keeps the best class of {kept:.1%} of the sample photos")
    return lines


def _warnings(counts: Counter[str]) -> list[str]:
    loaded, splits = counts[meter.LOADED], counts[meter.OOM_SPLITS]
    troubles = {
        meter.OOM_SPLITS: f"{'batch was' if splits == 1 else 'batches were'} split because memory ran out: "
        "set a smaller --batch_size",
        meter.NOT_FROZEN: f"of {loaded} models could not be frozen and ran slower: see the log (--verbose)",
        meter.NOT_OPTIMISED: f"of {loaded} models ran without --precision or --xla: see the log (--verbose)",
    }
    return [f"  {counts[name]:,} {text}" for name, text in troubles.items() if counts[name]]
