"""The model as workers run it: one frozen graph from pixels to top-k."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from transforms.errors import ImageError, Reason, RunError
from transforms.models.batching import batch_sizes
from transforms.models.loading import Model, freeze, load_model, scaled
from transforms.models.spec import ModelSpec

if TYPE_CHECKING:
    import tensorflow as tf

_LOG = logging.getLogger(__name__)

# What TensorFlow, cuDNN and XLA say when memory is short without raising `ResourceExhaustedError`.
_NO_MEMORY = (
    "oom when allocating",
    "out of memory",
    "failed to allocate",
    "cudnn_status_alloc_failed",
    "failed to get convolution algorithm",
)
# Images that a model which never worked may fail on, one by one, before the run is given up.
_HOPELESS = 16


class TopK(NamedTuple):
    """The best classes of one image, best first.

    Attributes:
      class_ids: `[k] int32`.
      scores: `[k] float32`, in [0, 1].
    """

    class_ids: np.ndarray
    scores: np.ndarray


class Classifier:
    """A loaded model. Safe to call from several threads.

    A batch that memory does not suffice for is halved, and no larger one is tried
    again in this process. A batch that the model fails on is halved down to the
    image that is at fault; what a device does wrong is raised.

    Attributes:
      spec: What was loaded.
      sizes: The batch sizes that calls are padded to, ascending.
      frozen: Whether the variables could be turned into constants.
      splits: How often memory did not suffice.
    """

    def __init__(self, spec: ModelSpec, top_k: int, batch_size: int) -> None:
        """Loads, freezes and warms up a model.

        Args:
          spec: What to load.
          top_k: Classes to give for an image.
          batch_size: Images in a full batch; a model made for one batch size keeps to its own.

        Raises:
          RunError: The model changed since the run started, can't be loaded, or gives
            something else than its label map is for.
        """
        self.spec = spec
        self.sizes = (spec.contract.batch,) if spec.contract.batch else batch_sizes(batch_size)
        self.splits = 0
        self._largest = self.sizes[-1]
        self._works = False
        self._failed_alone = 0
        self._function, self.frozen = _build(spec, top_k)
        gc.collect()  # the variables, which TensorFlow keeps in cycles: 3 GB of B7's 7.7
        self._warm_up()

    def _warm_up(self) -> None:
        size_px = self.spec.resize.size_px
        for size in self.sizes:
            if size <= self._largest:
                self._attempt([np.zeros((size_px, size_px, 3), np.uint8)] * size)
        self._failed_alone = 0  # a model may dislike black images

    def classify(self, images: Sequence[np.ndarray]) -> list[TopK | ImageError]:
        """Labels a batch.

        Args:
          images: Each `[size, size, 3] uint8`, RGB, 0-255.

        Returns:
          For each image its labels, or what is wrong with it alone.

        Raises:
          RunError: The model fails on every image.
        """
        results: list[TopK | ImageError] = []
        while len(results) < len(images):
            results += self._attempt(images[len(results) : len(results) + self._largest])
        return results

    def _attempt(self, images: Sequence[np.ndarray]) -> list[TopK | ImageError]:
        import tensorflow as tf

        try:
            results = self._call(images)
            self._works = True
            return results
        except (tf.errors.OpError, MemoryError) as e:
            no_memory = is_out_of_memory(e)
            if isinstance(e, _faults_of_the_device()) and not no_memory:
                raise
            message = str(getattr(e, "message", e)).strip().rpartition("\n\n")[2]  # without the graph's stack
        if no_memory:
            self.splits += 1
            self._largest = max([size for size in self.sizes if size < len(images)], default=self.sizes[0])
        if len(images) > 1:
            middle = len(images) // 2
            return self._attempt(images[:middle]) + self._attempt(images[middle:])
        self._failed_alone += 1
        if not self._works and self._failed_alone >= _HOPELESS:
            raise RunError(f"Model {self.spec.handle!r} fails on every image: {message}")
        if no_memory:
            return [ImageError(Reason.MODEL_OOM, f"Memory does not suffice for one image: {message}"[:500])]
        return [ImageError(Reason.MODEL_ERROR, f"The model failed on this image: {message}"[:500])]

    def _call(self, images: Sequence[np.ndarray]) -> list[TopK | ImageError]:
        import tensorflow as tf

        size = next(size for size in self.sizes if size >= len(images))
        padded = np.zeros((size, *images[0].shape), np.uint8)
        np.stack(images, out=padded[: len(images)])
        ids, scores, finite = (output.numpy() for output in self._function(tf.constant(padded)))
        return [
            TopK(ids[n], scores[n])
            if finite[n]
            else ImageError(Reason.MODEL_ERROR, "The model gave NaN or infinity for this image")
            for n in range(len(images))
        ]


def _faults_of_the_device() -> tuple[type[Exception], ...]:
    """What no image is to blame for: the bundle fails, and the runner tries it elsewhere."""
    from tensorflow import errors

    return (
        errors.InternalError,
        errors.UnknownError,
        errors.UnavailableError,
        errors.AbortedError,
        errors.CancelledError,
        errors.DeadlineExceededError,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a smaller batch might do."""
    import tensorflow as tf

    text = str(error).lower()
    return isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError)) or any(
        sign in text for sign in _NO_MEMORY
    )


def _build(spec: ModelSpec, top_k: int) -> tuple[Any, bool]:
    """The whole graph, and whether it is frozen; a model that can't be frozen is run as it is."""
    model = scaled(load_model(spec), spec)  # holds the variables
    function = _top_k_function(model, spec, top_k)
    try:
        return freeze(function), True
    except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as e:
        _LOG.warning("Model %r is not frozen and will be slower: %s", spec.handle, e)
        function.model = model
        return function, False


def _top_k_function(model: Model, spec: ModelSpec, top_k: int) -> Any:
    """Cast, scale, model, softmax, top-k as one graph."""
    import tensorflow as tf

    size_px = spec.resize.size_px
    shape = [spec.contract.batch, size_px, size_px, 3]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8)], autograph=False)
    def top_k_of(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        outputs = model(pixels)
        if outputs.shape.rank != 2 or outputs.shape[-1] not in (None, len(spec.labels)):
            raise RunError(
                f"Model {spec.handle!r} gives {outputs.shape}; its label map needs "
                f"[batch, {len(spec.labels)}]. "
                "Give the model's own label map with --labels FILE."
            )
        finite = tf.reduce_all(tf.math.is_finite(outputs), axis=-1)
        scores = tf.nn.softmax(outputs) if spec.outputs == "logits" else outputs
        best = tf.math.top_k(scores, min(top_k, len(spec.labels)))
        return best.indices, best.values, finite

    return top_k_of.get_concrete_function()
