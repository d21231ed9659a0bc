"""The cost of the second shuffle: selecting references with and without dealing them out in units.

python -m benchmarks.units [--refs 200000] [--rounds 5]

Each round selects the same references both ways, on Beam's local runner and in turn. The difference is the
cost of units for an image, next to that of decoding the smallest photo of `benchmarks.throughput`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Iterator
from unittest import mock

import apache_beam as beam
import numpy as np
from PIL import Image

from labelbeam.transforms import select
from labelbeam.transforms.elements import DoneIds, Failure, ImageRef, id_of_uri
from labelbeam.transforms.images.decode import decode_image
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.outcomes import Outcomes


class _PassOn(beam.PTransform):
    """A step in place of the shuffle."""

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        return elements | beam.Map(lambda element: element)


def list_refs(count: int) -> Iterator[ImageRef]:
    """Make references as a list of a bucket has them."""
    for n in range(count):
        uri = f"gs://photos-of-a-project/2026/11/{n:09}.jpg"
        yield ImageRef(id_of_uri(uri), uri)


def select_refs(count: int) -> float:
    """Select references, and return the processor time in seconds."""
    start = time.process_time()
    with beam.Pipeline("FnApiRunner") as pipe:
        once = pipe | beam.Create([count], reshuffle=False)
        refs = once | "Refs" >> beam.FlatMap(list_refs).with_output_types(ImageRef)
        failures = once | "Failures" >> beam.FlatMap(lambda _: ()).with_output_types(Failure)
        done = once | "Done" >> beam.FlatMap(lambda _: ()).with_output_types(DoneIds)
        selected = (Outcomes(refs, failures), done) | select.SelectUnlabelled()
        _ = selected.ok | "Take" >> beam.Map(lambda ref: None)
    return time.process_time() - start


def decoding_usec() -> float:
    """Return the processor time of decoding a JPEG of 500x375 to 224 px."""
    pixels = np.random.default_rng(1).integers(0, 255, (375, 500, 3), np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).resize((63, 47)).resize((500, 375)).save(encoded, "JPEG")
    start = time.process_time()
    for _ in range(200):
        decode_image(encoded.getvalue(), ResizeRule(224), 10**8)
    return (time.process_time() - start) / 200 * 1e6


def main() -> None:
    """Print the cost of units for an image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refs", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    costs = []
    for _ in range(options.rounds):
        with_units = select_refs(options.refs)
        with mock.patch.object(select.beam, "Reshuffle", _PassOn):
            without = select_refs(options.refs)
        costs.append((with_units - without) / options.refs * 1e6)
    cost, image = statistics.median(costs), decoding_usec()
    print(f"units: {cost:.2f} us an image ({min(costs):.2f}-{max(costs):.2f})")
    print(f"decoding 500x375: {image:.0f} us; units cost {cost / image:.2%} of that")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
