"""Ray Data as its documentation does inference on images: `read_images`, `map`, `map_batches` with a class.

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
BATCH_SIZE = 8


def transform_image(row: dict[str, Any]) -> dict[str, Any]:
    """Crops the central square and resizes it."""
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
        """Labels a batch."""
        import tensorflow as tf

        scores = tf.nn.softmax(self.model(tf.cast(batch["image"], tf.float32) / 255)).numpy()
        return {
            "uri": batch["uri"],
            "class_id": scores.argmax(axis=1).astype(np.int32),
            "score": scores.max(axis=1),
        }


def main(corpus: str, output: str, saved_model: str) -> None:
    """Labels a folder of images."""
    ray.init(include_dashboard=False)
    actors = int(os.environ.get("A", "1"))
    cpus = float(os.environ.get("C", "1"))
    rc = float(os.environ.get("R", "1"))
    images = ray.data.read_images(corpus, mode="RGB", include_paths=True)
    predictions = images.map(transform_image).map_batches(
        ImageClassifier,
        fn_constructor_args=(saved_model,),
        compute=ray.data.ActorPoolStrategy(size=actors),
        **({"num_cpus": cpus} if "C" in os.environ else {}),
        batch_size=int(os.environ.get("B", "8")),
    )
    predictions.write_parquet(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
