"""Ways to pack pixels for the shuffle of the split layout: bytes, processor time, and effect on the labels.

python -m benchmarks.packing [--rounds 3]

The sample photos as decoded for a model of 224 px and of 600 px, on one thread. The labels are those of
EfficientNet-Lite0 at 224 px, compared with those of the pixels themselves.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.decode import TARGETS_PX, decode_drafted, psnr_db
from labelbeam.transforms.images.memory import tune_malloc
from labelbeam.transforms.images.packing import pack_pixels, unpack_pixels
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.spec import ModelOptions
from labelbeam.transforms.photos import photo_paths
from tests.specs import resolve_spec

_CLASSES = 1000


class Way(NamedTuple):
    """A way to pack pixels: functions to bytes and back."""

    pack: Callable[[np.ndarray], bytes]
    unpack: Callable[[bytes, int], np.ndarray]


def as_pixels(data: bytes, size_px: int) -> np.ndarray:
    """Return raw bytes as pixels."""
    return np.frombuffer(data, np.uint8).reshape(size_px, size_px, 3)


def encoded(format: str, **options: Any) -> Way:
    """Return a packing in an image format of Pillow's."""

    def pack(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format, **options)
        return buffer.getvalue()

    def unpack(data: bytes, _size_px: int) -> np.ndarray:
        with Image.open(io.BytesIO(data), formats=[format]) as image:
            return np.asarray(image)

    return Way(pack, unpack)


def zstd(axes: tuple[int, ...]) -> Way:
    """Return a packing by Zstd of the pixels, or of planes of differences.

    Args:
      axes: Axes of the differences between neighbours, 1 for lines and 2 for columns. The planes are
        green, red - green and blue - green, so that what is left is small.
    """
    codec = pa.Codec("zstd", 1)

    def pack(pixels: np.ndarray) -> bytes:
        planes = to_planes(pixels) if axes else np.ascontiguousarray(pixels)
        for axis in axes:
            planes = np.diff(planes, axis=axis, prepend=np.uint8(0))
        return codec.compress(planes, asbytes=True)

    def unpack(data: bytes, size_px: int) -> np.ndarray:
        raw = codec.decompress(data, 3 * size_px**2)
        if not axes:
            return as_pixels(raw, size_px)
        planes = np.frombuffer(raw, np.uint8).reshape(3, size_px, size_px)
        for axis in reversed(axes):
            planes = np.cumsum(planes, axis=axis, dtype=np.uint8)
        return from_planes(planes)

    return Way(pack, unpack)


def to_planes(pixels: np.ndarray) -> np.ndarray:
    """Return planes of green, red - green and blue - green."""
    green = pixels[..., 1]
    return np.stack([green, pixels[..., 0] - green, pixels[..., 2] - green])


def from_planes(planes: np.ndarray) -> np.ndarray:
    """Return the pixels of planes that `to_planes` made."""
    green, red, blue = planes
    return np.stack([red + green, green, blue + green], axis=-1)


WAYS = {
    "raw": Way(np.ndarray.tobytes, as_pixels),
    "zlib, level 1": Way(
        lambda pixels: zlib.compress(np.ascontiguousarray(pixels), 1),
        lambda data, size_px: as_pixels(zlib.decompress(data), size_px),
    ),
    "zstd, level 1": zstd(()),
    "zstd, level 1, of differences of lines": zstd((1,)),
    "zstd, level 1, of differences of lines and columns": zstd((1, 2)),
    "PNG, level 1": encoded("PNG", compress_level=1),
    "**WebP lossless, method 0**": Way(pack_pixels, lambda data, _size_px: unpack_pixels(data)),
    "WebP lossless, method 1": encoded("WEBP", lossless=True, method=1, quality=0),
    "WebP lossless, Pillow's defaults": encoded("WEBP", lossless=True),
    "JPEG, quality 95, 4:4:4": encoded("JPEG", quality=95, subsampling=0),
    "JPEG, quality 90": encoded("JPEG", quality=90),
    "WebP, quality 95": encoded("WEBP", quality=95),
}


class Cost(NamedTuple):
    """Cost of a way per image, and its median noise, which is infinite if all pixels come back exactly."""

    size_bytes: float
    pack_msec: float
    unpack_msec: float
    psnr_db: float


def load_images(size_px: int) -> list[np.ndarray]:
    """Return the sample photos as the pipeline decodes them."""
    return [decode_drafted(path.read_bytes(), ResizeRule(size_px)) for path in photo_paths()]


def timed(results: Iterator) -> tuple[list, float]:
    """Return the results, and the processor's milliseconds per result on this thread."""
    start = time.thread_time()
    made = list(results)
    return made, 1000 * (time.thread_time() - start) / len(made)


def cost_of(way: Way, images: list[np.ndarray]) -> Cost:
    """Pack and unpack all images once."""
    size_px = images[0].shape[0]
    packed, pack_msec = timed(map(way.pack, images))
    unpacked, unpack_msec = timed(way.unpack(data, size_px) for data in packed)
    pairs = zip(images, unpacked, strict=True)
    noise = statistics.median(np.inf if np.array_equal(a, b) else psnr_db(a, b) for a, b in pairs)
    return Cost(statistics.mean(map(len, packed)), pack_msec, unpack_msec, noise)


def scores_of(images: list[np.ndarray]) -> np.ndarray:
    """Return the score of each class for each image, by the embedded model."""
    results = classifier().classify(images)
    scores = np.zeros((len(images), _CLASSES), np.float32)
    for row, result in zip(scores, results, strict=True):
        row[result.class_ids] = result.scores
    return scores


@functools.cache
def classifier() -> Classifier:
    """Return the embedded model with scores of every class."""
    return Classifier(resolve_spec(ModelOptions("efficientnet-lite0")), _CLASSES, 8)


def measure_costs(size_px: int, rounds: int) -> None:
    """Print the cost of each way, medians of the rounds."""
    images = load_images(size_px)
    raw = 3 * size_px**2
    costs: dict[str, list[Cost]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            costs[name].append(cost_of(way, images))
    print(f"\n| {size_px} px | bytes an image | of raw | pack, ms | unpack, ms | PSNR |\n{'|---' * 6}|")
    for name, several in costs.items():
        cost = Cost(*(statistics.median(column) for column in zip(*several, strict=True)))
        noise = "exact" if np.isinf(cost.psnr_db) else f"{cost.psnr_db:.1f} dB"
        print(
            f"| {name} | {cost.size_bytes:,.0f} | {cost.size_bytes / raw:.3f} | {cost.pack_msec:.2f}"
            f" | {cost.unpack_msec:.2f} | {noise} |",
            flush=True,
        )


def measure_labels(size_px: int) -> None:
    """Print the effect of each way on the labels."""
    images = load_images(size_px)
    before = scores_of(images)
    print(f"\n| {size_px} px | same top-1 | same top-5, in order | most a score moves |\n{'|---' * 4}|")
    for name, way in WAYS.items():
        after = scores_of([way.unpack(way.pack(pixels), size_px) for pixels in images])
        best = [np.argsort(-scores, axis=1, kind="stable")[:, :5] for scores in (before, after)]
        same = best[0] == best[1]
        print(
            f"| {name} | {same[:, 0].sum()} of {len(images)} | {same.all(axis=1).sum()} of {len(images)}"
            f" | {np.abs(after - before).max():.2g} |",
            flush=True,
        )


def main() -> None:
    """Measure the costs at each size, and the labels at the embedded model's size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    tune_malloc()
    for size_px in TARGETS_PX:
        measure_costs(size_px, args.rounds)
    measure_labels(TARGETS_PX[0])


if __name__ == "__main__":
    main()
