"""Beam's RunInference as an expert would use it: an own handler of the frozen graph, full batches.

python -m benchmarks.rivals.runinference_expert CORPUS OUTPUT MODEL in_memory|multi_threading|multi_processing

It decodes and labels with the pipeline's functions. The last two modes have Beam work on every core.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io.fileio import MatchFiles
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from benchmarks.rivals.rows import SCHEMA, best_of
from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.images.decode import decode_image
from labelbeam.transforms.images.memory import tune_malloc
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.models.classifier import Classifier, TopK
from labelbeam.transforms.models.runtime import configure_tensorflow
from labelbeam.transforms.models.spec import ModelOptions, ModelSpec
from tests.specs import resolve_spec

BATCH_SIZE = 8


class FrozenModelHandler(ModelHandler[np.ndarray, TopK | ImageError, Classifier]):
    """The pipeline's frozen graph, called with full batches of one size."""

    def __init__(self, spec: ModelSpec, callers: int, threads: int) -> None:
        super().__init__(min_batch_size=BATCH_SIZE, max_batch_size=BATCH_SIZE)
        self._spec = spec
        self._callers = callers
        self._threads = threads

    def load_model(self) -> Classifier:
        """Load the model, once per process."""
        tune_malloc()
        configure_tensorflow(callers=self._callers, threads=self._threads)
        return Classifier(self._spec, top_k=1, batch_size=BATCH_SIZE)

    def run_inference(
        self, batch: Sequence[np.ndarray], model: Classifier, inference_args: dict[str, Any] | None = None
    ) -> Iterable[TopK | ImageError]:
        """Label a batch."""
        return model.classify(batch)


def read_image(path: str, rule: ResizeRule) -> tuple[str, np.ndarray]:
    """Decode an image, keyed by its path."""
    return path, decode_image(Path(path).read_bytes(), rule, 10**9).pixels


def to_row(uri: str, result: TopK | ImageError) -> dict:
    """Return the best class."""
    return {"uri": uri, **best_of(result)}


def main(corpus: str, output: str, model: str, mode: str) -> None:
    """Label a folder of images."""
    spec = resolve_spec(ModelOptions(model))
    cores = len(os.sched_getaffinity(0))
    workers = 1 if mode == "in_memory" else cores
    handler = FrozenModelHandler(
        spec,
        callers=workers if mode == "multi_threading" else 1,
        threads=1 if mode == "multi_processing" else cores,
    )
    options = PipelineOptions(runner="FnApiRunner", direct_num_workers=workers, direct_running_mode=mode)
    with beam.Pipeline(options=options) as pipe:
        _ = (
            pipe
            | MatchFiles(f"{corpus}/*")
            | "Path" >> beam.Map(lambda match: match.path)
            | beam.Reshuffle()  # over the workers
            | "Read" >> beam.Map(read_image, spec.resize)
            | RunInference(KeyedModelHandler(handler))
            | "Row" >> beam.MapTuple(to_row)
            | beam.io.WriteToParquet(f"{output}/part", SCHEMA, file_name_suffix=".parquet")
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
