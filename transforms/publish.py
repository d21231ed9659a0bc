"""Publishing: staged files become the tables that readers see."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from transforms.count import DUPLICATE, FAILED, LABELLED, LISTED, Outcome
from transforms.elements import StagedFile
from transforms.files import delete_folder, make_folder, move_files, write_file
from transforms.rows import FAILURES, PREDICTIONS
from transforms.stage import write_rows

MANIFEST = "manifest.json"
_TOP_LABELS = 20


def make_manifest(
    facts: Mapping[str, Any], files: Iterable[StagedFile], outcomes: Mapping[Outcome, int]
) -> dict[str, Any]:
    """Describes a finished run.

    Args:
      facts: What is known before it starts: run id, model, configuration.
      files: The published files.
      outcomes: What became of every row of the corpus.

    Returns:
      A JSON document. `balanced` says whether each row that was listed is a
      prediction, a failure or a duplicate, and whether the files hold them all.
    """
    files = list(files)
    counts = {
        kind: sum(n for outcome, n in outcomes.items() if outcome[0] == kind)
        for kind in (LISTED, LABELLED, FAILED, DUPLICATE)
    }
    rows = {t: sum(f.rows for f in files if f.table == t) for t in (PREDICTIONS, FAILURES)}
    balanced = counts[LISTED] == counts[LABELLED] + counts[FAILED] + counts[DUPLICATE] and rows == {
        PREDICTIONS: counts[LABELLED],
        FAILURES: counts[FAILED],
    }
    return {
        **facts,
        "balanced": balanced,
        "counts": counts,
        "failures_by_reason": dict(_most_first((o[1], n) for o, n in outcomes.items() if o[0] == FAILED)),
        "top_labels": [
            {"class_id": int(class_id), "label": label, "images": n}
            for (class_id, label), n in _most_first(
                (o[1:], n) for o, n in outcomes.items() if o[0] == LABELLED
            )[:_TOP_LABELS]
        ],
        "files": [asdict(f) for f in files],
    }


def _most_first(counts: Iterable[tuple[Any, int]]) -> list[tuple[Any, int]]:
    return sorted(counts, key=lambda item: (-item[1], item[0]))


@dataclass
class PublishResults(beam.PTransform):
    """Moves what was staged to where readers look, then writes the manifest.

    Input: `StagedFile` and `(outcome, count)`. Output: the manifest, JSON.
    Guarantees: only files that a finished bundle named are published, so each
    row once; a reader never meets part of a file; the manifest comes last.

    Attributes:
      output: Folder of the tables.
      staging: Folder of the staged files, removed at the end.
      facts: What the manifest says beside counts and files; JSON.
      schemas: Schema by table; a table without rows is one empty file.
    """

    output: str
    staging: str
    facts: dict[str, Any]
    schemas: dict[str, pa.Schema]

    def expand(self, results: tuple[beam.PCollection, beam.PCollection]) -> beam.PCollection[str]:
        """Applies the step."""
        staged, outcomes = results
        return (
            staged.pipeline
            | "Once" >> beam.Create([None])
            | "Publish"
            >> beam.ParDo(
                _PublishFn(self), beam.pvalue.AsList(staged), beam.pvalue.AsDict(outcomes)
            ).with_output_types(str)
        )


class _PublishFn(beam.DoFn):
    def __init__(self, step: PublishResults) -> None:
        self._output = step.output
        self._staging = step.staging
        self._facts = step.facts
        self._schemas = step.schemas

    def process(self, _: None, staged: list[StagedFile], outcomes: dict[Outcome, int]) -> Iterator[str]:
        files = [f for table in self._schemas for f in self._publish(table, staged)]
        manifest = json.dumps(make_manifest(self._facts, files, outcomes), indent=2)
        write_file(FileSystems.join(self._output, MANIFEST), manifest.encode())
        delete_folder(self._staging)
        yield manifest

    def _publish(self, table: str, staged: list[StagedFile]) -> list[StagedFile]:
        mine = sorted((f for f in staged if f.table == table), key=lambda f: f.path)
        if not mine:
            mine = [write_rows(table, [], self._schemas[table], self._staging)]
        make_folder(FileSystems.join(self._output, table))
        names = [f"{self._facts['run_id']}-{n:05d}.parquet" for n in range(len(mine))]
        paths = [FileSystems.join(table, name) for name in names]
        move_files([f.path for f in mine], [FileSystems.join(self._output, path) for path in paths])
        return [replace(f, path=path) for f, path in zip(mine, paths, strict=True)]
