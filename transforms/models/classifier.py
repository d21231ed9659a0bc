"""The model as workers run it: one frozen graph from pixels to top-k."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from transforms.errors import ImageError, Reason, RunError
from transforms.models.batching import batch_sizes
from transforms.models.spec import ModelSpec
from transforms.models.store import digest_model, resolve_model

if TYPE_CHECKING:
    import tensorflow as tf


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

    Attributes:
      spec: What was loaded.
      sizes: The batch sizes that calls are padded to, ascending.
    """

    def __init__(self, spec: ModelSpec, top_k: int, batch_size: int) -> None:
        """Loads, freezes and warms up a model.

        Args:
          spec: What to load.
          top_k: Classes to give for an image.
          batch_size: Images in a full batch.

        Raises:
          RunError: The model changed since the run started, or has no
            image-classification signature.
        """
        self.spec = spec
        self.sizes = batch_sizes(batch_size)
        self._frozen = _load_frozen(spec, top_k)
        gc.collect()  # the variables, which TensorFlow keeps in cycles: 3 GB of B7's 7.7
        for size in self.sizes:
            self._call(np.zeros((size, spec.resize.size_px, spec.resize.size_px, 3), np.uint8))

    def classify(self, images: Sequence[np.ndarray]) -> list[TopK | ImageError]:
        """Labels a batch.

        Args:
          images: Each `[size, size, 3] uint8`, RGB, 0-255; at most `sizes[-1]` of them.

        Returns:
          For each image its labels, or what is wrong with it alone.
        """
        import tensorflow as tf

        try:
            return self._classify(images)
        except tf.errors.OpError as e:
            if len(images) == 1:
                return [ImageError(Reason.MODEL_ERROR, f"The model failed on this image: {e.message}")]
        middle = len(images) // 2
        return self.classify(images[:middle]) + self.classify(images[middle:])

    def _classify(self, images: Sequence[np.ndarray]) -> list[TopK | ImageError]:
        size = next(size for size in self.sizes if size >= len(images))
        padded = np.zeros((size, *images[0].shape), np.uint8)
        np.stack(images, out=padded[: len(images)])
        ids, scores, finite = self._call(padded)
        return [
            TopK(ids[n], scores[n])
            if finite[n]
            else ImageError(Reason.MODEL_ERROR, "The model gave NaN or infinity for this image")
            for n in range(len(images))
        ]

    def _call(self, pixels: np.ndarray) -> list[np.ndarray]:
        import tensorflow as tf

        return [output.numpy() for output in self._frozen(tf.constant(pixels))]


def _load_frozen(spec: ModelSpec, top_k: int) -> Any:
    model = _load(spec)  # holds the variables until they are frozen
    return _freeze(_top_k_function(model, spec, top_k))


def _load(spec: ModelSpec) -> Callable[[tf.Tensor], tf.Tensor]:
    """Loads what was resolved at launch; gives a function from float images to outputs."""
    import tensorflow_hub as hub

    folder = resolve_model(spec.handle)
    if (digest := digest_model(folder)) != spec.digest:
        raise RunError(
            f"Model {spec.handle!r} changed since the run started: its digest is {digest[:16]}, it was "
            f"{spec.digest[:16]}. Start the run again."
        )
    loaded = hub.load(str(folder))
    if callable(loaded):
        return loaded
    signature = getattr(loaded, "signatures", {}).get("serving_default")
    if signature is None:
        raise RunError(f"Model {spec.handle!r} is neither callable nor has it a serving_default signature.")
    return _from_signature(signature)


def _from_signature(signature: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    (name,) = signature.structured_input_signature[1]

    def call(images: tf.Tensor) -> tf.Tensor:
        (outputs,) = signature(**{name: images}).values()
        return outputs

    call.loaded = signature  # type: ignore[attr-defined]  # keeps the variables alive
    return call


def _top_k_function(model: Callable, spec: ModelSpec, top_k: int) -> Any:
    """The whole graph: cast, scale, model, softmax, top-k."""
    import tensorflow as tf

    size_px = spec.resize.size_px
    low, high = spec.input_range

    @tf.function(input_signature=[tf.TensorSpec([None, size_px, size_px, 3], tf.uint8)], autograph=False)
    def top_k_of(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        outputs = tf.cast(model(tf.cast(pixels, tf.float32) * ((high - low) / 255) + low), tf.float32)
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


def _freeze(function: Any) -> Any:
    """Turns the variables into constants, so that the runtime can fold and fuse."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function)
