"""Ray Data as its documentation labels images: `read_images`, `map`, and `map_batches` with a class.

python -m benchmarks.rivals.ray_data CORPUS OUTPUT SAVED_MODEL
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import ray
from PIL import Image

SIZE_PX, CROP_PADDING_PX = 224, 32

# The fastest setting on two cores, of 1 and 2 actors of 0 to 1 CPU each, batches of 8 to 64. Two actors
# of one CPU leave none to read with and wait for ever; with less than one, the crop runs where images are
# read, so that no whole image is shipped.
ACTORS = max(1, len(os.sched_getaffinity(0)) // 2)
CPUS_OF_ACTOR = 0.5
BATCH_SIZE = 32


def crop(row: dict[str, Any]) -> dict[str, Any]:
    """Crop the central square and resize it."""
    image = Image.fromarray(row["image"])
    side = int(SIZE_PX / (SIZE_PX + CROP_PADDING_PX) * min(image.size))
    left, top = ((length - side + 1) // 2 for length in image.size)
    box = (left, top, left + side, top + side)
    small = image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC, box)
    return {"uri": row["path"], "image": np.asarray(small)}


class ImageClassifier:
    """The model, loaded once in each actor."""

    def __init__(self, saved_model: str) -> None:
        import tensorflow as tf

        self.model = tf.saved_model.load(saved_model)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Label a batch."""
        import tensorflow as tf

        scores = tf.nn.softmax(self.model(tf.cast(batch["image"], tf.float32) / 255)).numpy()
        class_ids = scores.argmax(axis=1).astype(np.int32)
        return {"uri": batch["uri"], "class_id": class_ids, "score": scores.max(axis=1)}


def main(corpus: str, output: str, saved_model: str) -> None:
    """Label a folder of images."""
    ray.init(include_dashboard=False)
    images = ray.data.read_images(corpus, mode="RGB", include_paths=True).map(crop)
    labels = images.map_batches(
        ImageClassifier,
        fn_constructor_args=(saved_model,),
        compute=ray.data.ActorPoolStrategy(size=ACTORS),
        num_cpus=CPUS_OF_ACTOR,
        batch_size=BATCH_SIZE,
    )
    labels.write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
