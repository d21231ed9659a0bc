"""An eager pipeline: a transform over a list, as lists."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

RUNNERS = ("FnApiRunner", "BundleBasedDirectRunner")


def eagerly(
    transform: beam.PTransform, elements: Sequence | None = None, runner: str = "FnApiRunner", *flags: str
) -> Any:
    """Applies a transform; gives a list, or a tuple of lists where it has several outputs.

    Args:
      transform: What to apply; to the pipeline itself if there are no elements.
      elements: The input.
      runner: Beam's runner by name.
      flags: More pipeline options.
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
    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def process(self, element: Any) -> None:
        import pickle
        import uuid

        self._folder.mkdir(exist_ok=True)
        (self._folder / uuid.uuid4().hex).write_bytes(pickle.dumps(element))


def _read(folder: Path) -> list:
    import pickle

    return [pickle.loads(path.read_bytes()) for path in sorted(folder.glob("*"))]
