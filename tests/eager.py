"""An eager pipeline: apply a transform to a list, and return lists."""

from __future__ import annotations

import pickle
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

RUNNERS = ("FnApiRunner", "BundleBasedDirectRunner")


def eagerly(
    transform: beam.PTransform, elements: Sequence | None = None, runner: str = "FnApiRunner", *flags: str
) -> Any:
    """Apply a transform to elements, and return a list, or a tuple of lists for several outputs.

    Args:
      transform: The transform.
      elements: Input; without elements the transform is applied to the pipeline itself.
      runner: Name of Beam's runner.
      flags: Further pipeline options.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipeline = beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *flags]))
        source = pipeline if elements is None else pipeline | beam.Create(elements, reshuffle=False)
        outputs = source | "Tested" >> transform
        collections = outputs if isinstance(outputs, tuple) else (outputs,)
        for n, collection in enumerate(collections):
            collection | f"Keep{n}" >> beam.ParDo(_KeepFn(f"{folder}/{n}"))
        pipeline.run().wait_until_finish()
        lists = [_read(Path(folder) / str(n)) for n in range(len(collections))]
    return type(outputs)(*lists) if isinstance(outputs, tuple) else lists[0]


class _KeepFn(beam.DoFn):
    # Elements go through files, because a runner may copy the DoFn or run it in another process.
    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def process(self, element: Any) -> None:
        self._folder.mkdir(exist_ok=True)
        (self._folder / uuid.uuid4().hex).write_bytes(pickle.dumps(element))


def _read(folder: Path) -> list:
    return [pickle.loads(path.read_bytes()) for path in sorted(folder.glob("*"))]
