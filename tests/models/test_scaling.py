"""Scaling rules: scaled colours, names of rules, and their part in the fingerprint."""

import numpy as np
import pytest
import tensorflow as tf

from labelbeam.transforms.models.scaling import NAMED_SCALINGS, Scaling

PIXELS = np.array([[[[0, 0, 0], [255, 255, 255], [255, 0, 51]]]], np.float32)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OWN = Scaling((-1.0, 1.0), mean=(0.5, 0.0, 0.0), order="bgr")


def by_hand(scaling: Scaling, pixels: np.ndarray) -> np.ndarray:
    low, high = scaling.input_range
    scaled = (low + pixels / 255 * (high - low) - np.array(scaling.mean)) / np.array(scaling.std)
    return scaled if scaling.order == "rgb" else scaled[..., ::-1]


@pytest.mark.parametrize("scaling", [*NAMED_SCALINGS.values(), OWN], ids=lambda s: s.name)
def test_apply__every_rule__is_what_its_docstring_defines(scaling):
    expected = by_hand(scaling, PIXELS)
    np.testing.assert_allclose(scaling.apply(tf.constant(PIXELS)), expected, rtol=1e-5, atol=1e-4)
    factors, offsets, order = scaling.factors()
    np.testing.assert_allclose((PIXELS * factors + offsets)[..., order], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("name", "mode"), [("-1,1", "tf"), ("caffe", "caffe"), ("torch", "torch")])
def test_apply__named_rule__is_that_of_keras(name, mode):
    expected = tf.keras.applications.imagenet_utils.preprocess_input(PIXELS.copy(), mode=mode)
    np.testing.assert_allclose(
        NAMED_SCALINGS[name].apply(tf.constant(PIXELS)), expected, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize(
    ("name", "black", "white"),
    [
        ("0,1", (0, 0, 0), (1, 1, 1)),
        ("-1,1", (-1, -1, -1), (1, 1, 1)),
        ("0,255", (0, 0, 0), (255, 255, 255)),
        ("caffe", (-103.939, -116.779, -123.68), (151.061, 138.221, 131.32)),
        ("torch", (-2.1179, -2.0357, -1.8044), (2.2489, 2.4286, 2.64)),
    ],
)
def test_apply__named_rule__brings_black_and_white_to_its_ends(name, black, white):
    scaled = NAMED_SCALINGS[name].apply(tf.constant(PIXELS))[0, 0, :2]
    np.testing.assert_allclose(scaled, [black, white], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("scaling", "name"),
    [
        *((scaling, name) for name, scaling in NAMED_SCALINGS.items()),
        (Scaling((0.0, 2.0)), "0,2"),
        (OWN, "-1,1 --channel_mean 0.5,0,0 --channel_order bgr"),
        (Scaling(mean=MEAN), "0,1 --channel_mean 0.485,0.456,0.406"),
        (Scaling(std=STD), "0,1 --channel_std 0.229,0.224,0.225"),
    ],
)
def test_name__every_rule__is_the_value_of_the_option(scaling, name):
    assert scaling.name == name


def test_describe__every_difference__shows():
    rules = [*NAMED_SCALINGS.values(), OWN, Scaling(mean=MEAN), Scaling(std=STD), Scaling(order="bgr")]
    assert len({repr(rule.describe()) for rule in rules}) == len(rules)
    assert Scaling().describe() == {"input_range": (0.0, 1.0)}
