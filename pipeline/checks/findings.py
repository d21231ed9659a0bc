"""What the doctor's checks find, what they share, and how one of them is run."""

from __future__ import annotations

import enum
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from labelbeam.pipeline.checks.machines import Pool, pools_of
from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.output import Contents
from labelbeam.pipeline.runners.options import is_dataflow, runner_of
from labelbeam.transforms.elements import Failure, ImageRef
from labelbeam.transforms.errors import LabelbeamError
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.spec import ModelSpec
from labelbeam.transforms.sources.gcs import split_uri
from labelbeam.transforms.within import NoAnswerError, within

_LOG = logging.getLogger(__name__)

# Longest wait for a server to take a connection, and to answer.
CONNECT_SEC, ANSWER_SEC = 3.05, 10.0
# Longest time that a check which asks servers may take.
_REMOTE_SEC = 30.0


class Level(enum.StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
      level: How bad it is.
      what: What was found, as a sentence or two.
      remedy: What to do about it; empty where `what` says so, or nothing needs to be done.
      details: Lines to show below.
    """

    level: Level
    what: str
    remedy: str = ""
    details: tuple[str, ...] = ()


OFFLINE = Finding(Level.SKIPPED, "left out: it needs a network, and --offline was said.")


def ok(what: str, *details: str) -> Finding:
    """Something is as it should be."""
    return Finding(Level.OK, what, details=details)


def warning(what: str, remedy: str, *details: str) -> Finding:
    """Something may cost time or money, or could not be told."""
    return Finding(Level.WARNING, what, remedy, details)


def error(what: str, remedy: str = "", *details: str) -> Finding:
    """Something would break the run."""
    return Finding(Level.ERROR, what, remedy, details)


@dataclass
class Case:
    """A run that is looked at, and what checks have found out of it for others.

    Attributes:
      config: What the user said.
      options: Beam's.
      offline: Whether nothing may be asked for over a network.
      credentials: Google's, if they were found and work.
      suggested_project: The project that the credentials belong to.
      region: Where the job is to run.
      worker_account: The service account that workers run as.
      looked_at: The buckets that were asked.
      buckets: Those of them that answered.
      contents: What the output folder holds.
      corpus: What the input is.
      rows: Its first rows.
      spec: The model.
      classifier: The model, loaded.
      cores_of: How many cores a machine type has, as far as Compute Engine was asked.
    """

    config: RunConfig
    options: PipelineOptions
    offline: bool = False
    credentials: Any = None
    suggested_project: str | None = None
    region: str | None = None
    worker_account: str | None = None
    looked_at: set[str] = field(default_factory=set)
    buckets: set[str] = field(default_factory=set)
    contents: Contents | None = None
    corpus: Corpus | None = None
    rows: list[ImageRef | Failure] = field(default_factory=list)
    spec: ModelSpec | None = None
    classifier: Classifier | None = None
    cores_of: dict[str, int] = field(default_factory=dict)

    @property
    def runner(self) -> str:
        """The runner's name."""
        return runner_of(self.options)

    @property
    def on_dataflow(self) -> bool:
        """Whether Dataflow does the work."""
        return is_dataflow(self.options)

    @property
    def project(self) -> str:
        """The project that the job belongs to; empty if none is given."""
        return self.options.view_as(GoogleCloudOptions).project or ""

    @property
    def pools(self) -> list[Pool]:
        """The kinds of workers that Dataflow is to start."""
        return pools_of(self.config.predict, self.options)

    def lacks_bucket(self, uri: str) -> str:
        """What is missing to look at a place: nothing of a local one, an answer of its bucket otherwise."""
        if not uri.startswith("gs://"):
            return ""
        bucket, _ = split_uri(uri)
        return "" if bucket in self.buckets else f"an answer from the bucket {bucket!r}"


def always(_: Case) -> bool:
    """Holds of every run."""
    return True


def on_dataflow(case: Case) -> bool:
    """Holds of runs on Dataflow."""
    return case.on_dataflow


def _never(_: Case) -> bool:
    return False


def _nothing(_: Case) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at.

    Attributes:
      name: What the report calls it.
      find: Yields what it finds. An error of ours that it raises is an error that it finds.
      applies: Whether it makes sense for a run.
      is_remote: Whether it asks servers for something.
      lacks: What it needs and earlier checks did not bring; empty if nothing.
      limit_sec: Longest time it may take if it is remote.
      too_slow: What it finds if it takes longer.
    """

    name: str
    find: Callable[[Case], Iterator[Finding]]
    applies: Callable[[Case], bool] = always
    is_remote: Callable[[Case], bool] = _never
    lacks: Callable[[Case], str] = _nothing
    limit_sec: float = _REMOTE_SEC
    too_slow: Callable[[str, str], Finding] = error


def examine(check: Check, case: Case) -> list[Finding]:
    """Runs a check, whatever becomes of it."""
    if case.offline and check.is_remote(case):
        return [OFFLINE]
    if lacking := check.lacks(case):
        return [Finding(Level.SKIPPED, f"left out: it needs {lacking}.")]
    found: list[Finding] = []
    try:
        if check.is_remote(case):
            within(check.limit_sec, lambda: _collect(check, case, found))
        else:
            _collect(check, case, found)
    except LabelbeamError as e:
        found.append(error(str(e)))
    except NoAnswerError:
        remedy = "Check the network, and any proxy it needs."
        return [*found, check.too_slow(f"no answer within {check.limit_sec:g} s.", remedy)]
    except Exception as e:  # the one place: whatever a check raises, the others still run
        _LOG.info("the check %r failed", check.name, exc_info=True)
        text = " ".join(str(e).split())[:300].rstrip(".")
        told = f"the check itself failed: {type(e).__name__}: {text}."
        found.append(error(told, "--verbose tells more."))
    return found


def _collect(check: Check, case: Case, found: list[Finding]) -> None:
    for finding in check.find(case):
        found.append(finding)  # noqa: PERF402  (what came before a failure is kept)


def try_connection(host: str, port: int) -> str:
    """Connects to a server; gives why it can't, or nothing if it can."""
    try:
        with socket.create_connection((host, port), CONNECT_SEC):
            return ""
    except (OSError, UnicodeError, OverflowError) as e:
        return str(e)
