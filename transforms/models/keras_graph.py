"""Input range and kind of outputs of a loaded Keras 3 model, read from its graph."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from keras import KerasTensor

# "linear" is a layer without activation; "" stands for all other operations.
LastOperation = Literal["softmax", "sigmoid", "linear", ""]

# Class names of Keras layers and operations that only prepare pixels. Layers named Random... count as well.
# BatchNormalization is left out, because a network may start with one over pixels of any range.
_ARITHMETIC = ("Rescaling", "Normalization", "Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Cast")
_GEOMETRY = (
    "Resizing",
    "CenterCrop",
    "Cropping2D",
    "ZeroPadding2D",
    "Flip",
    "GetItem",
    "Stack",
    "Concatenate",
)
_TRAINING_ONLY = ("Identity", "Dropout", "SpatialDropout2D", "GaussianNoise")
_PREPARING = frozenset((*_ARITHMETIC, *_GEOMETRY, *_TRAINING_ONLY))
# Class names of layers and operations that keep the values of an output, as a linear Activation does.
_KEEPING = frozenset(("Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze"))
_WITH_ACTIVATION = frozenset(("Activation", "Conv1D", "Conv2D", "Dense", "EinsumDense"))

# Input ranges, each with the interval in which it may place the mean colour, as fractions of the range.
# Scale alone separates 0..255 from the others. The intervals of 0..1 and -1..1 overlap, because the mean of a
# dark data set in 0..1 is also a likely mean in -1..1: such a model fits both and is not read.
_RANGES = {
    (0.0, 255.0): (-0.01, 1.01),
    (0.0, 1.0): (0.02, 0.65),
    (-1.0, 1.0): (0.15, 0.65),
}
# Side of the images that a model of any size is run on, above the crops that models start with.
_ANY_SIZE_PX = 256


def read_input_range(model: Any) -> tuple[float, float] | None:
    """Read which range of colours a Keras 3 model of one input was built for from its first layers.

    Returns:
      The values that the colours 0 and 255 must become; None if the first layers don't prepare
      pixels, or if more than one range fits.
    """
    shape = model.inputs[0].shape
    if len(shape) != 4:
        return None
    size = [side or _ANY_SIZE_PX for side in shape[1:3]]
    # The first layers are run on three grey images instead of being interpreted one by one, because formulas
    # for every kind of layer and operation would have to follow each change in Keras.
    grey = [np.full((shape[0] or 1, *size, shape[3] or 3), x, "float32") for x in (0, 128, 255)]
    prepared = [_prepare(model, images) for images in grey]
    pixels = [y[0, y.shape[1] // 2, y.shape[2] // 2] for y in prepared if y is not None and y.ndim == 4]
    if len(pixels) != len(grey):
        return None
    black, middle, white = pixels
    scale = (white - black) / 255
    is_linear = np.abs(middle - black - 128 * scale) <= 0.01 * np.abs(white - black)  # bfloat16 has 8 bits
    return fit_range(scale, black) if is_linear.all() else None


def fit_range(scale: np.ndarray, offset: np.ndarray) -> tuple[float, float] | None:
    """Find the input range that a model's preprocessing was written for.

    A range fits if the preprocessing `scale * x + offset` maps it onto a range that networks are trained
    on: about 0 to 1, 0 to 255, -1 to 1, or colours less a mean colour, divided by a deviation or not.

    Returns:
      One of (0, 255), (0, 1) and (-1, 1); None if no range fits or several do.
    """
    channels = list(zip(scale.tolist(), offset.tolist(), strict=True))
    fitting = [r for r, mean in _RANGES.items() if all(_fits(r, mean, a, b) for a, b in channels)]
    return fitting[0] if len(fitting) == 1 else None


def _fits(ends: tuple[float, float], mean: tuple[float, float], scale: float, offset: float) -> bool:
    low, high = ends
    first, span = scale * low + offset, scale * (high - low)
    if not np.isfinite([first, span]).all() or span <= 0:
        return False
    zero = -first / span
    # 255 / 256 is the least usual span; 20 is that of low contrast, a deviation of 1 / 20 of the range.
    standard = 0.9 <= span <= 20 and mean[0] <= zero <= mean[1]
    bytes_less_mean = 250 <= span <= 260 and 0.15 <= zero <= 0.65
    from_zero = abs(first) <= 0.01 and (0.98 <= span <= 1.02 or 250 <= span <= 260)
    return standard or bytes_less_mean or from_zero


def read_last_operation(output: KerasTensor) -> LastOperation:
    """Read which operation computes the values of an output: a softmax over the classes, or another."""
    tensor, operation = _last_operation(output)
    name = type(operation).__name__
    activation = getattr(operation, "activation", None) if name in _WITH_ACTIVATION else operation
    kind = _name_of(activation)
    if kind == "softmax":
        axis = getattr(activation, "axis", -1)
        over_classes = axis in (-1, len(tensor.shape) - 1) and tensor.shape[-1] == output.shape[-1]
        return "softmax" if over_classes else ""
    if kind == "sigmoid":
        return "sigmoid"
    return "linear" if kind == "linear" else ""


def _name_of(activation: Any) -> str:
    """Return the name of an activation function, layer or operation in lower case."""
    return getattr(activation, "__name__", type(activation).__name__).lower()


def _last_operation(tensor: KerasTensor) -> tuple[KerasTensor, Any]:
    """Return the operation that computes the values of a tensor, and the result of that operation."""
    node = _node(tensor)
    operation = node.operation
    if inner := _graph_outputs(operation):
        return _last_operation(inner[tensor._keras_history.tensor_index])
    name = type(operation).__name__
    is_linear = name == "Activation" and _name_of(operation.activation) == "linear"
    if (name in _KEEPING or is_linear) and len(node.input_tensors) == 1:
        return _last_operation(node.input_tensors[0])
    return tensor, operation


def _prepare(model: Any, images: Any) -> np.ndarray | None:
    """Run the operations of a model that only prepare pixels, also those in a nested model."""
    import tensorflow as tf

    consumers = _consumers(model)
    ends = _ends_of_preparation(model, consumers)
    if len(ends) != 1:
        return None
    if ends[0] is not model.inputs[0]:
        images = tf.keras.Model(model.inputs[0], ends[0])(images, training=False)
    nodes = consumers[id(ends[0])]
    if len(nodes) == 1 and _graph_outputs(nested := nodes[0].operation) and len(nested.inputs) == 1:
        return _prepare(nested, images)
    return tf.cast(images, tf.float32).numpy()


def _ends_of_preparation(model: Any, consumers: Mapping[int, list[Any]]) -> list[KerasTensor]:
    """Return the tensors of prepared pixels that the network itself takes, or that the model returns."""
    prepared = {id(tensor): tensor for tensor in model.inputs}
    waiting = list(model.inputs)
    while waiting:
        for node in consumers[id(waiting.pop())]:
            new = {id(tensor): tensor for tensor in node.outputs}
            whole = all(id(tensor) in prepared for tensor in node.input_tensors)
            if whole and not new.keys() <= prepared.keys() and _is_preparing(node.operation):
                prepared |= new
                waiting += new.values()

    def is_end(tensor: KerasTensor) -> bool:
        taken = any(id(node.outputs[0]) not in prepared for node in consumers[id(tensor)])
        return taken or any(tensor is output for output in model.outputs)

    return [tensor for tensor in prepared.values() if is_end(tensor)]


def _is_preparing(operation: Any) -> bool:
    if outputs := _graph_outputs(operation):
        ends = _ends_of_preparation(operation, _consumers(operation))
        return len(ends) == len(outputs) == 1 and ends[0] is outputs[0]
    name = type(operation).__name__
    return name in _PREPARING or name.startswith("Random")


def _consumers(model: Any) -> defaultdict[int, list[Any]]:
    """Return the nodes of a model's graph by the id of each tensor they take."""
    graph = getattr(model, "_functional", model)  # a Sequential model wraps a Functional one
    consumers: defaultdict[int, list[Any]] = defaultdict(list)
    for node in itertools.chain(*graph._nodes_by_depth.values()):
        # A set, because a node may take a tensor twice, as in `x * x`.
        for tensor_id in {id(tensor) for tensor in node.input_tensors}:
            consumers[tensor_id].append(node)
    return consumers


def _node(tensor: KerasTensor) -> Any:
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def _graph_outputs(operation: Any) -> list[KerasTensor]:
    """Return the outputs of a nested Sequential or Functional model; none for anything else."""
    is_model = getattr(operation, "inputs", None) and hasattr(operation, "layers")
    return operation.outputs if is_model else []
