"""What a model takes and gives, read without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from transforms.errors import UserError
from transforms.models.damage import load_errors_explained

if TYPE_CHECKING:
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

SERVING = "serving_default"
KERAS_SUFFIX = ".keras"
# A SavedModel's own bookkeeping, no signature that anybody calls.
_INTERNAL = "__saved_model_init_op"


@dataclass(frozen=True, slots=True)
class Contract:
    """What a model takes and gives; None where it does not say.

    Attributes:
      signature: The SavedModel's signature; "" where the model itself is called.
      input_name: Of that signature's one input.
      input_dtype: Of its values, such as `float32` or `uint8`.
      batch: The one batch size that the model takes.
      size_px: Width and height of its input.
      output_name: The output to use, where there are several or it has a name.
      classes: Length of that output.
      input_range: Values of the colours 0 and 255, read from the model's first layers.
      outputs: What the output is, read from the model's last operation; "" where that can't be read.
      multilabel: Whether each class is judged by itself.
    """

    signature: str = ""
    input_name: str = ""
    input_dtype: str = "float32"
    batch: int | None = None
    size_px: int | None = None
    output_name: str = ""
    classes: int | None = None
    input_range: tuple[float, float] | None = None
    outputs: Literal["", "logits", "probabilities"] = ""
    multilabel: bool = False


def read_contract(path: Path, signature: str | None = None, output: str | None = None) -> Contract:
    """Reads what a model takes and gives.

    Args:
      path: A SavedModel folder or a `.keras` file.
      signature: Which of its signatures to use; by default `serving_default`, or the only one.
      output: Which of its outputs; by default the only one.

    Raises:
      UserError: The model is damaged, made for TensorFlow 1, or takes or gives
        something else than image classifiers do.
    """
    if path.suffix == KERAS_SUFFIX:
        if signature:
            raise UserError(f"signature={signature!r}: {path.name} is a Keras model and has none.")
        return _keras_contract(path, output)
    signatures = read_signatures(path)
    if not signatures and (signature or output):
        raise UserError(
            f"{path} has no signatures: it is called itself, without --signature or --output_name."
        )
    if not signatures:
        return Contract()
    name = _choose(path, "signature", signature, signatures, SERVING)
    return _signature_contract(path, name, signatures[name], output)


def read_signatures(folder: Path) -> dict[str, SignatureDef]:
    """The signatures of a SavedModel by name, from the graph alone: nothing is loaded.

    Raises:
      UserError: It is damaged, or made for TensorFlow 1.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    if (folder / "tfhub_module.pb").exists():
        raise UserError(
            f"{folder} is a module of TensorFlow 1 (TF Hub's old format), which TensorFlow 2 can't run. "
            "Take the model's TF2 version, or convert it to a SavedModel with TensorFlow 1.15."
        )
    try:
        saved = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    except DecodeError as e:
        raise UserError(
            f"{folder / 'saved_model.pb'} is damaged: {e}. Copy or download the model again."
        ) from e
    served = next((graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags), None)
    if served is None:
        tags = [list(graph.meta_info_def.tags) for graph in saved.meta_graphs]
        raise UserError(f"{folder} has no graph with the tag 'serve', only {tags}. Export it for serving.")
    return {name: s for name, s in served.signature_def.items() if name != _INTERNAL and s.inputs}


def _choose(path: Path, what: str, wanted: str | None, known: Mapping[str, Any], usual: str = "") -> str:
    """The one that is wanted, usual, or the only one."""
    flag = "--output_name" if what == "output" else f"--{what}"
    if wanted is not None and wanted not in known:
        raise UserError(f"{flag}={wanted!r}: {path} has no such {what}; it has {', '.join(sorted(known))}.")
    if wanted is None and usual not in known and len(known) > 1:
        raise UserError(f"{path} has several {what}s: choose one with {flag}: {', '.join(sorted(known))}.")
    return wanted if wanted is not None else usual if usual in known else next(iter(known))


def _signature_contract(path: Path, name: str, signature: SignatureDef, output: str | None) -> Contract:
    import tensorflow as tf

    if len(signature.inputs) != 1:
        inputs = ", ".join(sorted(signature.inputs))
        raise UserError(f"Signature {name!r} of {path} takes {inputs}; a classifier takes images alone.")
    ((input_name, tensor),) = signature.inputs.items()
    shape = _shape(tensor)
    output_name = _choose(path, "output", output, signature.outputs)
    given = _shape(signature.outputs[output_name])
    return Contract(
        signature=name,
        input_name=input_name,
        input_dtype=tf.dtypes.as_dtype(tensor.dtype).name,
        batch=shape[0] if shape else None,
        size_px=_size_px(path, shape),
        output_name=output_name,
        classes=_classes(path, output_name, given),
    )


def load_keras(path: Path) -> Any:
    """Loads a Keras 3 model.

    Raises:
      UserError: It can't be loaded, or does not say what it takes.
    """
    import tensorflow as tf

    with load_errors_explained(path, UserError):
        model = tf.keras.models.load_model(path, compile=False)
    if not getattr(model, "inputs", None):
        raise UserError(f"{path} does not say what it takes: call it with an image once before you save it.")
    return model


def keras_outputs(model: Any) -> dict[str, Any]:
    """The outputs of a Keras model by name; a sequential model has one, and no name for it."""
    names = getattr(model, "output_names", None) or [f"output_{n}" for n in range(len(model.outputs))]
    return dict(zip(names, model.outputs, strict=True))


def _keras_contract(path: Path, output: str | None) -> Contract:
    model = load_keras(path)
    if len(model.inputs) != 1:
        raise UserError(f"{path} takes {len(model.inputs)} inputs; a classifier takes images alone.")
    outputs = keras_outputs(model)
    output_name = _choose(path, "output", output, outputs)
    shape = list(model.inputs[0].shape)
    return Contract(
        input_dtype=str(model.inputs[0].dtype),
        batch=shape[0],
        size_px=_size_px(path, shape),
        output_name=output_name if len(outputs) > 1 else "",
        classes=_classes(path, output_name, list(outputs[output_name].shape)),
    )


def _shape(tensor: TensorInfo) -> list[int | None] | None:
    """A tensor's shape, None for a length that is open; None where the rank is not known."""
    if tensor.tensor_shape.unknown_rank:
        return None
    return [d.size if d.size > 0 else None for d in tensor.tensor_shape.dim]


def _size_px(path: Path, shape: list[int | None] | None) -> int | None:
    if shape is None:
        return None
    if len(shape) != 4 or shape[3] not in (3, None):
        hint = " (its channels come first: export it with channels last)" if shape[1:2] == [3] else ""
        raise UserError(f"{path} takes {shape}; it must take images [N, H, W, 3]{hint}.")
    if shape[1] != shape[2]:
        raise UserError(f"{path} takes images of {shape[2]} x {shape[1]} px; they must be square.")
    return shape[1]


def _classes(path: Path, name: str, shape: list[int | None] | None) -> int | None:
    if shape is None:
        return None
    if len(shape) != 2:
        raise UserError(f"{path} gives {shape} as {name!r}; a classifier gives [N, classes].")
    return shape[1]
