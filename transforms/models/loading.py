"""Loading: from a resolved model to a frozen function from pixels to outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.models.cache import resolve_model
from labelbeam.transforms.models.contract import Model
from labelbeam.transforms.models.kinds import digest_model, kind_of
from labelbeam.transforms.models.spec import ModelSpec, Reading

if TYPE_CHECKING:
    import tensorflow as tf


def load_model(spec: ModelSpec | Reading) -> Model:
    """Load the model that was resolved at launch.

    Returns:
      A function from images, in the model's own scaling, to the chosen output. It keeps the variables alive.

    Raises:
      RunError: The model changed since the run started, or can't be loaded.
    """
    path = resolve_model(spec.handle)
    # Checked on each worker, because a model in a bucket may be replaced while workers start, and a run must
    # not label with two models.
    if (digest := digest_model(path)) != spec.digest:
        raise RunError(
            f"Model {spec.handle!r} changed since the run started: its digest is {digest[:16]}, it was "
            f"{spec.digest[:16]}. Start the run again."
        )
    return kind_of(path).load(path, spec.handle, spec.contract, spec.resize.size_px)


def scaled(model: Model, spec: ModelSpec) -> Model:
    """Return a function from pixels, `[N, size, size, 3] uint8`, to outputs, `[N, classes] float32`."""
    import tensorflow as tf

    dtype = tf.dtypes.as_dtype(spec.contract.input_dtype)

    def call(pixels: tf.Tensor) -> tf.Tensor:
        if dtype.is_integer:
            images = tf.cast(pixels if spec.scaling.order == "rgb" else pixels[..., ::-1], dtype)
        else:
            images = tf.cast(spec.scaling.apply(tf.cast(pixels, tf.float32)), dtype)
        return tf.cast(model(images), tf.float32)

    return call


def freeze(function: Any) -> Any:
    """Turn the variables into constants, because the runtime only folds and fuses constants."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function)


def with_signature(function: Any, jit_compile: bool = False) -> Any:
    """Wrap a function of pixels in one that has a fixed signature.

    A frozen function fits no signature: at each call TensorFlow would first print the input into an error.
    """
    import tensorflow as tf

    (pixels,) = function.inputs[:1]
    spec = tf.TensorSpec(pixels.shape, pixels.dtype)
    return tf.function(function, [spec], autograph=False, jit_compile=jit_compile).get_concrete_function()
