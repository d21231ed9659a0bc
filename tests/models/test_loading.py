"""Calls of restored objects without signatures."""

import numpy as np
import pytest
import tensorflow as tf

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.spec import ModelOptions
from tests.specs import resolve_spec

IMAGES = tf.TensorSpec([None, 16, 16, 3], tf.float32)
BOTH = ({"training": True}, {"training": False})


def colours(x, training=None):
    """Return the mean colours, negated while training."""
    mean = tf.reduce_mean(x, [1, 2])
    return -mean if training else mean


def keyword_only(x, *, training):
    return colours(x, training)


def keyword_only_usually_training(x, *, training=True):
    return colours(x, training)


def required(x, training):
    return colours(x, training)


def as_tensor(x, training):
    return tf.cond(training, lambda: colours(x, True), lambda: colours(x))


def with_momentum(x, training=False, momentum=0.99):
    return colours(x, training)


def in_a_dictionary(x, training=None):
    return {"y": colours(x, training)}


def two_results(x):
    return colours(x), x


def masked(x, mask):
    return colours(x)


def save(folder, function, traces):
    module = tf.Module()
    module.__call__ = tf.function(function)
    for trace in traces:
        module.__call__.get_concrete_function(IMAGES, **trace)
    tf.saved_model.save(module, str(folder), signatures={})


def top_1(folder) -> int:
    labels = folder.with_suffix(".txt")
    labels.write_text("r\ng\nb")
    spec = resolve_spec(ModelOptions(str(folder), image_size=16, labels=str(labels), outputs="logits"))
    (result,) = Classifier(spec, 1, 1).classify([np.full((16, 16, 3), (200, 100, 50), np.uint8)])
    return int(result.class_ids[0])


@pytest.mark.parametrize(
    ("function", "traces"),
    [
        (colours, [{}]),
        (colours, BOTH),  # the default is not among the traces
        (colours, [{}, *BOTH]),
        (keyword_only, BOTH),
        (keyword_only_usually_training, BOTH),
        (required, BOTH),
        (as_tensor, [{"training": tf.TensorSpec([], tf.bool)}]),
        (with_momentum, BOTH),
        (in_a_dictionary, BOTH),
    ],
)
def test_callable__optional_training__is_called_for_inference(tmp_path, function, traces):
    save(tmp_path / "m", function, traces)
    assert top_1(tmp_path / "m") == 0


@pytest.mark.parametrize(
    ("function", "traces"),
    [
        (colours, [{"training": True}]),
        (keyword_only_usually_training, [{}]),
        (masked, [{"mask": tf.TensorSpec([None])}]),
        (two_results, [{}]),
    ],
)
def test_callable__not_for_inference_on_images_alone__is_refused(tmp_path, function, traces):
    save(tmp_path / "m", function, traces)
    with pytest.raises(RunError, match="can't be called with .* alone.*Export it with a signature"):
        top_1(tmp_path / "m")


def test_callable__of_keras_2__is_called_for_inference(tmp_path):
    import tf_keras

    layers = tf_keras.layers
    dropout = layers.Dropout(0.9, input_shape=(16, 16, 3))
    model = tf_keras.Sequential([dropout, layers.GlobalAveragePooling2D()])
    tf.saved_model.save(model, str(tmp_path / "m"), signatures={})
    assert top_1(tmp_path / "m") == 0
