"""The record of a finished run: its numbers, in `OUTPUT/runs/RUN.json`."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from labelbeam import __version__
from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.report.bottleneck import Performance
from labelbeam.pipeline.report.summary import images_per_sec
from labelbeam.pipeline.runners.errors import FOREIGN_ERRORS, cause_of_error
from labelbeam.pipeline.runners.options import pipeline_options, runner_of
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.files import file_errors_as, write_file
from labelbeam.transforms.sources.secrets import hide_in_message, public_uri
from labelbeam.transforms.table.documents import write_document
from labelbeam.transforms.table.folder import TableFolder, read_stored
from labelbeam.transforms.table.manifest import FORMAT, Manifest

_MEND_RECORD = "Put a whole copy in its place, or delete it: no row depends on it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A run as far as it is known however the run ends.

    Attributes:
      labelbeam: Version of the program.
      model: Model as configured, without secrets.
      runner: Beam's runner.
      started: Time at which the command started, UTC, as ISO 8601.
      seconds: Time from then to the end, start-up included.
    """

    labelbeam: str
    model: str
    runner: str
    started: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord(Attempt):
    """A run that has published.

    Attributes:
      format: Format of the table folder's documents.
      run_id: Id of the run.
      generation: Generation of the tables that the run published.
      counts: Images of the run by outcome, as in the manifest.
      rows: Rows of the tables.
      failures_by_reason: Failures in the tables.
      images_per_sec: Labelled and failed images a second, start-up included; None if none was labelled.
      performance: Numbers of the work; None if the runner has no metrics.
      verdict: Why the run counts as failed; None if it succeeded.
    """

    format: int = FORMAT
    run_id: str
    generation: int
    counts: Mapping[str, int]
    rows: Mapping[str, int]
    failures_by_reason: Mapping[str, int]
    images_per_sec: float | None
    performance: Performance | None
    verdict: str | None


class Stopwatch:
    """The time since a command started.

    Attributes:
      started: Start of the command.
    """

    def __init__(self) -> None:
        self.started = datetime.now(UTC)
        # Beside the time of day, because the clock may be set while a run goes.
        self._began_sec = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began_sec


def make_attempt(config: RunConfig, watch: Stopwatch) -> Attempt:
    """Describe a run that ends now.

    Raises:
      UserError: Neither labelbeam nor Beam has a flag of the configuration.
    """
    return Attempt(
        labelbeam=__version__,
        model=public_uri(config.model.model),
        runner=runner_of(pipeline_options(config.beam_flags)),
        started=watch.started.isoformat(timespec="milliseconds"),
        seconds=watch.seconds,
    )


def make_record(
    attempt: Attempt, manifest: Manifest, performance: Performance | None, verdict: str | None
) -> RunRecord:
    """Return the record of a run that has published a manifest."""
    return RunRecord(
        **dataclasses.asdict(attempt),
        run_id=manifest.run_id,
        generation=manifest.generation,
        counts=manifest.counts,
        rows=manifest.rows,
        failures_by_reason=manifest.failures_by_reason,
        images_per_sec=images_per_sec(manifest.counts, attempt.seconds),
        performance=performance,
        verdict=None if verdict is None else hide_in_message(verdict),
    )


def write_run_record(output: str, record: RunRecord) -> None:
    """Write the record of a run into its table folder, and warn if that fails."""
    path = TableFolder(output).record(record.run_id)
    try:
        with file_errors_as(RunError, f"{path} cannot be written", "Check the rights of the folder."):
            write_file(path, write_document(record))
    # No error of any kind, because the results are published, and a status of failure would be wrong.
    except FOREIGN_ERRORS as e:
        warn(f"The run's results are complete, but its numbers are not kept: {cause_of_error(e)}")


def warn(message: str) -> None:
    """Print a warning on standard error."""
    print(f"labelbeam: warning: {hide_in_message(message)}", file=sys.stderr, flush=True)


def read_run_record(output: str, run_id: str) -> RunRecord | None:
    """Read the record of a run; None if there is none.

    Raises:
      UserError: The record is damaged or of a newer format, or the folder can't be read.
    """
    return read_stored(RunRecord, TableFolder(output).record(run_id), _MEND_RECORD)
