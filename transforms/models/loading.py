"""Loading: from a folder or file to one function from pixels to outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transforms.errors import RunError
from transforms.models.contract import KERAS_SUFFIX, Contract, keras_outputs, load_keras
from transforms.models.damage import load_errors_explained
from transforms.models.spec import ModelSpec, Reading
from transforms.models.store import digest_model, resolve_model

if TYPE_CHECKING:
    import tensorflow as tf

Model = Callable[["tf.Tensor"], "tf.Tensor"]


def load_model(spec: ModelSpec | Reading) -> Model:
    """Loads what was resolved at launch.

    Returns:
      A function from images, as the model takes them, to its chosen output; what holds
      the variables is kept alive by it.

    Raises:
      RunError: The model changed since the run started, or can't be loaded.
    """
    path = resolve_model(spec.handle)
    if (digest := digest_model(path)) != spec.digest:
        raise RunError(
            f"Model {spec.handle!r} changed since the run started: its digest is {digest[:16]}, it was "
            f"{spec.digest[:16]}. Start the run again."
        )
    return _load_keras(path, spec.contract) if path.suffix == KERAS_SUFFIX else _load_saved(path, spec)


def _load_keras(path: Path, contract: Contract) -> Model:
    import tensorflow as tf

    model = load_keras(path)

    def call(images: tf.Tensor) -> tf.Tensor:
        outputs = model(images, training=False)
        if not contract.output_name:
            return outputs
        return tf.nest.flatten(outputs)[list(keras_outputs(model)).index(contract.output_name)]

    return call


def _load_saved(path: Path, spec: ModelSpec | Reading) -> Model:
    import tensorflow_hub as hub

    contract = spec.contract
    with load_errors_explained(path, RunError):
        loaded = hub.load(str(path))
        signature = loaded.signatures[contract.signature] if contract.signature else None
    if signature is not None:

        def call(images: tf.Tensor) -> tf.Tensor:
            return signature(**{contract.input_name: images})[contract.output_name]

        call.loaded = loaded  # type: ignore[attr-defined]  # a signature does not keep its variables alive
        return call
    if not callable(loaded):
        raise RunError(f"Model {spec.handle!r} is neither callable nor has it a signature. Export it again.")
    return loaded


def scaled(model: Model, spec: ModelSpec) -> Model:
    """A function from pixels, `[N, size, size, 3] uint8`, to outputs, `[N, classes] float32`."""
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
    """Turns the variables into constants, so that the runtime can fold and fuse."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # What this gives fits no signature: at each call TensorFlow would first print its input into an error.
    return with_signature(convert_variables_to_constants_v2(function))


def with_signature(function: Any, jit_compile: bool = False) -> Any:
    """A function of pixels that calls another and knows its own signature."""
    import tensorflow as tf

    (pixels,) = function.inputs[:1]
    spec = tf.TensorSpec(pixels.shape, pixels.dtype)
    return tf.function(function, [spec], autograph=False, jit_compile=jit_compile).get_concrete_function()
