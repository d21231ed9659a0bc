"""Refusals of models that labelbeam can't load, each with a remedy."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from labelbeam.transforms.errors import UserError

EXPORT = "Load it where its code is, run model.export('FOLDER'), and give that folder as --model"
_HDF5 = f"it is an HDF5 file, the format before .keras. {EXPORT}"
_HDF5_HEAD = b"\x89HDF"
_USE_TENSORFLOW = (
    "labelbeam runs TensorFlow models. Give the SavedModel folder or .keras file of the same model"
)

# By suffix. The first suffix that fits counts, because `.weights.h5` ends with `.h5`, too.
_REMEDIES = {
    ".weights.h5": (
        "it holds weights without a model. Build the model with its code, load them into it, run "
        "model.export('FOLDER'), and give that folder as --model"
    ),
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    "saved_model.pb": "it is one file of a SavedModel. Give the folder it is in",
    ".pb": (
        "it is a frozen graph of TensorFlow 1. Import it with tf.compat.v1.import_graph_def, save it with "
        "tf.compat.v1.saved_model.simple_save, and give that folder as --model"
    ),
    ".tflite": f"it is a TensorFlow Lite model. {_USE_TENSORFLOW}",
    ".onnx": f"it is an ONNX model. {_USE_TENSORFLOW}",
    ".pt": f"it is a PyTorch file. {_USE_TENSORFLOW}",
    ".pth": f"it is a PyTorch file. {_USE_TENSORFLOW}",
    ".safetensors": f"it holds weights without a model. {_USE_TENSORFLOW}",
    ".ckpt": f"it holds weights without a model. {_USE_TENSORFLOW}",
}
_LONGEST_ERROR = 300
# Errors of a file that can't be loaded. Many types, because TensorFlow and Keras build a model from any
# description, and each layer raises errors of its own.
LOADING_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


def refuse_other_formats(handle: str, path: Path | None = None) -> None:
    """Refuse a model in a format that labelbeam doesn't load.

    Raises:
      UserError: The name or the content shows such a format.
    """
    name = handle.partition("?")[0].lower()
    remedy = next((text for suffix, text in _REMEDIES.items() if name.endswith(suffix)), None)
    if path and (path / "metadata.json").is_file() and (path / "config.json").is_file():
        remedy = f"it is an unpacked .keras file. Pack it: python -m zipfile -c NEW.keras {path}/*"
    if not remedy and path and path.is_file() and is_hdf5(path):
        remedy = _HDF5
    if remedy:
        raise UserError(f"model={handle!r} can't be loaded: {remedy}.")


def is_hdf5(path: Path) -> bool:
    """Return whether a file is HDF5. Keras 2 wrote HDF5 under any name, `.keras` included."""
    with path.open("rb") as f:
        return f.read(len(_HDF5_HEAD)) == _HDF5_HEAD


def one_line(error: Exception) -> str:
    """Return the message of an error in one line, cut because TensorFlow adds the graph to some messages."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.removesuffix(".") if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}..."
