"""Inputs and outputs of a model, read before it labels anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.keras_file import is_keras_file, keras_outputs, load_keras, trained_by_class
from labelbeam.transforms.models.keras_graph import read_head, read_input_range
from labelbeam.transforms.models.shapes import Shape, check_inputs, list_tensors, read_classes, read_size_px

if TYPE_CHECKING:
    from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

SERVING = "serving_default"
# A SavedModel's own bookkeeping, no signature that anybody calls.
_INTERNAL = "__saved_model_init_op"
_TEXT = "string"
_MOST_NAMES = 10  # in a message


@dataclass(frozen=True, slots=True)
class Contract:
    """Inputs and outputs of a model; None or "" where they can't be read.

    Attributes:
      signature: The SavedModel's signature; "" where the model itself is called.
      input_name: Of that signature's one input.
      input_dtype: Of its values, such as `float32` or `uint8`.
      batch: The one batch size that the model takes.
      size_px: Width and height of its input.
      output_name: The output to use, where there are several or it has a name.
      classes: Length of that output.
      input_range: What the colours 0 and 255 must become, read from the first layers of a Keras model.
      outputs: Kind of that output, read from its last operation in a Keras model.
      multilabel: Whether each class is judged by itself, as a sigmoid does. A linear output counts
        if the file names a binary cross-entropy as its loss.
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
    """Read the inputs and outputs of a model.

    Args:
      path: A SavedModel folder or a `.keras` file.
      signature: Which of its signatures to use; by default `serving_default`, or the only one.
      output: Which of its outputs; by default the only one.

    Raises:
      UserError: The model is damaged, made for TensorFlow 1, or no image classifier.
    """
    if is_keras_file(path):
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
    return _signature_contract(path, name, signatures, output)


def read_signatures(folder: Path) -> dict[str, SignatureDef]:
    """Read the signatures of a SavedModel by name, from the graph alone: nothing is loaded.

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


def _choose(path: Path, what: str, wanted: str | None, choices: Mapping[str, Any], usual: str = "") -> str:
    """Return the requested name, else the usual one, else the only one."""
    flag = "--output_name" if what == "output" else f"--{what}"
    names = ", ".join(sorted(choices)[:_MOST_NAMES]) + (", ..." if len(choices) > _MOST_NAMES else "")
    if wanted is not None and wanted not in choices:
        raise UserError(f"{flag}={wanted!r}: {path} has no such {what}; it has {names}.")
    if wanted is None and usual not in choices and len(choices) > 1:
        raise UserError(f"{path} has several {what}s: choose one with {flag}: {names}.")
    return wanted if wanted is not None else usual if usual in choices else next(iter(choices))


def _signature_contract(
    path: Path, name: str, signatures: Mapping[str, SignatureDef], output: str | None
) -> Contract:
    where = f"signature {name!r} of {path}"
    signature = signatures[name]
    inputs = _dtypes(signature)
    if _TEXT in inputs.values():
        raise UserError(
            f"{where} takes {list_tensors(inputs)}, such as encoded images; labelbeam decodes images itself. "
            f"{_other_signature(signatures)}."
        )
    check_inputs(where, inputs)
    ((input_name, tensor),) = signature.inputs.items()
    shape = _shape(tensor)
    output_name = _choose(path, "output", output, signature.outputs)
    result = signature.outputs[output_name]
    return Contract(
        signature=name,
        input_name=input_name,
        input_dtype=_dtype(tensor),
        batch=shape[0] if shape else None,
        size_px=read_size_px(where, shape),
        output_name=output_name,
        classes=read_classes(where, output_name, _dtype(result), _shape(result)),
    )


def _keras_contract(path: Path, output: str | None) -> Contract:
    model = load_keras(path)
    check_inputs(str(path), {tensor.name: str(tensor.dtype) for tensor in model.inputs})
    outputs = keras_outputs(model)
    output_name = _choose(path, "output", output, outputs)
    result = outputs[output_name]
    shape = list(model.inputs[0].shape)
    size_px = read_size_px(str(path), shape)
    classes = read_classes(str(path), output_name, str(result.dtype), list(result.shape))
    head = read_head(result)
    if head == "softmax" and classes == 1:
        raise UserError(
            f"{path} has a softmax over one class as {output_name!r}, which is 1 for every image. Train it "
            "with a sigmoid or a linear output instead."
        )
    by_class = head == "linear" and trained_by_class(path, list(outputs), output_name)
    return Contract(
        input_dtype=str(model.inputs[0].dtype),
        batch=shape[0],
        size_px=size_px,
        output_name=output_name if len(outputs) > 1 else "",
        classes=classes,
        input_range=read_input_range(model),
        outputs="logits" if head == "linear" else "probabilities" if head else "",
        multilabel=head == "sigmoid" or by_class,
    )


def _shape(tensor: TensorInfo) -> Shape:
    if tensor.tensor_shape.unknown_rank:
        return None
    return [d.size if d.size > 0 else None for d in tensor.tensor_shape.dim]


def _dtype(tensor: TensorInfo) -> str:
    import tensorflow as tf

    return tf.dtypes.as_dtype(tensor.dtype).name


def _dtypes(signature: SignatureDef) -> dict[str, str]:
    return {name: _dtype(tensor) for name, tensor in signature.inputs.items()}


def _other_signature(signatures: Mapping[str, SignatureDef]) -> str:
    """Return the remedy for a signature that takes encoded images."""
    others = [name for name, signature in signatures.items() if _TEXT not in _dtypes(signature).values()]
    if others:
        return f"Choose another signature with --signature: {', '.join(sorted(others))}"
    return "Export it where its code is, with a signature 'serving_default' that takes float32 [N, S, S, 3]"
