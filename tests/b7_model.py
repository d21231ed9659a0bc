"""The reference model's architecture with random weights, because its real weights can't be had offline."""

from __future__ import annotations


def save_b7(folder: str) -> None:
    """Write `EfficientNetB7` with random weights and TF Hub's signature."""
    import tensorflow as tf

    network = tf.keras.applications.EfficientNetB7(weights=None, classifier_activation=None)
    spec = tf.TensorSpec([None, 600, 600, 3], tf.float32, name="inputs")

    def model(inputs):
        return network(inputs * 255.0, training=False)  # Keras's own scales from 0-255

    module = tf.Module()
    module.network = network
    module.__call__ = tf.function(model, input_signature=[spec], autograph=False)
    serving = tf.function(lambda inputs: {"logits": model(inputs)}, [spec], autograph=False)
    tf.saved_model.save(module, folder, {"serving_default": serving})
