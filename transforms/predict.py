"""Prediction: from pixels to labels."""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from transforms.elements import DecodedImage, Failure, Label, Prediction, host_of_uri
from transforms.errors import ImageError, RunError
from transforms.models.batching import Batcher
from transforms.models.classifier import Classifier, TopK
from transforms.models.reuse import Recent
from transforms.models.runtime import NO_GPU, configure_tensorflow, has_gpu
from transforms.models.spec import ModelSpec
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


def choose_batch_size(wanted: int | None, size_px: int, on_gpu: bool) -> int:
    """The batch size at `size_px`: what is wanted, or the best for the device, bounded by bytes."""
    if wanted:
        return max(1, min(wanted, _MAX_BATCH_BYTES // (size_px * size_px * 3 * 4)))
    if on_gpu:
        fitting = min(_GPU_BATCH_SIZE, _GPU_BATCH_PIXELS // (size_px * size_px))
    else:
        fitting = _CPU_BATCH_PIXELS // (size_px * size_px)
    return 1 << max(0, min(fitting, 64).bit_length() - 1)


def predict_labels(
    images: Sequence[DecodedImage], classifier: Classifier
) -> list[Timed[Prediction | Failure]]:
    """Labels a batch of images.

    Returns:
      For each image its labels or why it has none; the time is its share of the batch's.
    """
    start = time.perf_counter()
    results = classifier.classify([image.pixels for image in images])
    labels = classifier.spec.labels
    rows = [_row_of(image, result, labels) for image, result in zip(images, results, strict=True)]
    share = usec_since(start) // len(images)
    return [Timed(row, share) for row in rows]


def _row_of(image: DecodedImage, result: TopK | ImageError, labels: tuple[str, ...]) -> Prediction | Failure:
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
    )


@dataclass
class PredictLabels(beam.PTransform):
    """Labels each image; one model per process, loaded once, runs full batches.

    Input: `DecodedImage`. Output: `Prediction`. Failures: `predict`.
    Metrics: `predict_usec` (an image's share of its batch), `images_out`, `oom_splits`
    (batches that memory did not suffice for).
    Guarantees: an image on which the model fails costs itself only; padding is never seen.
    With `reuse`, images of the same bytes are inferred once per process, as long as it
    remembers them: its last 65,536.

    Attributes:
      model: What to load.
      top_k: Classes to give for an image.
      batch_size: Images in a full batch; by default computed from the device.
      threads: Cores a process may use; by default all.
      reuse: Whether images of the same bytes share one inference.
      require_gpu: Whether a process without a GPU is an error.
    """

    model: ModelSpec
    top_k: int = 5
    batch_size: int | None = None
    threads: int | None = None
    reuse: bool = False
    require_gpu: bool = False

    def expand(self, images: beam.PCollection[DecodedImage]) -> Outputs:
        """Applies the step."""
        return Outputs(**par_do("Predict", images, _PredictLabelsFn(self), Prediction))


class _Labeler:
    """What a process shares: the model and the queue in front of it."""

    def __init__(self, step: _PredictLabelsFn) -> None:
        threads = step.threads or available_cores()
        on_gpu = has_gpu()
        if step.require_gpu and not on_gpu:
            raise RunError(
                f"{NO_GPU} on the worker {platform.node()!r}, and --require_accelerator asks for one."
            )
        callers = 1 if on_gpu else threads
        configure_tensorflow(callers, threads)
        batch_size = choose_batch_size(step.batch_size, step.model.resize.size_px, on_gpu)
        self.classifier = Classifier(step.model, step.top_k, batch_size)
        # More than one batch waits while each caller runs one, so that a full window always moves.
        self.window_items = (callers + 2) * self.classifier.sizes[-1]
        self.window_bytes = self.window_items * 3 * step.model.resize.size_px**2
        self.batcher = Batcher(self._label, self.classifier.sizes[-1], callers)
        self._recent: Recent[Timed[Prediction | Failure]] | None = (
            Recent(_MAX_RECENT, self.batcher.flush) if step.reuse else None
        )

    def submit(self, image: DecodedImage) -> Future[Timed[Prediction | Failure]]:
        """Queues an image, or waits for another's labels."""
        if self._recent is None:
            return self.batcher.submit(image)
        return self._recent.submit(
            image.sha256, lambda: self.batcher.submit(image), functools.partial(_adapt, image)
        )

    def _label(self, images: Sequence[DecodedImage]) -> list[Timed[Prediction | Failure]]:
        return predict_labels(images, self.classifier)


def _adapt(image: DecodedImage, timed: Timed[Prediction | Failure]) -> Timed[Prediction | Failure]:
    """Makes of another image's labels those of one with the same bytes."""
    if isinstance(timed.value, Failure):
        own = replace(timed.value, ref=image.ref, host=host_of_uri(image.ref.uri))
        return Timed(own, 0)
    return Timed(replace(timed.value, ref=image.ref, version=image.version, reused=True), 0)


class _PredictLabelsFn(OverlappedFn[DecodedImage, Prediction]):
    def __init__(self, step: PredictLabels) -> None:
        self.model = step.model
        self.top_k = step.top_k
        self.batch_size = step.batch_size
        self.threads = step.threads
        self.reuse = step.reuse
        self.require_gpu = step.require_gpu
        self._shared = Shared()
        self._predict_usec = Metrics.distribution(PredictLabels, "predict_usec")
        self._images_out = Metrics.counter(PredictLabels, "images_out")
        self._oom_splits = Metrics.counter(PredictLabels, "oom_splits")
        self._splits_seen = 0

    def setup(self) -> None:
        self._labeler: _Labeler = self._shared.acquire(lambda: _Labeler(self))

    def open_window(self) -> Window[Timed[Prediction | Failure]]:
        return Window(self._labeler.window_items, self._labeler.window_bytes)

    def submit(self, image: DecodedImage) -> tuple[Future[Timed[Prediction | Failure]], int]:
        return self._labeler.submit(image), image.pixels.nbytes

    def finish_bundle(self) -> Iterator:
        yield from super().finish_bundle()
        splits = self._labeler.classifier.splits
        self._oom_splits.inc(splits - self._splits_seen)
        self._splits_seen = splits

    def flush(self) -> None:
        self._labeler.batcher.flush()

    def observe(self, timed: Timed[Prediction | Failure]) -> None:
        self._predict_usec.update(timed.usec)
        if isinstance(timed.value, Prediction):
            self._images_out.inc()
