"""The manifest of a generation, and the announcement of an unfinished run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.table.column_types import type_from_text
from labelbeam.transforms.table.documents import parse_file
from labelbeam.transforms.table.rows import FAILURES, PREDICTIONS, Decisions

FORMAT = 1
TABLES = (PREDICTIONS, FAILURES)


@dataclass(frozen=True, slots=True)
class LabelledWith:
    """Settings that all rows of a table have in common.

    Attributes:
      model: Fingerprint of the model.
      preprocessing: Fingerprint of the preprocessing.
      precision: Precision as configured.
      xla: Whether XLA is on.
      top_k: Labels per row.
      outputs: Column of the model's outputs and their number; empty where rows have none.
      columns: Input columns and their types, as texts of `type_to_text`.
      threshold: Least score of a label; None for models that are not multi-label.
      secret_params: Names of further secret parameters of URIs, which ids leave out; joined by commas.
      calibration: Fingerprint of the calibration; empty for rows without decisions.
    """

    model: str
    preprocessing: str
    precision: str
    xla: bool
    top_k: int
    outputs: Mapping[str, int]
    columns: Mapping[str, str]
    threshold: float | None = None
    secret_params: str = ""
    calibration: str = ""

    @property
    def column_types(self) -> tuple[tuple[str, pa.DataType], ...]:
        """Input columns, with their types."""
        return tuple((name, type_from_text(kind)) for name, kind in self.columns.items())

    @property
    def outputs_column(self) -> tuple[str, int] | None:
        """Column of the model's outputs, and their number; None for rows without."""
        return next(iter(self.outputs.items()), None)

    @property
    def decisions(self) -> Decisions | None:
        """Columns of the calibration; None for rows without."""
        is_multilabel = self.threshold is not None
        return Decisions(self.calibration, is_multilabel) if self.calibration else None


@dataclass(frozen=True, slots=True)
class Announcement:
    """Contents of an unfinished run's `run.json`."""

    labelled_with: LabelledWith
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class TopLabel:
    """A label that is the best one of many rows."""

    class_id: int
    label: str
    images: int


@dataclass(frozen=True, slots=True)
class FailureExample:
    """An image that failed for a reason."""

    uri: str
    message: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A generation of the tables, and the run that published it; docs/output.md explains the keys."""

    format: int
    labelbeam: str
    run_id: str
    publication: str
    generation: int
    labelled_with: LabelledWith
    model: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    partitioned_by: str | None
    config: Mapping[str, Any]
    balanced: bool
    counts: Mapping[str, int]
    rows: Mapping[str, int]
    failures_by_reason: Mapping[str, int]
    failures_by_host: Mapping[str, int]
    top_labels: tuple[TopLabel, ...]
    files: tuple[TableFile, ...]
    merged_runs: tuple[str, ...]
    left_out: Mapping[str, int] | None = None
    unparsed: Mapping[str, Any] | None = None
    unread: Mapping[str, int] | None = None
    failure_examples: Mapping[str, FailureExample] | None = None
    labelled_by: str | None = None

    @property
    def labelling_run(self) -> str:
        """Id of the last run that labelled images, whose counts and configuration these are."""
        # Not always `run_id`, because `labelbeam apply` publishes, too.
        return self.labelled_by or self.run_id

    def files_of(self, table: str) -> list[TableFile]:
        """Return the files of a table."""
        return [file for file in self.files if file.table == table]


_T = TypeVar("_T")


def parse(kind: type[_T], data: bytes, path: str, remedy: str) -> _T:
    """Parse and check a document of the table folder.

    Args:
      kind: Class of the document.
      data: The file's bytes.
      path: The file's path.
      remedy: Last sentence of the message about a damaged document.

    Raises:
      UserError: The file is damaged, or a newer version wrote it.
    """
    return parse_file(kind, data, path, FORMAT, remedy, "give another --output")
