"""Boxes of images: their regions, and the pixels that a model sees of them."""

import io

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.images.decode import decode_boxes, decode_image
from labelbeam.transforms.images.regions import Region, make_region, region_of
from labelbeam.transforms.images.resize import ResizeRule
from tests.synthetic import encoded, gradient, oriented_jpeg

WIDTH, HEIGHT = 60, 40
RULES = [ResizeRule(16, "stretch"), ResizeRule(16, "center_crop")]
edges = st.floats(0, 1, width=32)


@st.composite
def pixel_boxes(draw):
    left, top = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    return left, top, draw(st.integers(left + 1, WIDTH)), draw(st.integers(top + 1, HEIGHT))


def as_displayed(data: bytes) -> Image.Image:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return image.convert("RGB")


@given(st.integers(1, 8), st.lists(pixel_boxes(), min_size=1, max_size=5), st.sampled_from(RULES))
def test_decode_boxes__each_box__has_the_pixels_of_its_crop_alone(orientation, boxes, rule):
    data = oriented_jpeg(gradient(WIDTH, HEIGHT), orientation)
    shown = as_displayed(data)
    scale = shown.width / WIDTH, shown.height / HEIGHT
    boxes = [
        (b[0] * scale[0], b[1] * scale[1], max(b[2] * scale[0], b[0] * scale[0] + 1),
         max(b[3] * scale[1], b[1] * scale[1] + 1))
        for b in boxes
    ]  # fmt: skip
    regions = [make_region("pixel", *box) for box in boxes]
    for region, decoded in zip(regions, decode_boxes(data, regions, rule, 10**6), strict=True):
        crop = shown.crop(region.pixels(*shown.size))
        alone = decode_image(encoded(crop), rule, 10**6)
        assert np.array_equal(decoded.pixels, alone.pixels)
        assert (decoded.width_px, decoded.height_px) == crop.size
        assert (decoded.format, decoded.orientation) == ("JPEG", orientation)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_decode_boxes__any_format__is_cropped(format):
    data = encoded(gradient(WIDTH, HEIGHT), format)
    (decoded,) = decode_boxes(data, [Region("percent", 50, 25, 50, 75)], RULES[0], 10**6)
    crop = as_displayed(data).crop((30, 10, 60, 40))
    assert np.array_equal(decoded.pixels, decode_image(encoded(crop), RULES[0], 10**6).pixels)


def test_decode_boxes__box_outside__is_an_error_of_its_own_and_damage_one_of_all():
    data = encoded(gradient(WIDTH, HEIGHT))
    regions = [
        Region("pixel", 0, 0, 10, 10),
        Region("pixel", 100, 0, 10, 10),
        Region("pixel", 50, 30, 19, 10),
    ]
    inside, outside, over_the_edge = decode_boxes(data, regions, RULES[0], 10**6)
    assert (inside.width_px, over_the_edge.width_px) == (10, 10)
    assert str(outside).startswith(
        "the box 100,0,110,10 (left, top, right, bottom) lies outside of the image"
    )
    with pytest.raises(ImageError, match="no image"):
        decode_boxes(b"no image", regions, RULES[0], 10**6)


@given(st.sampled_from(["pixel", "percent"]), st.lists(st.floats(-1e5, 1e5), min_size=4, max_size=4))
def test_region__its_fragment__names_it_exactly(unit, numbers):
    left, right = sorted(numbers[:2])
    top, bottom = sorted(numbers[2:])
    region = make_region(unit, left, top, right, bottom)
    assert region_of(f"gs://b/a#xywh=1,2,3,4.jpg{region.fragment}") == region


@pytest.mark.parametrize(
    "uri",
    [
        "a.jpg",
        "a.jpg#xywh=1,2,3,4",
        "a.jpg#xywh=pixel:1,2,3",
        "#xywh=percent:a,b,c,d",
        "a#xywh=pixel:1,2,3,4 ",
    ],
)
def test_region_of__other_uris__is_none(uri):
    assert region_of(uri) is None


@given(edges, edges, edges, edges, st.integers(1, 9000), st.integers(1, 9000))
def test_pixels__fractions_of_an_image__are_within_it_and_hold_a_pixel(a, b, c, d, width, height):
    (left, right), (top, bottom) = sorted((a, b)), sorted((c, d))
    assume(right - left > 1e-5 and bottom - top > 1e-5)
    cut = make_region("percent", *(100 * edge for edge in (left, top, right, bottom))).pixels(width, height)
    assert 0 <= cut[0] < cut[2] <= width and 0 <= cut[1] < cut[3] <= height
    assert all(
        abs(edge - fraction * size) <= 1.01
        for edge, fraction, size in zip(cut, (left, top, right, bottom), (width, height) * 2, strict=True)
    )
