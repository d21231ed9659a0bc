"""What limits a run: the network, decoding or the model, and what would help."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from transforms.decode import DecodeImages
from transforms.fetch import FetchImages
from transforms.models import meter
from transforms.predict import PredictLabels
from transforms.stage import StageResults

# Runs in which images were on their way for less than this tell nothing.
_SHORTEST_SEC = 5.0
# From this share of the time on, something is busy.
_BUSY = 0.85

_ADVICE = {
    "network": "More --fetch_threads or workers help, and workers near the images.",
    "decoding": "More cores or workers help, and smaller images.",
    "model": "--precision bfloat16, more cores or workers, a GPU or a smaller model help.",
    "model on GPU": "--precision float16, --batch_size auto, more GPUs or a smaller model help.",
}


@dataclass(frozen=True, slots=True)
class Work:
    """What a run's processes did, summed up.

    Attributes:
      counts: What `transforms.models.meter` counts, by name.
      times_msec: Milliseconds by step, and the number of times it was done.
    """

    counts: Counter[str]
    times_msec: dict[str, tuple[float, int]]


def work_of(result: Any) -> Work:
    """Reads a finished run's metrics; `result` is what its runner gave."""
    found = result.metrics().query()
    counts: Counter[str] = Counter()
    for counter in found["counters"]:
        if counter.key.metric.namespace == _namespace(PredictLabels):
            counts[counter.key.metric.name] += counter.committed or counter.attempted or 0
    times = {
        "fetch": _sum(found, FetchImages, "fetch_msec"),
        "decode": _sum(found, DecodeImages, "decode_msec"),
        "write": _sum(found, StageResults, "write_msec"),
    }
    return Work(counts, times)


def _namespace(transform: type) -> str:
    return f"{transform.__module__}.{transform.__qualname__}"


def _sum(found: dict, transform: type, name: str) -> tuple[float, int]:
    total, count = 0.0, 0
    for distribution in found["distributions"]:
        metric = distribution.key.metric
        if (metric.namespace, metric.name) == (_namespace(transform), name):
            seen = distribution.committed or distribution.attempted
            total, count = total + seen.sum, count + seen.count
    return total, count


def find_limit(work: Work) -> str:
    """What the rest waited for: `network`, `decoding`, `model` or `model on GPU`."""
    on_gpu = work.counts[meter.ON_GPU] > 0
    model, decode = _model_share(work), _decode_share(work)
    the_model = "model on GPU" if on_gpu else "model"
    if model >= _BUSY:
        return the_model
    if decode >= _BUSY:
        return "decoding"
    if not on_gpu and model + decode >= _BUSY:  # they share the cores
        return the_model if model >= decode else "decoding"
    return "network"


def _model_share(work: Work) -> float:
    return work.counts[meter.BUSY_USEC] / max(1, work.counts[meter.OPEN_USEC])


def _decode_share(work: Work) -> float:
    return 1000 * work.times_msec["decode"][0] / max(1, work.counts[meter.CORE_USEC])


def describe_limit(work: Work) -> list[str]:
    """Tells what limits a run, for its summary; nothing of one that was too short to tell."""
    counts = work.counts
    if counts[meter.WALL_USEC] < 1e6 * _SHORTEST_SEC or not counts[meter.PLACES_RUN]:
        return []
    limit = find_limit(work)
    images = max(1, counts[meter.IMAGES_RUN])
    times = {name: total / max(1, n) for name, (total, n) in work.times_msec.items()}
    times["write"] = work.times_msec["write"][0] / images
    model_msec = counts[meter.BUSY_USEC] / 1000 / images
    waited, fill = 1 - _model_share(work), images / counts[meter.FULL_PLACES]
    padding = 1 - images / counts[meter.PLACES_RUN]
    return [
        "",
        f"What limits this run: the {limit}. {_ADVICE[limit]}",
        f"  an image took {times['fetch']:.1f} ms to fetch, {times['decode']:.1f} to decode, {model_msec:.1f}"
        f" in the model, {times['write']:.2f} to write",
        f"  the model waited {max(0.0, waited):.0%} of the time; its batches were {fill:.0%} full, and "
        f"{padding:.1%} of what it computed was padding",
        *_warnings(counts),
    ]


def _warnings(counts: Counter[str]) -> list[str]:
    loaded = counts[meter.LOADED]
    said = {
        meter.OOM_SPLITS: "batches were split for want of memory: a smaller --batch_size avoids that",
        meter.NOT_FROZEN: f"of {loaded} models could not be frozen, and are slower (--verbose tells why)",
        meter.NOT_OPTIMISED: f"of {loaded} models run without --precision or --xla (--verbose tells why)",
    }
    return [f"  {counts[name]:,} {words}" for name, words in said.items() if counts[name]]
