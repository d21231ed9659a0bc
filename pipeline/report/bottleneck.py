"""What limits a run: fetching, decoding or the model, and what would help."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

from labelbeam.pipeline.config import RunConfig
from labelbeam.transforms.decode import DecodeImages
from labelbeam.transforms.fetch import FetchImages
from labelbeam.transforms.models import meter
from labelbeam.transforms.predict import PredictLabels
from labelbeam.transforms.stage import StageResults

_LOG = logging.getLogger(__name__)

# Runs in which images were on their way for less than this tell nothing.
_SHORTEST_SEC = 5.0
# From this share of the time on, something is busy.
_BUSY = 0.85

# What would help; a phrase that begins with an option is left out where that is given.
_ADVICE = {
    "fetching": ("more --fetch_threads", "more workers", "workers near the images"),
    "decoding": ("--decoding fast", "more cores or workers", "smaller images"),
    "unpacking": ("more cores a labelling worker", "more labelling workers"),
    "model": ("--precision bfloat16", "more cores or workers", "a GPU", "a smaller model"),
    "model on GPU": ("--precision float16", "--batch_size auto", "more GPUs", "a smaller model"),
}


@dataclass(frozen=True, slots=True)
class Work:
    """What a run's processes did, summed up.

    Attributes:
      counts: What `labelbeam.transforms.models.meter` counts, by name.
      times_usec: Microseconds by step, and the number of times it was done.
    """

    counts: Counter[str]
    times_usec: dict[str, tuple[int, int]]


def work_of(result: Any) -> Work | None:
    """Reads a finished run's metrics.

    Args:
      result: What its runner gave.

    Returns:
      None where the runner does not tell: the run is done, whatever becomes of its metrics.
    """
    try:
        found = query_metrics(result)
    except Exception as e:  # runners raise anything
        _LOG.info("The runner gives no metrics: %r", e)
        return None
    times = {
        "fetch": _sum(found, FetchImages, "fetch_usec"),
        "decode": _sum(found, DecodeImages, "decode_usec"),
        "write": _sum(found, StageResults, "write_usec"),
    }
    return Work(counters_of(found, PredictLabels), times)


def query_metrics(result: Any) -> dict:
    """The metrics of a job as they are now.

    Args:
      result: What its runner gave.
    """
    if getattr(result, "_metrics", None):
        result._metrics = None  # Beam's portable runners ask a job once, and give that answer ever after
    return result.metrics().query()


def counters_of(found: dict, transform: type) -> Counter[str]:
    """What a step has counted, by name.

    Args:
      found: What a query of a runner's metrics gave.
      transform: The step.
    """
    counts: Counter[str] = Counter()
    for counter in found["counters"]:
        if counter.key.metric.namespace == namespace_of(transform):
            counts[counter.key.metric.name] += counter.committed or counter.attempted or 0
    return counts


def namespace_of(transform: type) -> str:
    """What a step's metrics are filed under."""
    return f"{transform.__module__}.{transform.__qualname__}"


def _sum(found: dict, transform: type, name: str) -> tuple[int, int]:
    total = count = 0
    for distribution in found["distributions"]:
        metric, seen = distribution.key.metric, distribution.committed or distribution.attempted
        if seen and (metric.namespace, metric.name) == (namespace_of(transform), name):
            total, count = total + seen.sum, count + seen.count
    return total, count


def find_limit(work: Work, split: bool = False) -> str:
    """What the rest waited for: `fetching`, `decoding`, `unpacking`, `model` or `model on GPU`.

    Args:
      work: What was done.
      split: Whether the model had workers of its own, which wait for nothing but unpacking.
    """
    on_gpu = work.counts[meter.ON_GPU] > 0
    model, decode = _model_share(work), _decode_share(work)
    the_model = "model on GPU" if on_gpu else "model"
    if model >= _BUSY:
        return the_model
    if split:
        return "unpacking"
    if decode >= _BUSY:
        return "decoding"
    if not on_gpu and model + decode >= _BUSY:  # they share the cores
        return the_model if model >= decode else "decoding"
    return "fetching"


def _model_share(work: Work) -> float:
    return work.counts[meter.BUSY_USEC] / max(1, work.counts[meter.OPEN_USEC])


def _decode_share(work: Work) -> float:
    return work.times_usec["decode"][0] / max(1, work.counts[meter.CORE_USEC])


def describe_work(work: Work, config: RunConfig) -> list[str]:
    """Tells what limits a run, unless it was too short to tell, what it tried out, and what went wrong."""
    counts = work.counts
    lines = []
    if counts[meter.WALL_USEC] >= 1e6 * _SHORTEST_SEC and counts[meter.SLOTS_RUN]:
        lines += [_limit(work, config), *_times(work)]
    lines += [*_found(counts, config), *_warnings(counts)]
    return ["", *lines] if lines else []


def _limit(work: Work, config: RunConfig) -> str:
    split = config.predict.layout == "split"
    limit, where = find_limit(work, split), "the labelling side" if split else "this run"
    given = {
        "--precision": config.predict.precision != "float32",
        "--batch_size": config.predict.batch_size is not None,
        "--decoding": config.model.decoding == "fast",
    }
    *some, last = [phrase for phrase in _ADVICE[limit] if not given.get(phrase.split()[0])]
    return f"What limits {where}: {limit}. What helps: {', '.join(some)} or {last}."


def _times(work: Work) -> list[str]:
    counts = work.counts
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


def _found(counts: Counter[str], config: RunConfig) -> list[str]:
    lines = []
    if config.predict.batch_size == "auto" and counts[meter.LOADED]:
        lines.append(f"  --batch_size auto found {counts[meter.BATCH_SIZE] / counts[meter.LOADED]:,.0f}")
    if counts[meter.COMPARED]:
        kept = counts[meter.AGREED] / counts[meter.COMPARED]
        lines.append(f"  the faster model keeps the best class of {kept:.1%} of the sample photos")
    return lines


def _warnings(counts: Counter[str]) -> list[str]:
    loaded = counts[meter.LOADED]
    said = {
        meter.OOM_SPLITS: "batches were split for want of memory: a smaller --batch_size avoids that",
        meter.NOT_FROZEN: f"of {loaded} models could not be frozen, and are slower (--verbose tells why)",
        meter.NOT_OPTIMISED: f"of {loaded} models run without --precision or --xla (--verbose tells why)",
    }
    return [f"  {counts[name]:,} {words}" for name, words in said.items() if counts[name]]
