"""The model on one device of a worker: batches in, top-k out, in sizes that memory allows."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from labelbeam.transforms.errors import ImageError, Reason, RunError
from labelbeam.transforms.models.batching import batch_sizes
from labelbeam.transforms.models.call_checks import (
    MAX_CHANGE,
    change_of,
    depends_on_neighbours,
    model_calls,
    wrong_rows,
)
from labelbeam.transforms.models.meter import (
    BUSY_USEC,
    FULL_SLOTS,
    IMAGES_RUN,
    OOM_SPLITS,
    SLOTS_RUN,
    Meter,
)
from labelbeam.transforms.models.optimise import Graph, Optimisation, optimise_model, wrong_length
from labelbeam.transforms.models.spec import ModelSpec

# Messages of TensorFlow, cuDNN and XLA that stand for a `ResourceExhaustedError`, which they don't raise.
_NO_MEMORY = (
    "oom when allocating",
    "out of memory",
    "failed to allocate",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
    "failed to get convolution algorithm",
)
# TensorFlow's errors of the device. They fail the bundle, because the runner then tries it elsewhere. Names,
# because this module is imported where TensorFlow must not be loaded yet.
_DEVICE_FAULTS = (
    *("InternalError", "UnknownError", "UnavailableError"),
    *("AbortedError", "CancelledError", "DeadlineExceededError"),
)
# Number of single images that fail before a model that has never worked ends the run.
_HOPELESS = 16


class TopK(NamedTuple):
    """Results of a model for one image.

    Attributes:
      class_ids: `[k] int32`, best first; empty for an embedding.
      scores: `[k] float32`, in [0, 1].
      outputs: `[length] float32`: the model's own logits, probabilities or embedding.
    """

    class_ids: np.ndarray
    scores: np.ndarray
    outputs: np.ndarray


class Classifier:
    """A loaded model on one device. Safe to call from several threads.

    If memory is short for a batch, the batch is halved, and no larger one is tried again in this process. If
    the model fails on a batch, the batch is halved down to the image at fault. Errors of the
    device are raised.

    Attributes:
      spec: The model.
      graph: The loaded model as a function.
      sizes: Batch sizes that calls are padded to, ascending.
      largest: Largest of these sizes for which memory has sufficed so far.
      meter: Counts of images, slots in batches, time and splits.
    """

    def __init__(
        self,
        spec: ModelSpec,
        top_k: int,
        batch_size: int,
        optimisation: Optimisation = Optimisation(),  # noqa: B008  (frozen)
        device: str | None = None,
        copies_ahead: bool = False,
        twin: Classifier | None = None,
    ) -> None:
        """Load, freeze and warm up a model.

        Args:
          spec: Model to load.
          top_k: Number of classes per image.
          batch_size: Images in a full batch; ignored for a model that takes one batch size only.
          optimisation: Precision and XLA.
          device: TensorFlow's name of the device; by default TensorFlow chooses.
          copies_ahead: Whether batches run one after another, while the pixels of the next batch are copied
            to the device; by default, batches of several threads run at once.
          twin: The same model on another device, which shares its meter and, if frozen, its graph.

        Raises:
          RunError: The model changed since the run started, can't be loaded, or does not fit its label map.
        """
        import tensorflow as tf

        self.spec = spec
        self.meter: Meter = twin.meter if twin else Meter()
        self._device = device
        self._turn = threading.Lock() if copies_ahead else contextlib.nullcontext()
        self._works = False
        self._failed_alone = 0
        self._lock = threading.Lock()
        sizes = (spec.contract.batch,) if spec.contract.batch else batch_sizes(batch_size)
        if twin and twin.graph.frozen:
            self.graph: Graph = twin.graph
        else:
            # On the device, because the variables of a model that can't be frozen stay where they are loaded.
            with tf.device(device):
                self.graph = optimise_model(spec, top_k, optimisation, sizes[-1])
        # Frees the variables of a frozen graph, because TensorFlow keeps them in reference cycles: 3 of the
        # 7.7 GB that EfficientNet-B7 takes.
        gc.collect()
        self.warm_up(sizes)

    def warm_up(self, sizes: Sequence[int]) -> None:
        """Run a batch of each size, and keep the sizes for which memory suffices.

        A warm-up, because TensorFlow's first call of each size traces and compiles, and an image in it would
        wait for seconds.

        Raises:
          RunError: An image's outputs depend on the rest of its batch, or don't fit the label map.
        """
        self.sizes, self.largest = tuple(sizes), sizes[-1]
        first: TopK | None = None
        for batch in _warm_up_batches(sizes, self.spec.resize.size_px):
            if len(batch) > self.largest:
                continue
            # The count of failures starts below 0, by as much as this batch can add, because a model may fail
            # on every image of noise and still work on photos: the warm-up alone must never reach _HOPELESS.
            self._failed_alone = -len(batch)
            first = self._check(self._attempt(batch), first)
        self._failed_alone = 0
        self.sizes = tuple(size for size in sizes if size <= self.largest) or self.sizes[:1]
        # All counts are taken and the splits alone put back, because images of the warm-up are no images of
        # the corpus, but a user should see in the report that memory was short.
        splits = self.meter.take()[OOM_SPLITS]
        self.meter.add(**{OOM_SPLITS: splits})

    def _check(self, results: Sequence[TopK | ImageError], first: TopK | None) -> TopK | None:
        """Check outputs, those of the first image against an earlier batch; return the earlier ones."""
        # Here for models of open shape, because the graph's own shape shows no length.
        for result in results:
            if isinstance(result, TopK) and len(result.outputs) != self.spec.length:
                raise RunError(wrong_length(self.spec, (None, len(result.outputs))))
        result = results[0]
        if isinstance(result, ImageError):
            return first
        if first is not None and change_of(first.outputs, result.outputs) > MAX_CHANGE:
            raise RunError(depends_on_neighbours(self.spec.handle))
        return first or result

    def classify(self, images: Sequence[np.ndarray]) -> list[TopK | ImageError]:
        """Label a batch.

        Args:
          images: Each `[size, size, 3] uint8`, RGB, 0-255.

        Returns:
          Results, or the error of an image on which the model fails, in the order of the images.

        Raises:
          RunError: The model fails on every image.
        """
        results: list[TopK | ImageError] = []
        while len(results) < len(images):
            results += self._attempt(images[len(results) : len(results) + self.largest])
        return results

    def _attempt(self, images: Sequence[np.ndarray]) -> list[TopK | ImageError]:
        import tensorflow as tf

        try:
            results = self._call(images)
            self._works = True
            return results
        except (tf.errors.OpError, MemoryError) as e:
            no_memory = is_out_of_memory(e)
            if type(e).__name__ in _DEVICE_FAULTS and not no_memory:
                raise
            message = str(getattr(e, "message", e)).strip().rpartition("\n\n")[2]  # without the graph's stack
        # Retried outside of `except`, because the exception's traceback keeps the tensors of the failed call.
        if no_memory:
            self._shrink(len(images))
        if no_memory and len(images) > 1:
            return self.classify(images)
        # Halved, because one image may be at fault: few calls single it out and label all others.
        if len(images) > 1:
            middle = len(images) // 2
            return self._attempt(images[:middle]) + self._attempt(images[middle:])
        self._failed_alone += 1
        if not self._works and self._failed_alone >= _HOPELESS:
            raise RunError(f"Model {self.spec.handle!r} fails on every image: {message}")
        if no_memory:
            return [ImageError(Reason.MODEL_OOM, f"Memory is too short for one image: {message}"[:500])]
        return [ImageError(Reason.MODEL_ERROR, f"The model failed on this image: {message}"[:500])]

    def _shrink(self, images: int) -> None:
        """Limit batches to the sizes below one for which memory was short."""
        smaller = [size for size in self.sizes if size < images]
        if not smaller and self.sizes[0] > 1:
            raise RunError(
                f"Memory is too short for a batch of {self.sizes[0]}, the only size that model "
                f"{self.spec.handle!r} takes. Export it for a smaller batch size, or for any."
            )
        with self._lock:
            self.meter.add(**{OOM_SPLITS: 1})
            self.largest = min(self.largest, max(smaller, default=self.sizes[0]))

    def _call(self, images: Sequence[np.ndarray]) -> list[TopK | ImageError]:
        import tensorflow as tf

        size = next(size for size in self.sizes if size >= len(images))
        # Padded, because each new shape would be traced and compiled. Results of the padding are cut off.
        padded = np.empty((size, *images[0].shape), np.uint8)
        np.stack(images, out=padded[: len(images)])
        padded[len(images) :] = 0
        with tf.device(self._device):
            # `identity` runs on the device and thereby copies the pixels there: before the turn, because the
            # copy then overlaps with the batch of another thread.
            pixels = tf.identity(tf.constant(padded))
            with self._turn:
                start = time.perf_counter()
                with model_calls.running():
                    returned = [output.numpy() for output in self.graph.function(pixels)]
                busy_usec = round(1e6 * (time.perf_counter() - start))
        counts = {IMAGES_RUN: len(images), SLOTS_RUN: size, FULL_SLOTS: self.sizes[-1]}
        self.meter.add(**{BUSY_USEC: busy_usec, **counts})
        if len(returned[-1]) != size:
            raise RunError(wrong_rows(self.spec.handle, returned[-1].shape, size))
        return [_result_of(*row) for row in zip(*(output[: len(images)] for output in returned), strict=True)]


def _warm_up_batches(sizes: Sequence[int], size_px: int) -> Iterator[list[np.ndarray]]:
    """Yield a batch of each size. All begin with the same image, whose outputs must not change."""
    # Its neighbours are another image, because a model that normalises over the batch returns the same for a
    # batch of equal images. If there is a single size, a second batch of it has other neighbours.
    shape = (size_px, size_px, 3)
    first, neighbour = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    for size in sizes:
        yield [first, *[neighbour] * (size - 1)]
    if len(sizes) == 1 and sizes[0] > 1:
        yield [first] * sizes[0]


def _result_of(
    class_ids: np.ndarray, scores: np.ndarray, finite: np.bool_, outputs: np.ndarray
) -> TopK | ImageError:
    if finite:
        return TopK(class_ids, scores, outputs)
    return ImageError(Reason.MODEL_ERROR, "The model returned NaN or infinity for this image")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory is short, so that a smaller batch may fit."""
    import tensorflow as tf

    text = str(error).lower()
    return isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError)) or any(
        sign in text for sign in _NO_MEMORY
    )
