"""Ray Data as it loads images best: `map_batches` with threads, and JPEGs decoded near their size.

python -m benchmarks.rivals.ray_feed LIST IMAGES FILE
"""

from __future__ import annotations

import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import ray
import urllib3
from PIL import Image

from benchmarks.clock import Clock

SIZE_PX, BATCH_SIZE, CONNECTIONS = 224, 64, 16


class LoadImages:
    """A pool of connections and threads, once in each actor."""

    def __init__(self) -> None:
        self._connections = urllib3.PoolManager(maxsize=CONNECTIONS)
        self._threads = ThreadPoolExecutor(CONNECTIONS)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Load a batch."""
        return {"pixels": np.stack(list(self._threads.map(self._load, batch["uri"])))}

    def _load(self, uri: str) -> np.ndarray:
        with Image.open(io.BytesIO(self._connections.request("GET", uri).data)) as image:
            image.draft("RGB", (SIZE_PX, SIZE_PX))
            return np.asarray(image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC))


def main(uris: str, images: str, file: str) -> None:
    """Feed the images of a list to a model in this process, which looks at one pixel of each image."""
    ray.init(include_dashboard=False)
    clock, cores = Clock(int(images), Path(file)), len(os.sched_getaffinity(0))
    rows = [{"uri": uri} for uri in Path(uris).read_text("utf-8").split()]
    # Small blocks, because images of a block reach the model together, and the first block is not counted.
    blocks = max(4 * cores, len(rows) // (2 * BATCH_SIZE))
    pixels = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        LoadImages, batch_size=BATCH_SIZE, compute=ray.data.ActorPoolStrategy(size=cores)
    )
    for batch in pixels.iter_batches(batch_size=BATCH_SIZE):
        with clock.call():
            labels = batch["pixels"][:, 0, 0, 0].tolist()
        clock.count(len(labels))


if __name__ == "__main__":
    main(*sys.argv[1:])
