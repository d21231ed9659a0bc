"""Contract: inputs and outputs of a model, and checks that images [N, S, S, 3] become [N, classes]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from labelbeam.transforms.errors import UserError

if TYPE_CHECKING:
    import tensorflow as tf

# A loaded model: a function from images, in the model's own scaling, to the chosen output.
Model = Callable[["tf.Tensor"], "tf.Tensor"]
# Lengths, None for one that is open; None for a tensor of any rank.
Shape = list[int | None] | None

_FLOATS = ("float16", "bfloat16", "float32", "float64")
# int8 is left out, because colours of 128 and more don't fit.
_INTEGERS = ("uint8", "uint16", "uint32", "uint64", "int16", "int32", "int64")
_WRAP = "Wrap it in a model that takes [N, S, S, 3]"
# Largest number of names in a message.
_MAX_NAMES = 10


@dataclass(frozen=True, slots=True)
class Contract:
    """Inputs and outputs of a model; None or "" for a property that the model doesn't show.

    Attributes:
      signature: Name of the SavedModel's signature; "" if the model itself is called.
      input_name: Name of the one input of that signature.
      input_dtype: Type of the input's values, such as `float32` or `uint8`.
      batch: The only batch size that the model takes.
      size_px: Width and height of the input.
      output_name: Name of the output to use; "" if the model has one output without a name.
      classes: Length of that output.
      input_range: Values of the colours 0 and 255, read from the first layers of a Keras model.
      outputs: Kind of that output, read from the last operation of a Keras model.
      multilabel: Whether each class is judged by itself: the output is a sigmoid, or it is linear and the
        file names a binary cross-entropy as its loss.
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


def choose_name(
    path: Path, noun: str, requested: str | None, choices: Mapping[str, Any], default: str = ""
) -> str:
    """Return the requested name, else the default one, else the only one.

    Raises:
      UserError: There is no such name, or there are several and none is requested.
    """
    flag = "--output_name" if noun == "output" else f"--{noun}"
    names = ", ".join(sorted(choices)[:_MAX_NAMES]) + (", ..." if len(choices) > _MAX_NAMES else "")
    if requested is not None and requested not in choices:
        raise UserError(f"{flag}={requested!r}: {path} has no such {noun}; it has {names}.")
    if requested is None and default not in choices and len(choices) > 1:
        raise UserError(f"{path} has several {noun}s: choose one with {flag}: {names}.")
    return requested if requested is not None else default if default in choices else next(iter(choices))


def list_tensors(inputs: Mapping[str, str]) -> str:
    """Return tensors as messages show them, from their types by name."""
    return ", ".join(f"{name!r} {dtype}" for name, dtype in sorted(inputs.items()))


def check_inputs(where: str, inputs: Mapping[str, str]) -> None:
    """Check that images are the only one of the inputs, and that the colours 0 to 255 fit into their type.

    Raises:
      UserError: Images are not the only input, or 0 to 255 don't fit.
    """
    tensors = list_tensors(inputs)
    if len(inputs) != 1:
        raise UserError(
            f"{where} takes {len(inputs)} inputs ({tensors}); a classifier takes images alone. Wrap it in a "
            "model of one input that sets the others, and export that with model.export('FOLDER')."
        )
    if not {*_FLOATS, *_INTEGERS}.issuperset(inputs.values()):
        raise UserError(f"{where} takes {tensors}, which can't hold 0 to 255. Export it for float32.")


def read_size_px(where: str, shape: Shape) -> int | None:
    """Return the width and height of a model's input; None if any size will do.

    Raises:
      UserError: The input is no batch of square RGB images, channels last.
    """
    if shape is None:
        return None
    if len(shape) != 4 or shape[3] not in (3, None):
        raise UserError(
            f"{where} takes {shape_text(shape)}; it must take images [N, S, S, 3]. {_remedy(shape)}."
        )
    sizes = {side for side in shape[1:3] if side}
    if len(sizes) == 2:
        raise UserError(
            f"{where} takes images of {shape[2]} x {shape[1]} px; they must be square. {_WRAP} and resizes "
            f"them with keras.layers.Resizing({shape[1]}, {shape[2]}), and export that with "
            "model.export('FOLDER')."
        )
    return next(iter(sizes), None)


def _remedy(shape: list[int | None]) -> str:
    """Return the remedy for a model of other images than RGB, channels last."""
    if shape[1:2] == [3] and len(shape) == 4:
        step = "and starts with keras.layers.Permute((3, 1, 2)), because its channels come first"
    elif shape[3:] == [1]:
        step = "and starts with keras.ops.image.rgb_to_grayscale, because its images are grey"
    else:
        step = "and brings them into that shape"
    return f"{_WRAP} {step}, and export that with model.export('FOLDER')"


def read_classes(where: str, name: str, dtype: str, shape: Shape) -> int | None:
    """Return the length of a model's output; None if it is open.

    Raises:
      UserError: The output is no score for each class.
    """
    if dtype not in _FLOATS:
        raise UserError(
            f"{where} returns {dtype} as {name!r}; labels need a score for each class. Choose another output "
            "with --output_name, or export the scores."
        )
    if shape is None:
        return None
    if len(shape) != 2:
        end = "ends with keras.layers.GlobalAveragePooling2D" if len(shape) == 4 else "flattens it"
        raise UserError(
            f"{where} returns {shape_text(shape)} as {name!r}; it must return [N, classes]. Wrap it in a "
            f"model that {end}, and export that with model.export('FOLDER')."
        )
    return shape[1]


def shape_text(shape: list[int | None]) -> str:
    """Return a shape as messages show it, N for the batch."""
    first = [str(size) if size else "N" for size in shape[:1]]
    return f"[{', '.join(first + [str(size) if size else 'any' for size in shape[1:]])}]"
