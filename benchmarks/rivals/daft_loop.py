"""Daft with the pipeline's own functions: a class that reads, decodes and labels files in batches.

python -m benchmarks.rivals.daft_loop CORPUS OUTPUT MODEL threads|processes
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import daft
from daft import DataType

from benchmarks.rivals.rows import best_of
from transforms.images.decode import decode_image
from transforms.images.memory import tune_malloc
from transforms.models.classifier import Classifier
from transforms.models.runtime import configure_tensorflow
from transforms.models.spec import ModelOptions, resolve_spec

BATCH_SIZE = 8
BEST = DataType.struct({"class_id": DataType.int32(), "score": DataType.float32()})


CORES = len(os.sched_getaffinity(0))


class Labeler:
    """The frozen model, loaded once for each core."""

    def __init__(self, model: str, threads: int) -> None:
        tune_malloc()
        configure_tensorflow(callers=threads, threads=threads)
        self.spec = resolve_spec(ModelOptions(model))
        self.classifier = Classifier(self.spec, top_k=1, batch_size=BATCH_SIZE)

    @daft.method.batch(return_dtype=BEST, batch_size=BATCH_SIZE, unnest=True)
    def label(self, uris: daft.Series) -> list[dict]:
        """Labels a batch of files."""
        data = [Path(uri.removeprefix("file://")).read_bytes() for uri in uris]
        pixels = [decode_image(one, self.spec.resize, 10**9).pixels for one in data]
        return [best_of(result) for result in self.classifier.classify(pixels)]


def main(corpus: str, output: str, model: str, mode: str) -> None:
    """Labels a folder of images."""
    if mode == "processes":
        labeler = daft.cls(Labeler, use_process=True, max_concurrency=CORES)(model, threads=1)
    else:
        labeler = daft.cls(Labeler, use_process=False)(model, threads=CORES)
    files = daft.from_glob_path(f"{corpus}/*")
    labels = labeler.label(files["path"])
    files.select(files["path"].alias("uri"), labels).write_parquet(output)
    # As the pipeline ends; Daft's threads now and then crash an interpreter that ends by itself.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
