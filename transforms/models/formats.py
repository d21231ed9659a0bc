"""Model files of other kinds than labelbeam loads, each with the way to one that it does."""

from __future__ import annotations

from pathlib import Path

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.keras_file import EXPORT

_ELSEWHERE = "labelbeam runs TensorFlow models. Give the SavedModel folder or .keras file of the same model"

# By suffix; the first that fits counts.
_REMEDIES = {
    ".weights.h5": (
        "it holds weights without a model. Build the model with its code, load them into it, run "
        "model.export('FOLDER'), and give that folder as --model"
    ),
    ".h5": f"it is an HDF5 file, the format before .keras. {EXPORT}",
    ".hdf5": f"it is an HDF5 file, the format before .keras. {EXPORT}",
    "saved_model.pb": "it is one file of a SavedModel. Give the folder it is in",
    ".pb": (
        "it is a frozen graph of TensorFlow 1. Import it with tf.compat.v1.import_graph_def, save it with "
        "tf.compat.v1.saved_model.simple_save, and give that folder as --model"
    ),
    ".tflite": f"it is a TensorFlow Lite model. {_ELSEWHERE}",
    ".onnx": f"it is an ONNX model. {_ELSEWHERE}",
    ".pt": f"it is a PyTorch file. {_ELSEWHERE}",
    ".pth": f"it is a PyTorch file. {_ELSEWHERE}",
    ".safetensors": f"it holds weights without a model. {_ELSEWHERE}",
    ".ckpt": f"it holds weights without a model. {_ELSEWHERE}",
}


def refuse_other_formats(handle: str, path: Path | None = None) -> None:
    """Refuse a model of a kind that labelbeam doesn't load.

    Args:
      handle: Handle of the model.
      path: Local file or folder of the model, if there is one.

    Raises:
      UserError: The handle ends like such a file, or the folder holds an unpacked `.keras` file.
    """
    name = handle.partition("?")[0].lower()
    remedy = next((text for suffix, text in _REMEDIES.items() if name.endswith(suffix)), None)
    if path and (path / "metadata.json").is_file() and (path / "config.json").is_file():
        remedy = f"it is an unpacked .keras file. Pack it: python -m zipfile -c NEW.keras {path}/*"
    if remedy:
        raise UserError(f"model={handle!r} can't be loaded: {remedy}.")
