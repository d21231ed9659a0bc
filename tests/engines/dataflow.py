"""A stub of Dataflow's REST API on loopback, as far as Beam's `DataflowRunner` uses it.

A play is the life of a job; one of them, `run_staged`, runs the very pipeline that was staged.
"""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from google.cloud import dataflow
from google.protobuf import json_format

from tests.engines.service import Request, Service

_DONE, _FAILED, _CANCELLED = "JOB_STATE_DONE", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED"
_ENDED = (_DONE, _FAILED, _CANCELLED)


@dataclass
class StubJob:
    """A job of the service.

    Attributes:
      id: The service's id of the job.
      description: The submitted job: the API's JSON, with the names of enums.
      state: The present state.
      messages: Messages of the service, oldest first.
      counts: Counters of the steps, by namespace and name.
      counts_sent: Set whenever the counters were sent to a client.
      cancel_requested: Set once a client has requested the end of the job.
    """

    id: str
    description: dict[str, Any]
    state: str = "JOB_STATE_PENDING"
    messages: list[dict[str, str]] = field(default_factory=list)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    counts_sent: threading.Event = field(default_factory=threading.Event)
    cancel_requested: threading.Event = field(default_factory=threading.Event)

    @property
    def options(self) -> dict[str, Any]:
        """The pipeline's options for workers."""
        return self.description["environment"]["sdkPipelineOptions"]["options"]

    @property
    def pipeline(self) -> beam_runner_api_pb2.Pipeline:
        """The staged pipeline."""
        return beam_runner_api_pb2.Pipeline.FromString(self.pipeline_bytes)

    @property
    def pipeline_bytes(self) -> bytes:
        """The staged file."""
        with FileSystems.open(self.options["pipelineUrl"]) as f:
            return f.read()

    def log(self, importance: str, text: str) -> None:
        """Add a message of some importance, such as `ERROR`."""
        # Times must ascend, because clients request the messages from a time on.
        n = len(self.messages)
        at = f"2026-01-01T00:{n // 60:02d}:{n % 60:02d}Z"
        kind = f"JOB_MESSAGE_{importance}"
        self.messages.append({"time": at, "messageText": text, "messageImportance": kind})

    def as_json(self) -> dict[str, Any]:
        """Return the service's description of the job."""
        names = {name: self.description.get(name) for name in ("name", "clientRequestId")}
        return {**names, "id": self.id, "currentState": self.state}


Play = Callable[[StubJob], None]


def run_staged(job: StubJob) -> None:
    """Run the staged pipeline, in this process."""
    job.state = "JOB_STATE_RUNNING"
    pipeline = job.pipeline
    # Workers are embedded, because the staged environment is a container image, which a test can't start.
    for environment in pipeline.components.environments.values():
        environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
    try:
        result = FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([]))
    except Exception:
        job.log("ERROR", traceback.format_exc())
        job.log("ERROR", WORKFLOW_FAILED)
        job.state = _FAILED
        return
    for counter in result.metrics().query()["counters"]:
        key = (counter.key.metric.namespace, counter.key.metric.name)
        job.counts[key] = job.counts.get(key, 0) + counter.committed
    job.state = _DONE


def stay(job: StubJob) -> None:
    """Run until a client cancels the job."""
    job.state = "JOB_STATE_RUNNING"
    job.cancel_requested.wait(300)
    job.state = "JOB_STATE_CANCELLING"
    # The state stays for a while, because a client must be able to read it.
    time.sleep(0.2)
    job.state = _CANCELLED


def ignore(job: StubJob) -> None:
    """Run on, also after a request to cancel the job."""
    job.state = "JOB_STATE_RUNNING"


def fail(*errors: str) -> Play:
    """Return a play that fails with messages."""

    def play(job: StubJob) -> None:
        job.state = "JOB_STATE_RUNNING"
        for error in errors:
            job.log("ERROR", error)
        job.state = _FAILED

    return play


def end_as(state: str) -> Play:
    """Return a play that ends in a state."""

    def play(job: StubJob) -> None:
        job.state = state

    return play


WORKFLOW_FAILED = (
    "Workflow failed. Causes: S07:LoadImages+PredictLabels failed., The job failed because a work item has "
    "failed 4 times. The work item was attempted on these workers:\n\n  labelbeam-harness-x1\n"
    "      Root cause: Work item failed."
)


class DataflowStub(Service):
    """A service that plays submitted jobs.

    Attributes:
      play: The play of the next job.
      jobs: Submitted jobs, oldest first.
      refusal: HTTP status and message that refuse the next jobs, if any.
    """

    def __init__(self) -> None:
        super().__init__()
        self.play: Play = run_staged
        self.jobs: list[StubJob] = []
        self.refusal: tuple[int, str] | None = None

    def __exit__(self, *_: object) -> None:
        for job in self.jobs:
            job.cancel_requested.set()
        super().__exit__()

    @property
    def flag(self) -> str:
        """The flag that points Beam to this service; Beam accepts no other name of this machine."""
        return f"--dataflow_endpoint=http://localhost:{self.port}"

    @property
    def job(self) -> StubJob:
        """The only job."""
        (job,) = self.jobs
        return job

    def respond(self, request: Request) -> tuple[int, Any]:
        if request.method == "POST":
            return self._create(request.body)
        job_id, part = _JOB.fullmatch(request.path).groups()
        job = next(job for job in self.jobs if job.id == job_id)
        if part == "/messages":
            return 200, {"jobMessages": _messages(job, request.query)}
        if part == "/metrics":
            job.counts_sent.set()
            return 200, {"metrics": [m for item in job.counts.items() for m in _metrics(*item)]}
        if (
            request.method == "PUT"
            and dataflow.Job.from_json(request.body).requested_state.name == _CANCELLED
        ):
            job.cancel_requested.set()
        return 200, job.as_json()

    def _create(self, body: bytes) -> tuple[int, Any]:
        """Accept a job, or return the running one of the same name, as the service does."""
        if self.refusal:
            status, message = self.refusal
            return status, {"error": {"code": status, "message": message}}
        description = json_format.MessageToDict(dataflow.Job.pb(dataflow.Job.from_json(body)))
        for job in self.jobs:
            if job.state not in _ENDED and job.description["name"] == description["name"]:
                return 200, job.as_json()
        job = StubJob(f"2026-01-01_00_00_00-{len(self.jobs) + 1}", description)
        self.jobs.append(job)
        threading.Thread(target=self.play, args=(job,), daemon=True).start()
        return 200, job.as_json()


_JOB = re.compile(r"/v1b3/projects/[\w-]+/locations/[\w-]+/jobs/([\w-]+)(/messages|/metrics)?")


def _messages(job: StubJob, query: dict[str, list[str]]) -> list[dict[str, str]]:
    """Return the messages from a time on, and of some importance at least."""
    importances = dataflow.JobMessageImportance
    least = int(query.get("minimumImportance", ["0"])[0])
    since = query.get("startTime", [""])[0][:19]
    return [
        message
        for message in job.messages
        if importances[message["messageImportance"]] >= least and message["time"][:19] >= since
    ]


def _metrics(key: tuple[str, str], count: int) -> list[dict[str, Any]]:
    """Return two values for each counter, attempted and committed, as the service does."""
    namespace, name = key
    attempted_and_committed: tuple[dict[str, str], ...] = ({"tentative": "true"}, {})
    contexts = [{"namespace": namespace, **more} for more in attempted_and_committed]
    return [{"name": {"origin": "user", "name": name, "context": c}, "scalar": count} for c in contexts]
