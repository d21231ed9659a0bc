"""Keras 3 models in `.keras` files: loading them, their outputs by name, and why a file can't be loaded."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labelbeam.transforms.errors import UserError

if TYPE_CHECKING:
    from keras import KerasTensor

KERAS_SUFFIX = ".keras"
EXPORT = "Load it where its code is, run model.export('FOLDER'), and give that folder as --model"

# Keras builds a model from whatever a file describes, and its layers raise what they like on the way.
_LOADING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    RuntimeError,
    zipfile.BadZipFile,
)
HDF5_HEAD = b"\x89HDF"
# Modules of classes that Keras finds by itself; the module of a class that Keras does not know is null.
_KERAS_MODULES = ("keras", "builtins")
_LONGEST_REASON = 120
_DAMAGED = "it is damaged, or no Keras model. Copy or download it again"


def is_keras_file(path: Path) -> bool:
    """Return whether a model is a `.keras` file; TensorFlow before 2.12 wrote folders with any name."""
    return path.suffix == KERAS_SUFFIX and path.is_file()


def load_keras(path: Path) -> Any:
    """Load a Keras 3 model.

    Raises:
      UserError: The file can't be loaded, or it lacks the shape of the model's input.
    """
    import tensorflow as tf

    # Rescaling follows this setting instead of the file, and ~/.keras/keras.json may set channels_first.
    tf.keras.config.set_image_data_format("channels_last")
    try:
        model = tf.keras.models.load_model(path, compile=False)
    except _LOADING_ERRORS as e:
        raise UserError(f"model={str(path)!r} can't be loaded: {_explain(path, e)}.") from e
    if not getattr(model, "inputs", None):
        raise UserError(
            f"model={str(path)!r} lacks the shape of its input. Put keras.Input((H, W, 3)) first in the "
            "model and save it again."
        )
    return model


def keras_outputs(model: Any) -> dict[str, KerasTensor]:
    """Return the outputs of a Keras model by name.

    Names are the keys of a dictionary, or else those of the layers. A layer with several outputs
    is counted (`head`, `head_1`), because a name must choose one output.
    """
    import tensorflow as tf

    structure = getattr(model, "output", None)  # a sequential model has none
    if isinstance(structure, dict):
        paths = (path for path, _ in tf.keras.tree.flatten_with_path(structure))
        names = ["/".join(str(key) for key in path) for path in paths]
    else:
        names = [tensor._keras_history.operation.name for tensor in model.outputs]
    outputs: dict[str, KerasTensor] = {}
    for name, tensor in zip(names, model.outputs, strict=True):
        counted = (f"{name}_{n}" for n in range(1, len(names)))
        free = (other for other in counted if other not in names and other not in outputs)
        outputs[name if name not in outputs else next(free)] = tensor
    return outputs


def trained_by_class(path: Path, outputs: list[str], name: str) -> bool:
    """Return whether an output was trained with a binary cross-entropy, which judges each class by itself.

    Args:
      path: A `.keras` file; it keeps the loss of a compiled model.
      outputs: Names of all outputs of the model, in order.
      name: Name of the output.
    """
    loss = (_read_json(path, "config.json").get("compile_config") or {}).get("loss")
    if isinstance(loss, list):
        loss = dict(zip(outputs, loss, strict=False)).get(name)
    elif isinstance(loss, dict) and "class_name" not in loss:
        loss = loss.get(name)
    if isinstance(loss, dict):
        loss = loss["config"] if loss["class_name"] == "function" else loss["class_name"]
    return str(loss).replace("_", "").lower().startswith(("binary", "bce"))


def _explain(path: Path, error: Exception) -> str:
    """Return why a file can't be loaded, and the remedy."""
    with path.open("rb") as f:
        if f.read(4) == HDF5_HEAD:
            return f"it is an HDF5 file, the format before .keras. {EXPORT}"
    try:
        version = str(_read_json(path, "metadata.json").get("keras_version"))
        culprit = next(_culprits(_read_json(path, "config.json")), None)
    except (zipfile.BadZipFile, LookupError, ValueError, OSError):
        return _DAMAGED
    if version.startswith("2."):
        return f"Keras {version} saved it, and this is Keras 3. {EXPORT}"
    if culprit:
        return f"it needs {culprit}, whose code is not in the file. {EXPORT}"
    if isinstance(error, OSError | KeyError | zipfile.BadZipFile) or not _has_weights(path):
        return _DAMAGED
    reason = str(error).strip().partition("\n")[0]
    cut = f"{reason[:_LONGEST_REASON]}..." if len(reason) > _LONGEST_REASON else reason.rstrip(".")
    return f"Keras reports {cut!r} (the model is of Keras {version}). {EXPORT}"


def _has_weights(path: Path) -> bool:
    with zipfile.ZipFile(path) as file:
        return any(name.startswith("model.weights") for name in file.namelist())


def _read_json(path: Path, name: str) -> dict[str, Any]:
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read(name))


def _culprits(config: Any, layer: str = "") -> Iterator[str]:
    """Yield the layers and functions of a model's configuration whose code is elsewhere."""
    if isinstance(config, list):
        for part in config:
            yield from _culprits(part, layer)
    if not isinstance(config, dict):
        return
    kind, inner = config.get("class_name"), config.get("config")
    if kind and isinstance(inner, dict) and (name := config.get("name", inner.get("name"))):
        layer = f"layer {name!r}"
    if kind == "Lambda":
        yield f"{layer} (Lambda)"
    elif kind == "function":
        yield f"the function {inner!r} of {layer}"
    elif kind and "module" in config and str(config["module"]).split(".")[0] not in _KERAS_MODULES:
        yield f"{layer or 'the model'} (custom class {kind!r})"
    for key, part in config.items():
        if key != "compile_config":  # a custom loss is no obstacle: models are loaded uncompiled
            yield from _culprits(part, layer)
