"""Beam's RunInference as its documentation uses it with TensorFlow: Pillow, Beam's handler, Beam's batching.

python -m benchmarks.rivals.runinference_documented CORPUS OUTPUT KERAS_FILE
"""

from __future__ import annotations

import sys

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.io.fileio import MatchFiles
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.ml.inference.tensorflow_inference import TFModelHandlerTensor
from PIL import Image

from benchmarks.rivals.rows import SCHEMA
from labelbeam.transforms.images.resize import ResizeRule

RULE = ResizeRule(224)


def read_image(path: str) -> tuple[str, tf.Tensor]:
    """Decode an image, keyed by its path, and crop and resize it for the model."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    size = (RULE.size_px, RULE.size_px)
    pixels = np.asarray(rgb.resize(size, Image.Resampling.BICUBIC, box=RULE.box(*rgb.size)))
    return path, tf.cast(pixels, tf.float32) / 255.0


def to_row(uri: str, result: PredictionResult) -> dict:
    """Return the best class."""
    logits = np.asarray(result.inference)
    class_id = int(logits.argmax())
    return {"uri": uri, "class_id": class_id, "score": 1 / float(np.exp(logits - logits[class_id]).sum())}


def main(corpus: str, output: str, model: str) -> None:
    """Label a folder of images."""
    with beam.Pipeline("FnApiRunner") as pipe:
        _ = (
            pipe
            | MatchFiles(f"{corpus}/*")
            | "Path" >> beam.Map(lambda match: match.path)
            | "Read" >> beam.Map(read_image)
            | RunInference(KeyedModelHandler(TFModelHandlerTensor(model)))
            | "Row" >> beam.MapTuple(to_row)
            | beam.io.WriteToParquet(f"{output}/part", SCHEMA, file_name_suffix=".parquet")
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
