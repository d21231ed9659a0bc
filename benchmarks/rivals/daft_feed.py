"""Daft as it loads images best: `download`, `decode_image`, `resize`, and a model that does nothing.

python -m benchmarks.rivals.daft_feed LIST IMAGES FILE
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import daft
from daft import DataType
from daft.functions import decode_image, download, resize

from benchmarks.clock import Clock

SIZE_PX, BATCH_SIZE = 224, 64
_PIXELS = DataType.image("RGB", SIZE_PX, SIZE_PX)


@daft.cls(use_process=False, max_concurrency=1)
class NullModel:
    """A model that looks at one pixel of each image."""

    def __init__(self, images: int, file: str) -> None:
        self._clock = Clock(images, Path(file))

    @daft.method.batch(return_dtype=DataType.int32(), batch_size=BATCH_SIZE)
    def label(self, pixels: daft.Series) -> list[int]:
        """Label a batch."""
        with self._clock.call():
            batch = pixels.to_arrow().storage.flatten().to_numpy().reshape(-1, SIZE_PX, SIZE_PX, 3)
            labels = [int(n) for n in batch[:, 0, 0, 0]]
        self._clock.count(len(labels))
        return labels


def main(uris: str, images: str, file: str) -> None:
    """Feed the images of a list to a model."""
    frame = daft.from_pydict({"uri": Path(uris).read_text("utf-8").split()})
    pixels = resize(decode_image(download(frame["uri"]), mode="RGB"), SIZE_PX, SIZE_PX).cast(_PIXELS)
    frame.select(NullModel(int(images), file).label(pixels).alias("label")).collect()
    # As in daft_loop: Daft's threads now and then crash an interpreter that ends by itself.
    os._exit(0)


if __name__ == "__main__":
    # Imported, because Daft pickles classes, which must be found in a module and not in `__main__`.
    from benchmarks.rivals import daft_feed

    daft_feed.main(*sys.argv[1:])
