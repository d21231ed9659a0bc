"""Prediction: from pixels to labels."""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from labelbeam.transforms.attempts import failure_of
from labelbeam.transforms.elements import DecodedImage, Failure, Label, Prediction, host_of_uri
from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.images.regions import region_of
from labelbeam.transforms.models.batching import Batcher
from labelbeam.transforms.models.call_checks import model_calls, never_returns, run_in_time
from labelbeam.transforms.models.classifier import Classifier, TopK
from labelbeam.transforms.models.devices import BatchSize, Models, load_models
from labelbeam.transforms.models.heads import DEFAULT_THRESHOLD, MULTILABEL
from labelbeam.transforms.models.meter import CORE_USEC, COUNTS, OPEN_USEC, WALL_USEC
from labelbeam.transforms.models.optimise import Optimisation
from labelbeam.transforms.models.reuse import Recent
from labelbeam.transforms.models.spec import ModelSpec
from labelbeam.transforms.outcomes import Outcomes, par_do
from labelbeam.transforms.process import available_cores, compute_pool
from labelbeam.transforms.window import OverlappedFn, Window, alarm

# Predictions that a process keeps for images of the same bytes, and the size of one without outputs: 100 MB
# in all.
_MAX_RECENT, _RECENT_BYTES = 1 << 16, 1536
# Time between two checks of the model's calls.
_WATCH_SEC = 5.0


def predict_labels(
    images: Sequence[DecodedImage],
    classifier: Classifier,
    keep_outputs: bool = False,
    threshold: float = DEFAULT_THRESHOLD,
) -> list[Prediction | Failure]:
    """Return labels or failure of each image of a batch, in their order; options as in `PredictLabels`."""
    results = classifier.classify([image.pixels for image in images])
    labels = classifier.spec.labels
    # Rounded to float32, because scores are: a score equal to the threshold reaches it.
    least = float(np.float32(threshold)) if classifier.spec.head.kind == MULTILABEL else 0.0
    return [
        _row_of(image, result, labels, keep_outputs, least)
        for image, result in zip(images, results, strict=True)
    ]


def _row_of(
    image: DecodedImage,
    result: TopK | ImageError,
    labels: tuple[str, ...],
    keep_outputs: bool,
    least_score: float,
) -> Prediction | Failure:
    if isinstance(result, ImageError):
        return failure_of(image.ref, "predict", result)
    best = zip(result.class_ids.tolist(), result.scores.tolist(), strict=True)
    return Prediction(
        ref=image.ref,
        labels=tuple(Label(n, labels[n], score) for n, score in best if score >= least_score),
        metadata=image.metadata,
        outputs=result.outputs.astype("<f4").tobytes() if keep_outputs else b"",
    )


@dataclass
class PredictLabels(beam.PTransform):
    """The step that labels images, with one model per process and device, in full batches.

    Input: `DecodedImage`. Output: `Prediction`. Failures: `predict`.
    Metrics: the counts of `labelbeam.transforms.models.meter`.
    Guarantees: an image on which the model fails costs itself only; padding reaches no row.
    A process has one queue of full batches, from which each free device takes.
    With `reuse`, images of the same bytes are inferred once per process, among its last 65,536 different
    images (fewer with outputs).

    Attributes:
      model: The model to load.
      top_k: Labels of an image.
      batch_size: Images in a full batch; by default computed from the device, `auto` by trial.
      threads: Cores that a process uses; by default all.
      reuse: Whether images of the same bytes share one inference.
      require_gpu: Whether a process without a GPU is an error.
      optimisation: Permitted ways to make the model faster.
      keep_outputs: Whether rows get the model's outputs: logits, probabilities or embedding.
      threshold: Least score of a label, in [0, 1]; for multi-label heads alone.
      timeout_sec: Longest time of one call of the model; a longer call ends the run.
    """

    model: ModelSpec
    top_k: int = 5
    batch_size: BatchSize = None
    threads: int | None = None
    reuse: bool = False
    require_gpu: bool = False
    optimisation: Optimisation = Optimisation()  # noqa: RUF009  (frozen)
    keep_outputs: bool = False
    threshold: float = DEFAULT_THRESHOLD
    timeout_sec: float = 600.0

    def expand(self, images: beam.PCollection[DecodedImage]) -> Outcomes:
        return Outcomes(**par_do("Predict", images, _PredictLabelsFn(self), Prediction))


class _Labeler:
    """The model on each device and the queue in front, which all bundles of a process share."""

    def __init__(self, step: PredictLabels) -> None:
        self._threads = step.threads or available_cores()
        self.models = run_in_time(step.model.handle, step.timeout_sec, functools.partial(self._load, step))
        batch_size = self.models.classifiers[0].sizes[-1]
        predict = functools.partial(predict_labels, keep_outputs=step.keep_outputs, threshold=step.threshold)
        callers = [
            functools.partial(predict, classifier=classifier)
            for _ in range(self.models.callers)
            for classifier in self.models.classifiers
        ]
        # Room for two batches beside those that callers run, because the queue must hold a full batch
        # whenever a caller becomes free; and for images that wait behind decoding, because on a CPU both
        # share threads.
        self.window_items = (len(callers) + 2) * batch_size + 8 * self._threads
        self.window_bytes = self.window_items * 3 * step.model.resize.size_px**2
        self.batcher: Batcher[DecodedImage, Prediction | Failure] = Batcher(
            callers, batch_size, None if self.models.on_gpu else compute_pool(self._threads)
        )
        most = most_recent(step.model.length if step.keep_outputs else 0)
        self._recent: Recent[Prediction | Failure] | None = (
            Recent(most, self.batcher.flush) if step.reuse else None
        )
        _watch_calls(self.batcher, step)

    def _load(self, step: PredictLabels) -> Models:
        return load_models(
            step.model, step.top_k, step.batch_size, step.optimisation, self._threads, step.require_gpu
        )

    def take_counts(self) -> dict[str, int]:
        """Return the counts of the process's model since the last call."""
        # Taken, not read, because each bundle adds its share to counters that Beam sums.
        usec = round(1e6 * self.batcher.open_sec())
        at_once, meter = self.models.at_once * len(self.models.classifiers), self.models.meter
        meter.add(**{WALL_USEC: usec, OPEN_USEC: at_once * usec, CORE_USEC: self._threads * usec})
        return meter.take()

    def submit(self, image: DecodedImage) -> Future[Prediction | Failure]:
        """Queue an image, or wait for the labels of another with the same bytes."""
        if self._recent is None:
            return self.batcher.submit(image)
        return self._recent.submit(
            _pixels_of(image), lambda: self.batcher.submit(image), functools.partial(_adapt, image)
        )


def _watch_calls(batcher: Batcher, step: PredictLabels) -> None:
    """Start a thread that ends every wait of the process once a call of the model takes too long."""
    # A thread, because bundles' threads may themselves wait, in another step, for threads that such calls
    # hold. A weak reference, because the thread must end when the last bundle drops the model.
    weak = weakref.ref(batcher)

    def watch() -> None:
        while weak() is not None:
            if model_calls.longest_sec() > step.timeout_sec:
                alarm.ring(never_returns(step.model.handle, step.timeout_sec))
                return
            time.sleep(min(_WATCH_SEC, step.timeout_sec / 4))

    threading.Thread(target=watch, name="watch-model", daemon=True).start()


def most_recent(outputs: int) -> int:
    """Return how many predictions with a number of outputs a process keeps for images of the same bytes."""
    return _MAX_RECENT * _RECENT_BYTES // (_RECENT_BYTES + 4 * outputs)


def _pixels_of(image: DecodedImage) -> str:
    """Return a text that is equal for images of the same pixels: the digest, and the region of a box."""
    region = region_of(image.ref.uri)
    return image.metadata.sha256 + (region.fragment if region else "")


def _adapt(image: DecodedImage, result: Prediction | Failure) -> Prediction | Failure:
    """Turn the result of another image of the same bytes into the result of an image."""
    if isinstance(result, Failure):
        return replace(result, ref=image.ref, host=host_of_uri(image.ref.uri))
    return replace(result, ref=image.ref, metadata=image.metadata, reused=True)


class _PredictLabelsFn(OverlappedFn[DecodedImage, Prediction | Failure]):
    def __init__(self, step: PredictLabels) -> None:
        # A copy of the step, because Beam has assigned attributes to the step, which would be pickled, too.
        self._make = functools.partial(_Labeler, replace(step))
        # `Shared`, because the process then drops the model, and its GPU memory, with the last DoFn.
        self._shared = Shared()
        self._counters = {name: Metrics.counter(PredictLabels, name) for name in COUNTS}

    def open_window(self) -> Window[Prediction | Failure]:
        self._labeler: _Labeler = self._shared.acquire(self._make)
        return Window(self._labeler.window_items, self._labeler.window_bytes)

    def submit(self, image: DecodedImage) -> tuple[Future[Prediction | Failure], int]:
        return self._labeler.submit(image), image.pixels.nbytes

    def finish_bundle(self) -> Iterator:
        is_used = self._window is not None
        yield from super().finish_bundle()
        for name, count in self._labeler.take_counts().items() if is_used else ():
            self._counters[name].inc(count)

    def flush(self) -> None:
        self._labeler.batcher.flush()
