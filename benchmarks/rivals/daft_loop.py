"""Daft with the pipeline's own functions: a class that reads, decodes and labels files in batches.

python -m benchmarks.rivals.daft_loop CORPUS OUTPUT MODEL threads|processes
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from pathlib import Path

import daft
from daft import DataType

from benchmarks.rivals.rows import best_of
from labelbeam.transforms.images.decode import decode_image
from labelbeam.transforms.images.memory import tune_malloc
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.runtime import configure_tensorflow
from labelbeam.transforms.models.spec import ModelOptions
from tests.specs import resolve_spec

BATCH_SIZE = 8
CORES = len(os.sched_getaffinity(0))
BEST = DataType.struct({"class_id": DataType.int32(), "score": DataType.float32()})

_loading = threading.Lock()


@functools.cache
def load(model: str, threads: int) -> Classifier:
    """Return the frozen model."""
    tune_malloc()
    configure_tensorflow(callers=threads, threads=threads)
    return Classifier(resolve_spec(ModelOptions(model)), top_k=1, batch_size=BATCH_SIZE)


class Labeler:
    """The labeller that Daft makes once for each core; labellers of one process share the model."""

    def __init__(self, model: str, threads: int) -> None:
        with _loading:
            self.classifier = load(model, threads)

    @daft.method.batch(return_dtype=BEST, batch_size=BATCH_SIZE, unnest=True)
    def label(self, uris: daft.Series) -> list[dict]:
        """Label a batch of files."""
        data = [Path(uri.removeprefix("file://")).read_bytes() for uri in uris]
        rule = self.classifier.spec.resize
        pixels = [decode_image(one, rule, 10**9).pixels for one in data]
        return [best_of(result) for result in self.classifier.classify(pixels)]


def main(corpus: str, output: str, model: str, mode: str) -> None:
    """Label a folder of images."""
    if mode == "processes":
        labeler = daft.cls(Labeler, use_process=True, max_concurrency=CORES)(model, threads=1)
    else:
        labeler = daft.cls(Labeler, use_process=False)(model, threads=CORES)
    files = daft.from_glob_path(f"{corpus}/*")
    labels = labeler.label(files["path"])
    files.select(files["path"].alias("uri"), labels).write_parquet(output)
    # End at once, because Daft's threads now and then crash an interpreter that ends by itself.
    os._exit(0)


if __name__ == "__main__":
    # Import by name, because Daft's workers find pickled objects only in a module, not in `__main__`.
    from benchmarks.rivals import daft_loop

    daft_loop.main(*sys.argv[1:])
