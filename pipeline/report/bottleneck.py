"""The bottleneck of a run: fetching, decoding or the model, with remedies and the numbers behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.report.work import Work
from labelbeam.transforms.models import meter

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
STEPS = tuple(_REMEDIES)


class _Stage(NamedTuple):
    """Words for an image's time in a stage, and decimal places of the milliseconds."""

    words: str
    digits: int


_STAGES = {
    "fetch": _Stage("to fetch", 1),
    "decode": _Stage("to decode", 1),
    "model": _Stage("in the model", 1),
    "write": _Stage("to write", 2),
}


@dataclass(frozen=True, slots=True)
class Performance:
    """Numbers of a run's work. Shares are in [0, 1]; a number that was not measured is None.

    Attributes:
      bottleneck: Slowest step; None if the run was too short to name one.
      remedies: Remedies for the bottleneck.
      image_ms: Mean time of an image in each stage that was measured: fetch, decode, model, write.
      model_waited: Share of the time with images under way in which the model waited for images.
      batch_fill: Share of the slots of full batches that had an image.
      padding: Share of the computed slots that had no image.
      batch_size: Slots of a full batch, the mean of all devices.
      agreement: Share of the sample photos whose best class the faster model keeps.
      models: Number of loaded models, one for each device of each process.
      models_on_gpu: Of these, models on GPUs.
      models_not_frozen: Of these, models that run slower because they could not be frozen.
      models_not_optimised: Of these, models that run without the requested precision or XLA.
      oom_splits: Batches that were split because memory ran out.
      warnings: Troubles in words, with remedies.
    """

    bottleneck: str | None
    remedies: tuple[str, ...]
    image_ms: Mapping[str, float]
    model_waited: float | None
    batch_fill: float | None
    padding: float | None
    batch_size: float | None
    agreement: float | None
    models: int
    models_on_gpu: int
    models_not_frozen: int
    models_not_optimised: int
    oom_splits: int
    warnings: tuple[str, ...]


def measure_performance(work: Work, config: RunConfig) -> Performance:
    """Compute the numbers of a run's work."""
    counts = work.counts
    ran = counts[meter.SLOTS_RUN] > 0
    is_long = counts[meter.WALL_USEC] >= 1e6 * _SHORTEST_SEC
    bottleneck = find_bottleneck(work, config.predict.layout == "split") if ran and is_long else None
    return Performance(
        bottleneck=bottleneck,
        remedies=_remedies(bottleneck, config) if bottleneck else (),
        image_ms=_image_ms(work),
        model_waited=max(0.0, 1 - _model_share(work)) if ran else None,
        batch_fill=_share(counts, meter.IMAGES_RUN, meter.FULL_SLOTS),
        padding=1 - counts[meter.IMAGES_RUN] / counts[meter.SLOTS_RUN] if ran else None,
        batch_size=_share(counts, meter.BATCH_SIZE, meter.LOADED),
        agreement=_share(counts, meter.AGREED, meter.COMPARED),
        models=counts[meter.LOADED],
        models_on_gpu=counts[meter.ON_GPU],
        models_not_frozen=counts[meter.NOT_FROZEN],
        models_not_optimised=counts[meter.NOT_OPTIMISED],
        oom_splits=counts[meter.OOM_SPLITS],
        warnings=tuple(_warnings(counts)),
    )


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


def _share(counts: Counter[str], part: str, whole: str) -> float | None:
    return counts[part] / counts[whole] if counts[whole] else None


def _image_ms(work: Work) -> dict[str, float]:
    images = work.counts[meter.IMAGES_RUN]
    # Fetching and decoding are averages over their own calls, because some images fail before the model.
    totals = {
        "fetch": work.times_usec["fetch"],
        "decode": work.times_usec["decode"],
        "model": (work.counts[meter.BUSY_USEC], images),
        "write": (work.times_usec["write"][0], images),
    }
    return {stage: usec / 1000 / n for stage, (usec, n) in totals.items() if n}


def _remedies(bottleneck: str, config: RunConfig) -> tuple[str, ...]:
    is_set = {
        "--precision": config.predict.precision != "float32",
        "--batch_size": config.predict.batch_size is not None,
        "--decoding": config.model.decoding == "fast",
    }
    return tuple(remedy for remedy in _REMEDIES[bottleneck] if not is_set.get(remedy.split()[0]))


def _warnings(counts: Counter[str]) -> Iterator[str]:
    loaded, splits = counts[meter.LOADED], counts[meter.OOM_SPLITS]
    troubles = {
        meter.OOM_SPLITS: f"{'batch was' if splits == 1 else 'batches were'} split because memory ran out: "
        "set a smaller --batch_size",
        meter.NOT_FROZEN: f"of {loaded} models could not be frozen and ran slower: see the log (--verbose)",
        meter.NOT_OPTIMISED: f"of {loaded} models ran without --precision or --xla: see the log (--verbose)",
    }
    return (f"{counts[name]:,} {text}" for name, text in troubles.items() if counts[name])


def describe_performance(performance: Performance, config: RunConfig) -> list[str]:
    """Describe a run's bottleneck, unless the run was too short, its automatic choices, and its troubles."""
    lines = []
    if performance.bottleneck:
        where = "the labelling side" if config.predict.layout == "split" else "this run"
        *some, last = performance.remedies
        remedies = f"{', '.join(some)} or {last}"
        lines.append(f"Bottleneck of {where}: {performance.bottleneck}. Remedies: {remedies}.")
        lines += _describe_times(performance)
    if config.predict.batch_size == "auto" and performance.batch_size:
        lines.append(f"  --batch_size auto chose {performance.batch_size:,.0f}")
    if performance.agreement is not None:
        kept = f"{performance.agreement:.1%}"
        lines.append(f"  the faster model keeps the best class of {kept} of the sample photos")
    lines += [f"  {warning}" for warning in performance.warnings]
    return ["", *lines] if lines else []


def _describe_times(performance: Performance) -> list[str]:
    times = ", ".join(
        f"{ms:.{_STAGES[stage].digits}f} {_STAGES[stage].words}" for stage, ms in performance.image_ms.items()
    )
    return [
        # The unit stands behind the first number alone.
        f"  an image took {times.replace(' ', ' ms ', 1)}",
        f"  the model waited {performance.model_waited:.0%} of the time; its batches were "
        f"{performance.batch_fill:.0%} full, and {performance.padding:.1%} of what it computed was padding",
    ]
