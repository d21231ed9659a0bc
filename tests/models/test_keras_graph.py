"""Input ranges and heads, read from real Keras 3 models."""

import numpy as np
import pytest
import tensorflow as tf

from labelbeam.transforms.models.keras_graph import fit_range, read_input_range, read_last_operation

keras = tf.keras
layers, applications = keras.layers, keras.applications

BYTES, UNIT, SIGNED = (0, 255), (0, 1), (-1, 1)
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("scale", "offset", "expected"),
    [
        (1 / 255, 0, BYTES),
        (1 / 256, 0, BYTES),
        (1 / 127.5, -1, BYTES),
        (1 / 127.5, 0, BYTES),
        (1 / 128, -127 / 128, BYTES),
        (1 / 255, -0.5, BYTES),
        (1, -MEAN * 255, BYTES),
        (1, -128, BYTES),
        (1 / 255 / DEVIATION, -MEAN / DEVIATION, BYTES),
        (1 / 60, -230 / 60, BYTES),  # scans of documents, adapted
        (1 / DEVIATION, -MEAN / DEVIATION, UNIT),
        (2, -1, UNIT),
        (1, -0.5, UNIT),
        (255, 0, UNIT),
        (255, -MEAN * 255, UNIT),
        (127.5, 127.5, SIGNED),
        (0.5, 0.5, SIGNED),
        (2, 0, SIGNED),
        (127.5, 127.5 - MEAN * 255, SIGNED),
        (1, 0, None),  # no preprocessing
        (3.2, -0.42, None),  # dark images in 0..1, or bright ones in -1..1
        (5, -4, None),
        (-1, 1, None),
        (-1 / 255, 1, None),
        (0, 0, None),
        (np.inf, 0, None),
        (np.array([1 / 255, 1 / 255, 5]), 0, None),
    ],
)
def test_fit_range__scale_and_offset__give_the_range_or_none(scale, offset, expected):
    assert fit_range(*np.broadcast_arrays(scale, offset, np.zeros(3))[:2]) == expected


def sequential(*preprocessing, shape=(32, 32, 3), **of_input):
    pooling = layers.GlobalAveragePooling2D()
    start = keras.Input(shape, **of_input)
    return keras.Sequential([start, *preprocessing, layers.Conv2D(2, 3), pooling, layers.Dense(4)])


def functional(preprocess):
    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(2, 3)(preprocess(images))
    return keras.Model(images, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


def adapted(low, high):
    layer = layers.Normalization()
    layer.adapt(low + (high - low) * np.random.default_rng(0).beta(2, 2, (9, 9, 9, 3)))
    return layer


def two_towers():
    images = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 255)(images)
    towers = [layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(x)) for _ in range(2)]
    return keras.Model(images, layers.Dense(4)(layers.Concatenate()(towers)))


def ensemble():
    images = keras.Input((32, 32, 3))
    members = (sequential(layers.Rescaling(1 / 255)), sequential(layers.Rescaling(2, -1)))
    return keras.Model(images, layers.Average()([member(images) for member in members]))


def rescaled_beside_the_raw_pixels():
    images = keras.Input((32, 32, 3))
    both = layers.Concatenate()([layers.Rescaling(1 / 255)(images), layers.Conv2D(3, 1)(images)])
    return keras.Model(images, layers.Dense(4)(layers.GlobalAveragePooling2D()(both)))


def mixed_precision():
    return sequential(layers.Rescaling(1 / 127.5, -1, dtype="mixed_bfloat16"))


SMALL = {"weights": None, "input_shape": (32, 32, 3), "classes": 4}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: sequential(), None),
        (lambda: sequential(layers.BatchNormalization()), None),
        (lambda: sequential(layers.Normalization()), None),  # never adapted
        (lambda: sequential(layers.Rescaling(1 / 255)), BYTES),
        (lambda: sequential(layers.Rescaling(1 / 127.5, -1)), BYTES),
        (lambda: sequential(layers.Rescaling([2.0, 2, 2], -1)), UNIT),
        (lambda: sequential(layers.Rescaling(127.5, 127.5)), SIGNED),
        (lambda: sequential(layers.Normalization(mean=MEAN, variance=DEVIATION**2)), UNIT),
        (lambda: sequential(layers.Normalization(mean=MEAN * 255, variance=(DEVIATION * 255) ** 2)), BYTES),
        (lambda: sequential(adapted(0, 1)), UNIT),
        (lambda: sequential(adapted(0, 255)), BYTES),
        (lambda: sequential(adapted(-1, 1)), SIGNED),
        (lambda: sequential(layers.Rescaling(1 / 255), adapted(0, 1)), BYTES),
        (lambda: sequential(layers.RandomFlip(), layers.RandomZoom(0.2), layers.Rescaling(1 / 255)), BYTES),
        (lambda: sequential(layers.Resizing(24, 24), layers.ZeroPadding2D(2), layers.Rescaling(2, -1)), UNIT),
        (lambda: sequential(layers.Rescaling(1 / 255), shape=(None, None, 3)), BYTES),
        (lambda: sequential(layers.Rescaling(1 / 255), batch_size=3, dtype="uint8"), BYTES),
        (lambda: sequential(keras.Sequential([layers.RandomFlip()]), layers.Rescaling(2, -1)), UNIT),
        (lambda: sequential(layers.Dropout(0.1), layers.Rescaling(2, -1)), UNIT),
        (lambda: keras.Sequential([keras.Input((32, 32, 3)), sequential(layers.Rescaling(1 / 255))]), BYTES),
        (lambda: functional(sequential().layers[0]), None),
        (lambda: functional(applications.mobilenet_v2.preprocess_input), BYTES),  # mode "tf"
        (lambda: functional(applications.densenet.preprocess_input), BYTES),  # "torch"
        (lambda: functional(applications.resnet50.preprocess_input), BYTES),  # "caffe": BGR, less the mean
        (lambda: functional(applications.efficientnet.preprocess_input), None),  # does nothing
        (lambda: functional(lambda x: (keras.ops.cast(x, "float32") - 127.5) / 127.5), BYTES),
        (lambda: functional(lambda x: x * 2.0 - 1.0), UNIT),
        (lambda: functional(lambda x: x * x / 255.0), None),  # not linear
        (lambda: functional(lambda x: 1.0 - x), None),
        (two_towers, BYTES),
        (ensemble, None),
        (rescaled_beside_the_raw_pixels, None),
        (mixed_precision, BYTES),
        (lambda: applications.MobileNetV3Small(**SMALL, alpha=0.35, minimalistic=True), BYTES),
        (lambda: applications.MobileNetV3Small(**SMALL, alpha=0.35, include_preprocessing=False), None),
        (lambda: applications.EfficientNetB0(**SMALL), BYTES),
    ],
)
def test_read_input_range__first_layers__give_the_range_or_none(make, expected):
    assert read_input_range(make()) == expected


def head(*last, of=lambda: layers.Dense(4)):
    return keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), of(), *last])


def dense(activation):
    return lambda: layers.Dense(4, activation=activation)


def operation(function):
    x = keras.Input((4,))
    return keras.Model(x, function(layers.Dense(4)(x)))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: head(), "linear"),
        (lambda: head(layers.Activation("linear", dtype="float32"), layers.Dropout(0.2)), "linear"),
        (lambda: head(of=dense("softmax")), "softmax"),
        (lambda: head(of=dense("sigmoid")), "sigmoid"),
        (lambda: head(of=dense(layers.Softmax())), "softmax"),
        (lambda: head(of=dense("relu")), ""),
        (lambda: head(of=dense("log_softmax")), ""),
        (lambda: head(layers.Activation("softmax", dtype="float32")), "softmax"),
        (lambda: head(layers.Softmax()), "softmax"),
        (lambda: head(layers.ReLU()), ""),
        (lambda: head(layers.Softmax(), layers.Rescaling(2.0)), ""),
        (lambda: head(layers.Activation("sigmoid"), layers.Reshape((2, 2)), layers.Flatten()), "sigmoid"),
        (lambda: head(layers.Reshape((2, 2)), layers.Softmax(), layers.Flatten()), ""),  # over 2 of the 4
        (lambda: head(keras.Sequential([layers.Dense(3), layers.Softmax()]), layers.Identity()), "softmax"),
        (lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 8), layers.Flatten()]), "linear"),
        (lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.GlobalAveragePooling2D()]), ""),
        (lambda: operation(keras.ops.softmax), "softmax"),
        (lambda: operation(keras.ops.sigmoid), "sigmoid"),
        (lambda: operation(keras.ops.tanh), ""),
        (lambda: operation(lambda x: keras.ops.cast(keras.ops.softmax(x), "float16")), "softmax"),
    ],
)
def test_read_head__last_operation__is_named(make, expected):
    (output,) = make().outputs
    assert read_last_operation(output) == expected
