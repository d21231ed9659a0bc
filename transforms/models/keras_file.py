"""Keras 3 models in `.keras` files. A kind of model, see `kinds`."""

from __future__ import annotations

import functools
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.contract import (
    Contract,
    Model,
    check_inputs,
    choose_name,
    read_classes,
    read_size_px,
)
from labelbeam.transforms.models.keras_graph import read_input_range, read_last_operation
from labelbeam.transforms.models.refusals import EXPORT, LOADING_ERRORS, is_hdf5, one_line

if TYPE_CHECKING:
    from keras import KerasTensor

SUFFIX = ".keras"
# Members of the zip archive that a file is. The weights are in one of two formats.
_CONFIG, _METADATA = "config.json", "metadata.json"
_WEIGHTS = ("model.weights.h5", "model.weights.npz")
# Training state, on which labels don't depend: `compile_config` in the configuration, and these weights.
_OPTIMIZER = "optimizer/"
_CHUNK_BYTES = 1 << 20

# Modules of classes that Keras finds by itself. The module of a class that Keras can't find is null.
_KERAS_MODULES = ("keras", "builtins")
_LONGEST_REASON = 120
_DAMAGED = "it is damaged, or no Keras model. Copy or download it again"


def matches(path: Path) -> bool:
    """Return whether a path is a `.keras` file, and no HDF5 under that name."""
    # A file, because TensorFlow before 2.12 wrote SavedModel folders with any name, `.keras` included.
    return path.suffix == SUFFIX and path.is_file() and not is_hdf5(path)


def list_files(path: Path) -> dict[str, Path]:
    """Return the one file."""
    return {path.name: path}


def find_damage(path: Path) -> str:
    """Check the checksums of a zip archive, and that configuration and weights are in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad, names = archive.testzip(), archive.namelist()
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, RuntimeError) as e:
        return f"{path.name} is no whole zip archive, as Keras 3 saves models ({one_line(e)})"
    if bad is not None:
        return f"the checksum of {bad!r} in {path.name} is wrong"
    if _CONFIG not in names or not set(_WEIGHTS) & set(names):
        return f"{path.name} has no {_CONFIG} or no {_WEIGHTS[0]}"
    return ""


def digest_parts(path: Path) -> Iterator[bytes]:
    """Yield the contents of the archive, without dates, order of members and training state.

    Raises:
      UserError: The archive or the weights can't be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name != _METADATA:  # it holds the date
                    yield f"{name}\0".encode()
                    yield from _member_parts(archive, name)
    except (OSError, KeyError, RuntimeError, ValueError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} is no whole Keras model: {e}. Save or copy it again.") from e


def _member_parts(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    with archive.open(name) as member:
        if name == _CONFIG:
            config = _without_object_ids(json.load(member))
            config.pop("compile_config", None)
            yield json.dumps(config, sort_keys=True).encode()
        elif name.endswith(".h5"):
            yield from _weights(member)
        else:
            yield f"{archive.getinfo(name).file_size}\0".encode()
            while chunk := member.read(_CHUNK_BYTES):
                yield chunk


def _without_object_ids(value: Any) -> Any:
    # `shared_object_id` is left out, because it holds memory addresses, which differ in each process.
    if isinstance(value, dict):
        return {key: _without_object_ids(v) for key, v in value.items() if key != "shared_object_id"}
    return [_without_object_ids(v) for v in value] if isinstance(value, list) else value


def _weights(file: IO[bytes]) -> Iterator[bytes]:
    import h5py

    # Arrays by name instead of the file, because the file's bytes depend on the order of writing.

    with h5py.File(file, "r") as weights:
        names: list[str] = []
        weights.visit(names.append)
        for name in sorted(n for n in names if not n.startswith(_OPTIMIZER)):
            if isinstance(dataset := weights[name], h5py.Dataset):
                attributes = sorted((key, repr(value)) for key, value in dataset.attrs.items())
                yield f"{name}\0{dataset.dtype}\0{dataset.shape}\0{attributes}\0".encode()
                yield dataset[()].tobytes()


def read_contract(path: Path, signature: str | None = None, output: str | None = None) -> Contract:
    """Read the contract from the loaded model; a Keras model has no signatures to choose from."""
    if signature:
        raise UserError(f"signature={signature!r}: {path.name} is a Keras model and has none.")
    model = load_keras(path)
    check_inputs(str(path), {tensor.name: str(tensor.dtype) for tensor in model.inputs})
    outputs = keras_outputs(model)
    output_name = choose_name(path, "output", output, outputs)
    result = outputs[output_name]
    shape = list(model.inputs[0].shape)
    size_px = read_size_px(str(path), shape)
    classes = read_classes(str(path), output_name, str(result.dtype), list(result.shape))
    last = read_last_operation(result)
    if last == "softmax" and classes == 1:
        raise UserError(
            f"{path} has a softmax over one class as {output_name!r}, which is 1 for every image. Train it "
            "with a sigmoid or a linear output instead."
        )
    by_class = last == "linear" and _is_trained_by_class(path, list(outputs), output_name)
    return Contract(
        input_dtype=str(model.inputs[0].dtype),
        batch=shape[0],
        size_px=size_px,
        output_name=output_name if len(outputs) > 1 else "",
        classes=classes,
        input_range=read_input_range(model),
        outputs="logits" if last == "linear" else "probabilities" if last else "",
        multilabel=last == "sigmoid" or by_class,
    )


def load(path: Path, handle: str, contract: Contract, size_px: int) -> Model:
    """Load a model as a function from one tensor to one tensor."""
    import tensorflow as tf

    model = load_keras(path)
    outputs = keras_outputs(model)
    output = outputs[contract.output_name] if contract.output_name else next(iter(outputs.values()))
    # A new model of one tensor to one tensor, because the model in the file may nest them in dictionaries.
    classifier = tf.keras.Model(model.inputs[0], output)
    # Never in training, because dropout and batch normalisation then depend on chance and on the batch.
    return functools.partial(classifier, training=False)


def describe(path: Path) -> Iterator[tuple[str, str]]:
    """Yield nothing, because a Keras model has no signatures."""
    yield from ()


def load_keras(path: Path) -> Any:
    """Load a Keras 3 model.

    Raises:
      UserError: The file can't be loaded, or it lacks the shape of the model's input.
    """
    import tensorflow as tf

    # Set, because Rescaling follows this setting instead of the file, and ~/.keras/keras.json may set
    # channels_first.
    tf.keras.config.set_image_data_format("channels_last")
    try:
        # Uncompiled, because the code of a custom loss or metric is not here, and labels don't need it.
        model = tf.keras.models.load_model(path, compile=False)
    except LOADING_ERRORS as e:
        raise UserError(f"model={str(path)!r} can't be loaded: {_explain(path, e)}.") from e
    if not getattr(model, "inputs", None):
        raise UserError(
            f"model={str(path)!r} lacks the shape of its input. Put keras.Input((H, W, 3)) first in the "
            "model and save it again."
        )
    return model


def keras_outputs(model: Any) -> dict[str, KerasTensor]:
    """Return the outputs of a Keras model by name.

    A name is the key in a dictionary of outputs, or else the name of a layer. Names of a layer with several
    outputs are counted (`head`, `head_1`), because a name must choose one output.
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


def _is_trained_by_class(path: Path, outputs: list[str], name: str) -> bool:
    # The loss that the file of a compiled model keeps decides, because a linear layer serves both kinds of
    # head. A binary cross-entropy judges each class by itself.
    loss = (_read_json(path, _CONFIG).get("compile_config") or {}).get("loss")
    if isinstance(loss, list):
        loss = dict(zip(outputs, loss, strict=False)).get(name)
    elif isinstance(loss, dict) and "class_name" not in loss:
        loss = loss.get(name)
    if isinstance(loss, dict):
        loss = loss["config"] if loss["class_name"] == "function" else loss["class_name"]
    return str(loss).replace("_", "").lower().startswith(("binary", "bce"))


def _explain(path: Path, error: Exception) -> str:
    """Return why a file can't be loaded, and the remedy."""
    try:
        version = str(_read_json(path, _METADATA).get("keras_version"))
        culprit = next(_culprits(_read_json(path, _CONFIG)), None)
    except (zipfile.BadZipFile, LookupError, ValueError, OSError):
        return _DAMAGED
    if version.startswith("2."):
        return f"Keras {version} saved it, and this is Keras 3. {EXPORT}"
    if culprit:
        return f"it needs {culprit}, whose code is not in the file. {EXPORT}"
    if isinstance(error, OSError | KeyError | zipfile.BadZipFile) or find_damage(path):
        return _DAMAGED
    reason = str(error).strip().partition("\n")[0]
    cut = f"{reason[:_LONGEST_REASON]}..." if len(reason) > _LONGEST_REASON else reason.rstrip(".")
    return f"Keras reports {cut!r} (the model is of Keras {version}). {EXPORT}"


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
