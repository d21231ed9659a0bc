import pickle

import numpy as np
import pytest
from PIL import Image

from labelbeam.transforms.images.resize import ResizeRule, resize_image
from tests.synthetic import gradient


@pytest.mark.parametrize(
    ("size_px", "image", "box"),
    [
        (224, (256, 256), (16, 16, 240, 240)),
        (224, (500, 375), (86, 24, 414, 352)),
        (600, (1600, 1200), (231, 31, 1370, 1170)),
        (224, (1, 1), (0, 0, 1, 1)),
    ],
)
def test_box__centre_crop__is_efficientnets(size_px, image, box):
    assert ResizeRule(size_px).box(*image) == box


def test_box__stretch__is_the_whole_image():
    assert ResizeRule(224, "stretch").box(500, 375) == (0, 0, 500, 375)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (333, 500), (10_000, 3)])
def test_box__any_size__lies_within_the_image(size):
    left, top, right, bottom = ResizeRule(224).box(*size)
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]


def test_describe__another_rule__is_another_description():
    rules = [ResizeRule(224), ResizeRule(225), ResizeRule(224, "stretch"), ResizeRule(224, crop_padding_px=0)]
    assert len({str(rule.describe()) for rule in rules}) == len(rules)
    assert pickle.loads(pickle.dumps(rules[0])) == rules[0]


def test_resize_image__smaller__is_antialiased():
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.asarray(resize_image(Image.fromarray(stripes), (0, 0, 400, 400), 40))
    assert np.abs(small.astype(int) - 127).max() < 6


def test_resize_image__a_box__is_that_part():
    part = np.asarray(resize_image(gradient(100, 100), (50, 0, 100, 50), 50))
    assert np.abs(part.astype(int) - np.asarray(gradient(100, 100))[:50, 50:]).max() == 0
