"""Loading: from a folder or file to one function from pixels to outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.models.cache import digest_model, resolve_model
from labelbeam.transforms.models.contract import Contract
from labelbeam.transforms.models.damage import load_errors_explained
from labelbeam.transforms.models.keras_file import is_keras_file, keras_outputs, load_keras
from labelbeam.transforms.models.spec import ModelSpec, Reading

if TYPE_CHECKING:
    import tensorflow as tf

Model = Callable[["tf.Tensor"], "tf.Tensor"]


def load_model(spec: ModelSpec | Reading) -> Model:
    """Load the model that was resolved at launch.

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
    return _load_keras(path, spec.contract) if is_keras_file(path) else _load_saved(path, spec)


def _load_keras(path: Path, contract: Contract) -> Model:
    import tensorflow as tf

    model = load_keras(path)
    outputs = keras_outputs(model)
    output = outputs[contract.output_name] if contract.output_name else next(iter(outputs.values()))
    # A new model of one tensor to one tensor, because the model in the file may nest them in dictionaries.
    classifier = tf.keras.Model(model.inputs[0], output)
    return functools.partial(classifier, training=False)


def _load_saved(path: Path, spec: ModelSpec | Reading) -> Model:
    import tensorflow_hub as hub

    contract = spec.contract
    with load_errors_explained(path, RunError):
        loaded = hub.load(str(path))
        signature = loaded.signatures[contract.signature] if contract.signature else None
    if signature is None:
        return _load_callable(loaded, spec)

    def call(images: tf.Tensor) -> tf.Tensor:
        return signature(**{contract.input_name: images})[contract.output_name]

    call.loaded = loaded  # type: ignore[attr-defined]  # a signature does not keep its variables alive
    return call


def _load_callable(loaded: Any, spec: ModelSpec | Reading) -> Model:
    """Find out how a restored object without signatures is called with images alone, for inference."""
    import tensorflow as tf

    if not callable(loaded):
        raise RunError(f"Model {spec.handle!r} is neither callable nor has it a signature. Export it again.")
    size_px = spec.resize.size_px
    images = tf.TensorSpec([None, size_px, size_px, 3], spec.contract.input_dtype)
    parameters = loaded.__call__.function_type.parameters
    # `training` is passed, because its default may be True, or may be missing among the exported traces.
    # None means False where nothing else was traced.
    ways: tuple[dict, ...] = ({"training": False}, {"training": None}) if "training" in parameters else ({},)
    for way in ways:
        call = functools.partial(loaded, **way)
        try:
            outputs = tf.function(call).get_concrete_function(images).outputs
        except (TypeError, ValueError):  # no such trace
            continue
        if len(outputs) == 1:
            return lambda images, call=call: tf.nest.flatten(call(images))[0]  # type: ignore[misc]
    raise RunError(
        f"Model {spec.handle!r} has no signature, and can't be called with images {images.shape} alone for "
        f"one result (parameters: {', '.join(parameters)}). Export it with a signature 'serving_default'."
    )


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
    """Turn the variables into constants, so that the runtime can fold and fuse."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # Wrapped, because the frozen function fits no signature: at each call TensorFlow would first print the
    # input into an error.
    return with_signature(convert_variables_to_constants_v2(function))


def with_signature(function: Any, jit_compile: bool = False) -> Any:
    """Wrap a function of pixels in one that has a fixed signature."""
    import tensorflow as tf

    (pixels,) = function.inputs[:1]
    spec = tf.TensorSpec(pixels.shape, pixels.dtype)
    return tf.function(function, [spec], autograph=False, jit_compile=jit_compile).get_concrete_function()
