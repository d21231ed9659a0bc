"""Findings of the doctor's checks, results that checks share, and the function that runs one check."""

from __future__ import annotations

import enum
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.output import Contents
from labelbeam.pipeline.runners.options import is_dataflow, runner_of
from labelbeam.transforms.elements import AnyImage, Failure, ImageRef, parts_of
from labelbeam.transforms.errors import LabelbeamError
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.spec import ModelSpec
from labelbeam.transforms.sources.addresses import is_gcs, split_gcs
from labelbeam.transforms.within import NoResponseError, within

_LOG = logging.getLogger(__name__)

# Time limits for connecting to a server and for each of its responses.
# A little over 3 s, because TCP sends a lost packet again after 3 s.
CONNECT_SEC, RESPONSE_SEC = 3.05, 10.0
# Time limit for a whole check that uses the network.
_REMOTE_SEC = 30.0


class Level(enum.StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
      level: Severity.
      text: The state of the checked thing, in a sentence or two.
      remedy: Advice to the user; empty if none is needed.
      details: Lines to show below.
    """

    level: Level
    text: str
    remedy: str = ""
    details: tuple[str, ...] = ()


OFFLINE = Finding(Level.SKIPPED, "skipped: the check needs a network, and --offline is set.")


def ok(text: str, *details: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(Level.OK, text, details=details)


def warning(text: str, remedy: str, *details: str) -> Finding:
    """Return a finding that may cost time or money, or that a check could not decide."""
    return Finding(Level.WARNING, text, remedy, details)


def error(text: str, remedy: str = "", *details: str) -> Finding:
    """Return a finding that would break the run."""
    return Finding(Level.ERROR, text, remedy, details)


@dataclass
class Case:
    """A planned run, and results of earlier checks that later checks need.

    Attributes:
      config: The run's configuration.
      options: Beam's options.
      offline: Whether checks that use the network are skipped.
      credentials: Google's credentials; None unless they work.
      default_project: The project that the credentials belong to.
      region: The job's region.
      checked_buckets: Buckets that were looked up.
      buckets: Those of `checked_buckets` that exist.
      contents: Contents of the output folder.
      corpus: The input.
      rows: First rows of the input.
      spec: Specification of the model.
      classifier: The loaded model.
    """

    config: RunConfig
    options: PipelineOptions
    offline: bool = False
    credentials: Any = None
    default_project: str | None = None
    region: str | None = None
    checked_buckets: set[str] = field(default_factory=set)
    buckets: set[str] = field(default_factory=set)
    contents: Contents | None = None
    corpus: Corpus | None = None
    # Bounded by the check `input`, because a list may have billions of rows.
    rows: list[AnyImage | Failure] = field(default_factory=list)
    spec: ModelSpec | None = None
    classifier: Classifier | None = None

    @property
    def runner(self) -> str:
        """The runner's name."""
        return runner_of(self.options)

    @property
    def on_dataflow(self) -> bool:
        """Whether the run is a Dataflow job."""
        return is_dataflow(self.options)

    @property
    def project(self) -> str:
        """The job's project; empty if the user named none."""
        return self.options.view_as(GoogleCloudOptions).project or ""

    def fetched_images(self) -> Iterator[ImageRef]:
        """Yield the images that are fetched by their URIs."""
        sources = (parts_of(row)[0] for row in self.rows if not isinstance(row, Failure))
        return (source for source in sources if isinstance(source, ImageRef))

    def lacks_bucket(self, uri: str) -> str:
        """Return the missing requirement for reading a URI: its bucket, or nothing if it is local."""
        if not is_gcs(uri):
            return ""
        bucket, _ = split_gcs(uri)
        return "" if bucket in self.buckets else f"the bucket {bucket!r}"


def always(_: Case) -> bool:
    """Return True, for checks that apply to all runs."""
    return True


def on_dataflow(case: Case) -> bool:
    """Return whether the run is a Dataflow job."""
    return case.on_dataflow


def lacks_credentials(case: Case) -> str:
    """Return the missing requirement of checks that need Google's credentials."""
    return "" if case.credentials else "credentials"


def _never(_: Case) -> bool:
    return False


def _nothing(_: Case) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the doctor.

    Attributes:
      name: Name in the report.
      find: Yields the findings. A `LabelbeamError` that it raises becomes an error in the report.
      applies: Whether the check makes sense for a run.
      is_remote: Whether the check uses the network.
      lacks: The requirement that earlier checks did not provide; empty if none is missing.
      limit_sec: Time limit of a remote check.
    """

    name: str
    find: Callable[[Case], Iterator[Finding]]
    applies: Callable[[Case], bool] = always
    is_remote: Callable[[Case], bool] = _never
    lacks: Callable[[Case], str] = _nothing
    limit_sec: float = _REMOTE_SEC


def examine(check: Check, case: Case) -> list[Finding]:
    """Run a check, and turn anything that it raises into a finding."""
    if case.offline and check.is_remote(case):
        return [OFFLINE]
    # Skipped and no error, because an earlier check has reported the missing thing itself.
    if lacking := check.lacks(case):
        return [Finding(Level.SKIPPED, f"skipped: the check needs {lacking}.")]
    findings: list[Finding] = []
    try:
        if check.is_remote(case):
            within(check.limit_sec, lambda: _collect(check, case, findings))
        else:
            _collect(check, case, findings)
    except LabelbeamError as e:
        findings.append(error(str(e)))
    except NoResponseError:
        # A copy, because the check's thread still runs and may append to the list.
        remedy = "Check the network and any proxy."
        return [*findings, error(f"no response within {check.limit_sec:g} s.", remedy)]
    except Exception as e:
        # Everything is caught, because a bug in one check must not keep the others from running.
        _LOG.info("the check %r failed", check.name, exc_info=True)
        text = " ".join(str(e).split())[:300].rstrip(".")
        findings.append(
            error(f"the check itself failed: {type(e).__name__}: {text}.", "Use --verbose for the traceback.")
        )
    return findings


def _collect(check: Check, case: Case, findings: list[Finding]) -> None:
    # Not `extend`, because findings before a failure must be kept.
    for finding in check.find(case):
        findings.append(finding)  # noqa: PERF402


def try_connection(host: str, port: int) -> str:
    """Connect to a server, and return the error; empty if the server accepts connections."""
    try:
        with socket.create_connection((host, port), CONNECT_SEC):
            return ""
    except (OSError, UnicodeError, OverflowError) as e:
        return str(e)
