import dataclasses
import datetime

import numpy as np
import pytest

from labelbeam.transforms import pack
from labelbeam.transforms.coders import ElementCoder
from labelbeam.transforms.elements import DecodedImage, ImageMetadata, ImageRef, PackedImage
from labelbeam.transforms.loaders.image import pack_image
from labelbeam.transforms.pack import (
    HandOverImages,
    _UnpackImagesFn,
    unpack_image,
)
from tests.eager import RUNNERS, eagerly

SIZE_PX = 24


def image(n: int) -> DecodedImage:
    pixels = np.random.default_rng(n).integers(0, 256, (SIZE_PX, SIZE_PX, 3), np.uint8)
    ref = ImageRef(f"id{n}", f"gs://b/{n}.jpg", (n, None, datetime.date(2026, 1, 2)))
    version = "v1" if n % 2 else None
    metadata = ImageMetadata(640, 480 + n, "JPEG", 1 + n % 8, n or None, 1234, "f" * 64, version)
    return DecodedImage(ref, pixels, metadata)


def values_of(one: DecodedImage) -> tuple:
    """Return all values of an image for a comparison."""
    return one.ref, one.metadata, one.pixels.dtype, one.pixels.shape, one.pixels.tobytes()


@pytest.mark.parametrize("n", [0, 1])
def test_unpack_image__packed__is_the_same_image(n):
    assert values_of(unpack_image(pack_image(image(n)))) == values_of(image(n))


def test_packed_image__through_its_coder__is_the_same():
    packed = pack_image(image(1))
    coder = ElementCoder(PackedImage)
    again = coder.decode(coder.encode(packed))
    assert again == packed and isinstance(again, PackedImage)


def test_hand_over_images__shuffle__is_encoded_by_the_registered_coder(monkeypatch):
    decoded = []
    monkeypatch.setattr(ElementCoder, "decode", _noting(ElementCoder.decode, decoded))
    eagerly(HandOverImages(SIZE_PX), [pack_image(image(n)) for n in range(5)])
    assert sorted(packed.ref.id for packed in decoded) == [f"id{n}" for n in range(5)]


def _noting(method, into):
    def call(self, *args):
        into.append(method(self, *args))
        return into[-1]

    return call


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("threads", [None, 1])
def test_hand_over_images__any_bundles__every_image_arrives_once(runner, threads):
    images = [image(n) for n in range(50)]
    arrived = eagerly(HandOverImages(SIZE_PX, threads), [pack_image(one) for one in images], runner)
    assert sorted(map(values_of, arrived), key=repr) == sorted(map(values_of, images), key=repr)


def test_hand_over_images__keys_that_collide__lose_no_image(monkeypatch):
    monkeypatch.setattr(pack, "hash_of", lambda _id: 7)
    arrived = eagerly(HandOverImages(SIZE_PX), [pack_image(image(n)) for n in range(9)])
    assert sorted(one.ref.id for one in arrived) == [f"id{n}" for n in range(9)]


@pytest.mark.parametrize("is_noise", [True, False])
def test_submit__bytes_of_the_window__cover_an_image_in_both_of_its_forms(is_noise):
    one = image(1)
    if not is_noise:
        one = dataclasses.replace(one, pixels=np.zeros_like(one.pixels))
    packed, fn = pack_image(one), _UnpackImagesFn(HandOverImages(SIZE_PX, threads=1))
    fn.setup()
    _, size_bytes = fn.submit(packed)
    assert size_bytes == one.pixels.nbytes + len(packed.data)
    fn.teardown()


def test_hand_over_images__small_window__waits_and_goes_on():
    images = [pack_image(image(n)) for n in range(20)]
    arrived = eagerly(HandOverImages(SIZE_PX, threads=2, max_window_bytes=1), images)
    assert len(arrived) == 20
