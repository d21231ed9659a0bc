"""A classifier of three classes that a reader can check by eye: an image's mean red, green and blue."""

from __future__ import annotations

import shutil
from pathlib import Path


def save_tiny_model(
    folder: Path,
    size_px: int | None,
    gain: float = 1.0,
    poison: bool = False,
    explode: bool = False,
    classes: int = 3,
    stuck: bool = False,
) -> Path:
    """Write a SavedModel with the TF Hub signature; logits are the mean colours times `gain`, less 1.

    Args:
      folder: Output folder; an existing one is replaced.
      size_px: Input size in the signature, or None.
      gain: Factor of the mean colours.
      poison: Whether the outputs for an all-white image are NaN.
      explode: Whether the model raises an error for an all-white image.
      stuck: Whether the model never returns for an all-white image.
      classes: Number of classes; those after the first three have outputs of -1.
    """
    import tensorflow as tf

    def model(inputs):
        colours = tf.reduce_mean(inputs, axis=[1, 2])
        logits = tf.pad(colours * module.gain - 1, [[0, 0], [0, classes - 3]], constant_values=-1.0)
        white = tf.reduce_min(colours, axis=1, keepdims=True) > 0.999
        if explode:
            check = tf.debugging.assert_equal(tf.reduce_any(white), False, "too bright")
            with tf.control_dependencies([check]):
                logits = tf.identity(logits)
        if stuck:
            turns = tf.while_loop(lambda _: tf.reduce_any(white), lambda n: [n + 1], [tf.constant(0)])
            with tf.control_dependencies(turns):
                logits = tf.identity(logits)
        return tf.where(white, float("nan"), logits) if poison else logits

    module = tf.Module()
    module.gain = tf.Variable(gain)
    spec = tf.TensorSpec([None, size_px, size_px, 3], tf.float32, name="inputs")
    module.__call__ = tf.function(model, input_signature=[spec], autograph=False)
    serving = tf.function(lambda inputs: {"logits": model(inputs)}, [spec], autograph=False)
    shutil.rmtree(folder, ignore_errors=True)
    tf.saved_model.save(module, str(folder), {"serving_default": serving})
    return folder
