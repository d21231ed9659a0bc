"""Prediction: from pixels to labels."""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Literal

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from transforms.elements import DecodedImage, Failure, Label, Prediction, host_of_uri
from transforms.errors import ImageError, RunError
from transforms.models.batching import Batcher
from transforms.models.classifier import Classifier, TopK
from transforms.models.meter import (
    CORE_USEC,
    COUNTS,
    LOADED,
    NOT_FROZEN,
    NOT_OPTIMISED,
    ON_GPU,
    OPEN_USEC,
    WALL_USEC,
)
from transforms.models.optimise import Optimisation
from transforms.models.presets import EMBEDDING
from transforms.models.reuse import Recent
from transforms.models.runtime import NO_GPU, configure_tensorflow, device_kind, has_gpu, model_devices
from transforms.models.spec import ModelSpec
from transforms.models.tuning import tuned_batch_size
from transforms.overlap import (
    Outputs,
    OverlappedFn,
    Timed,
    Window,
    available_cores,
    failure_of,
    par_do,
    usec_since,
)

# Pixels in a full batch: measured best on CPU, 8 at 224 px and 1 at 600 px.
_CPU_BATCH_PIXELS = 8 * 224 * 224
# On a GPU, 64 up to 424 px and 32 at 600 px: an estimate, not measured.
_GPU_BATCH_SIZE, _GPU_BATCH_PIXELS = 64, 32 * 600 * 600
# Images whose labels a process remembers for others of the same bytes: some 100 MB.
_MAX_RECENT = 1 << 16
# Most bytes of one batch as float32, whatever batch size is asked for.
_MAX_BATCH_BYTES = 1 << 30
# The largest batches that are tried, on CPUs (larger ones gain nothing, measured) and on GPUs (an estimate).
_LARGEST_TRIAL = {False: 64, True: 512}
# Batches of one GPU at once: one runs while the other's pixels are brought to the device.
_GPU_CALLERS = 2

BatchSize = int | Literal["auto"] | None


def choose_batch_size(wanted: int | None, size_px: int, on_gpu: bool) -> int:
    """The batch size at `size_px`: what is wanted, or the best for the device, bounded by bytes."""
    if wanted:
        return _bounded(wanted, size_px)
    if on_gpu:
        fitting = min(_GPU_BATCH_SIZE, _GPU_BATCH_PIXELS // (size_px * size_px))
    else:
        fitting = _CPU_BATCH_PIXELS // (size_px * size_px)
    return 1 << max(0, min(fitting, 64).bit_length() - 1)


def _bounded(batch_size: int, size_px: int) -> int:
    return max(1, min(batch_size, _MAX_BATCH_BYTES // (size_px * size_px * 3 * 4)))


def predict_labels(
    images: Sequence[DecodedImage], classifier: Classifier, keep_outputs: bool = False
) -> list[Timed[Prediction | Failure]]:
    """Labels a batch of images.

    Args:
      images: What the model is called with.
      classifier: The model.
      keep_outputs: Whether rows get what the model gives for every class, too.

    Returns:
      For each image its labels or why it has none; the time is its share of the batch's.
    """
    start = time.perf_counter()
    results = classifier.classify([image.pixels for image in images])
    labels, keep = classifier.spec.labels, keep_outputs or classifier.spec.outputs == EMBEDDING
    rows = [_row_of(image, result, labels, keep) for image, result in zip(images, results, strict=True)]
    share = usec_since(start) // len(images)
    return [Timed(row, share) for row in rows]


def _row_of(
    image: DecodedImage, result: TopK | ImageError, labels: tuple[str, ...], keep_outputs: bool
) -> Prediction | Failure:
    if isinstance(result, ImageError):
        return failure_of(image.ref, "predict", result)
    best = zip(result.class_ids.tolist(), result.scores.tolist(), strict=True)
    return Prediction(
        ref=image.ref,
        labels=tuple(Label(class_id, labels[class_id], score) for class_id, score in best),
        width_px=image.width_px,
        height_px=image.height_px,
        format=image.format,
        size_bytes=image.size_bytes,
        sha256=image.sha256,
        version=image.version,
        outputs=result.outputs.astype("<f4").tobytes() if keep_outputs else b"",
    )


@dataclass
class PredictLabels(beam.PTransform):
    """Labels each image; one model per process and device, loaded once, runs full batches.

    Input: `DecodedImage`. Output: `Prediction`. Failures: `predict`.
    Metrics: `predict_usec` (an image's share of its batch), `images_out`, and what
    `transforms.models.meter` counts.
    Guarantees: an image on which the model fails costs itself only; padding is never seen.
    The process has one queue of full batches, from which every device takes when it is free.
    With `reuse`, images of the same bytes are inferred once per process, as long as it
    remembers them: its last 65,536.

    Attributes:
      model: What to load.
      top_k: Classes to give for an image.
      batch_size: Images in a full batch; by default computed from the device, `auto` by trial.
      threads: Cores a process may use; by default all.
      reuse: Whether images of the same bytes share one inference.
      require_gpu: Whether a process without a GPU is an error.
      optimisation: How the model may be made faster.
      keep_outputs: Whether rows get what the model gives for every class, too.
    """

    model: ModelSpec
    top_k: int = 5
    batch_size: BatchSize = None
    threads: int | None = None
    reuse: bool = False
    require_gpu: bool = False
    optimisation: Optimisation = Optimisation()  # noqa: RUF009  (frozen)
    keep_outputs: bool = False

    def expand(self, images: beam.PCollection[DecodedImage]) -> Outputs:
        """Applies the step."""
        return Outputs(**par_do("Predict", images, _PredictLabelsFn(self), Prediction))


class _Labeler:
    """What a process shares: the model on each device, and the queue in front of them."""

    def __init__(self, step: PredictLabels) -> None:
        self._threads = step.threads or available_cores()
        on_gpu = has_gpu()
        _check_device(step, on_gpu)
        at_once = 1 if on_gpu else self._threads
        configure_tensorflow(at_once, self._threads)
        classifiers = _load_models(step, on_gpu, at_once)
        self._meter = classifiers[0].meter
        self._at_once = at_once * len(classifiers)
        batch_size = classifiers[0].sizes[-1]
        self.callers = [
            functools.partial(predict_labels, classifier=classifier, keep_outputs=step.keep_outputs)
            for classifier in classifiers
            for _ in range(_GPU_CALLERS if on_gpu else at_once)
        ]
        # More than one batch waits while each caller runs one, so that a full window always moves.
        self.window_items = (len(self.callers) + 2) * batch_size
        self.window_bytes = self.window_items * 3 * step.model.resize.size_px**2
        self.batcher: Batcher[DecodedImage, Timed[Prediction | Failure]] = Batcher(self.callers, batch_size)
        self._recent: Recent[Timed[Prediction | Failure]] | None = (
            Recent(_MAX_RECENT, self.batcher.flush) if step.reuse else None
        )

    def take_counts(self) -> dict[str, int]:
        """What the process's model did since this was last asked."""
        usec = round(1e6 * self.batcher.open_sec())
        self._meter.add(**{WALL_USEC: usec, OPEN_USEC: self._at_once * usec, CORE_USEC: self._threads * usec})
        return self._meter.take()

    def submit(self, image: DecodedImage) -> Future[Timed[Prediction | Failure]]:
        """Queues an image, or waits for another's labels."""
        if self._recent is None:
            return self.batcher.submit(image)
        return self._recent.submit(
            image.sha256, lambda: self.batcher.submit(image), functools.partial(_adapt, image)
        )


def _check_device(step: PredictLabels, on_gpu: bool) -> None:
    where = f"on the worker {platform.node()!r}"
    if step.require_gpu and not on_gpu:
        raise RunError(f"{NO_GPU} {where}, and --require_accelerator asks for one.")
    if unfit := step.optimisation.unfit(on_gpu):
        raise RunError(f"{unfit[:-1]} ({where}).")


def _load_models(step: PredictLabels, on_gpu: bool, at_once: int) -> list[Classifier]:
    """The model on each device of the process."""
    size_px, wanted = step.model.resize.size_px, step.batch_size
    batch_size = choose_batch_size(None if wanted == "auto" else wanted, size_px, on_gpu)
    classifiers: list[Classifier] = []
    for device in model_devices():
        first = classifiers[0] if classifiers else None
        classifiers.append(
            Classifier(step.model, step.top_k, batch_size, step.optimisation, device, on_gpu, first)
        )
        if wanted == "auto" and first is None:
            batch_size = _tune(classifiers[0], step, on_gpu, at_once)
    graphs = [classifier.graph for classifier in classifiers]
    classifiers[0].meter.add(
        **{
            LOADED: len(graphs),
            ON_GPU: len(graphs) * on_gpu,
            NOT_FROZEN: sum(not graph.frozen for graph in graphs),
            NOT_OPTIMISED: sum(not graph.optimised for graph in graphs),
        }
    )
    return classifiers


def _tune(classifier: Classifier, step: PredictLabels, on_gpu: bool, at_once: int) -> int:
    """Leaves the model with the best batch size for its device, by trial."""
    if not step.model.contract.batch:
        how = {"precision": step.optimisation.precision, "xla": step.optimisation.xla}
        facts = {"device": device_kind(), "size_px": step.model.resize.size_px, **how}
        largest = _bounded(_LARGEST_TRIAL[on_gpu], step.model.resize.size_px)
        callers = _GPU_CALLERS if on_gpu else at_once
        classifier.warm_up(tuned_batch_size(classifier, callers, largest, facts))
    return classifier.sizes[-1]


def _adapt(image: DecodedImage, timed: Timed[Prediction | Failure]) -> Timed[Prediction | Failure]:
    """Makes of another image's labels those of one with the same bytes."""
    if isinstance(timed.value, Failure):
        own = replace(timed.value, ref=image.ref, host=host_of_uri(image.ref.uri))
        return Timed(own, 0)
    return Timed(replace(timed.value, ref=image.ref, version=image.version, reused=True), 0)


class _PredictLabelsFn(OverlappedFn[DecodedImage, Prediction]):
    def __init__(self, step: PredictLabels) -> None:
        self._make = functools.partial(_Labeler, replace(step))  # without what Beam assigned to it
        self._shared = Shared()
        self._predict_usec = Metrics.distribution(PredictLabels, "predict_usec")
        self._images_out = Metrics.counter(PredictLabels, "images_out")
        self._counters = {name: Metrics.counter(PredictLabels, name) for name in COUNTS}

    def setup(self) -> None:
        self._labeler: _Labeler = self._shared.acquire(self._make)

    def open_window(self) -> Window[Timed[Prediction | Failure]]:
        return Window(self._labeler.window_items, self._labeler.window_bytes)

    def submit(self, image: DecodedImage) -> tuple[Future[Timed[Prediction | Failure]], int]:
        return self._labeler.submit(image), image.pixels.nbytes

    def finish_bundle(self) -> Iterator:
        yield from super().finish_bundle()
        for name, count in self._labeler.take_counts().items():
            self._counters[name].inc(count)

    def flush(self) -> None:
        self._labeler.batcher.flush()

    def observe(self, timed: Timed[Prediction | Failure]) -> None:
        self._predict_usec.update(timed.usec)
        if isinstance(timed.value, Prediction):
            self._images_out.inc()
