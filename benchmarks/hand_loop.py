"""A loop written by hand: one pinned process per core, the pipeline's own functions, no Beam.

python -m benchmarks.hand_loop FOLDER OUTPUT MODEL
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH_SIZE = 8


def label_shard(core: int, paths: list[Path], output: str, model: str) -> None:
    """Label files one batch after another on one core."""
    os.sched_setaffinity(0, {core})
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.rivals.rows import SCHEMA, best_of
    from labelbeam.transforms.images.decode import decode_image
    from labelbeam.transforms.images.memory import tune_malloc
    from labelbeam.transforms.models.classifier import Classifier
    from labelbeam.transforms.models.runtime import configure_tensorflow
    from labelbeam.transforms.models.spec import ModelOptions
    from tests.specs import resolve_spec

    tune_malloc()
    configure_tensorflow(callers=1, threads=1)
    spec = resolve_spec(ModelOptions(model))
    classifier = Classifier(spec, top_k=5, batch_size=BATCH_SIZE)
    rows = []
    for start in range(0, len(paths), BATCH_SIZE):
        batch = paths[start : start + BATCH_SIZE]
        data = [path.read_bytes() for path in batch]
        _digests = [hashlib.sha256(one).hexdigest() for one in data]
        pixels = [decode_image(one, spec.resize, 10**9).pixels for one in data]
        results = classifier.classify(pixels)
        rows += [{"uri": str(p), **best_of(r)} for p, r in zip(batch, results, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), f"{output}/{core}.parquet")


def on_every_core(work: Callable[..., None], folder: str, *args: Any) -> None:
    """Share a folder's files out to one process per core; `work` gets the core, its files and `args`."""
    paths = sorted(Path(folder).iterdir())
    cores = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(core, paths[n :: len(cores)], *args))
        for n, core in enumerate(cores)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit(1)


def main(folder: str, output: str, model: str) -> None:
    """Label a folder."""
    Path(output).mkdir()
    on_every_core(label_shard, folder, output, model)


if __name__ == "__main__":
    main(*sys.argv[1:])
