"""EfficientNet-Lite0 as a Keras model, because Beam's TensorFlow handlers load no other kind.

python -m benchmarks.rivals.keras_model SAVED_MODEL KERAS_FILE

The same network with the same weights as the SavedModel, in Keras layers; the logits of both are compared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from labelbeam.transforms.models.efficientnet_lite import SIZE_PX

# Tan and Le, "EfficientNet", 2019, table 1: repeats and stride of each stage. The weights define all else.
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
TOLERANCE = 1e-3

Weights = Iterator[np.ndarray]


def build(weights: Weights) -> tf.keras.Model:
    """Return the network, from images in [0, 1] to logits."""
    inputs = tf.keras.Input((SIZE_PX, SIZE_PX, 3))
    x = tf.keras.layers.Rescaling(255 / 128, -127 / 128)(inputs)
    x = conv(x, weights, stride=2, activation="relu6")
    for n, (repeats, stride) in enumerate(STAGES):
        for repeat in range(repeats):
            x = block(x, weights, expands=n > 0, stride=1 if repeat else stride)
    x = tf.keras.layers.GlobalAveragePooling2D()(conv(x, weights, activation="relu6"))
    kernel, bias = next(weights), next(weights)
    outputs = with_weights(tf.keras.layers.Dense(kernel.shape[-1]), x, kernel, bias)
    assert next(weights, None) is None, "the SavedModel has more weights"
    return tf.keras.Model(inputs, outputs)


def block(x: Any, weights: Weights, expands: bool, stride: int) -> Any:
    """Expand, filter by channel, project, and add the input if its shape is the output's."""
    y = conv(x, weights, activation="relu6") if expands else x
    kernel, bias = next(weights), next(weights)
    layer = tf.keras.layers.DepthwiseConv2D(kernel.shape[:2], stride, "same", activation="relu6")
    y = conv(with_weights(layer, y, kernel, bias), weights)
    return tf.keras.layers.Add()([x, y]) if x.shape == y.shape else y


def conv(x: Any, weights: Weights, stride: int = 1, activation: str | None = None) -> Any:
    """Return a convolution with the next weights."""
    kernel, bias = next(weights), next(weights)
    layer = tf.keras.layers.Conv2D(kernel.shape[-1], kernel.shape[:2], stride, "same", activation=activation)
    return with_weights(layer, x, kernel, bias)


def with_weights(layer: tf.keras.layers.Layer, x: Any, *weights: np.ndarray) -> Any:
    """Apply a layer and give it its weights."""
    y = layer(x)
    layer.set_weights(weights)
    return y


def main(saved_model: str, keras_file: str) -> None:
    """Write the model; it gets its final name only after it was read back and compared."""
    loaded = tf.saved_model.load(saved_model)
    unchecked = Path(keras_file).with_name(f"unchecked-{Path(keras_file).name}")
    build(variable.numpy() for variable in loaded.weights).save(unchecked)
    images = np.random.default_rng(0).random((8, SIZE_PX, SIZE_PX, 3), np.float32)
    logits = loaded(tf.constant(images)).numpy()
    worst = float(np.abs(tf.keras.models.load_model(unchecked)(images).numpy() - logits).max())
    assert worst <= TOLERANCE, f"logits differ by {worst}, of at most {np.abs(logits).max()}"
    unchecked.rename(keras_file)
    print(f"logits within {worst:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
