"""A stub of Dataflow's REST API on loopback, as far as Beam's `DataflowRunner` uses it.

A play decides what becomes of a job; one of them, `run_staged`, runs the very
pipeline that was staged.
"""

from __future__ import annotations

import json
import re
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from google.cloud import dataflow
from google.protobuf import json_format

_DONE, _FAILED, _CANCELLED = "JOB_STATE_DONE", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED"
_ENDED = (_DONE, _FAILED, _CANCELLED)


@dataclass
class StubJob:
    """A job as the service has it.

    Attributes:
      id: The service's name for it.
      description: What was submitted: the API's JSON, with the names of enums.
      state: Its state.
      messages: Of the service, oldest first.
      counts: What its steps have counted, by namespace and name.
      counts_told: Set whenever a client was told what is counted.
      cancel_asked: Set once a client asked for its end.
    """

    id: str
    description: dict[str, Any]
    state: str = "JOB_STATE_PENDING"
    messages: list[dict[str, str]] = field(default_factory=list)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    counts_told: threading.Event = field(default_factory=threading.Event)
    cancel_asked: threading.Event = field(default_factory=threading.Event)

    @property
    def options(self) -> dict[str, Any]:
        """The pipeline's options, as workers get them."""
        return self.description["environment"]["sdkPipelineOptions"]["options"]

    @property
    def pipeline(self) -> beam_runner_api_pb2.Pipeline:
        """The pipeline that was staged."""
        return beam_runner_api_pb2.Pipeline.FromString(self.pipeline_bytes)

    @property
    def pipeline_bytes(self) -> bytes:
        """The staged file."""
        with FileSystems.open(self.options["pipelineUrl"]) as f:
            return f.read()

    def tell(self, importance: str, text: str) -> None:
        """Has the service say something, such as `ERROR`."""
        n = len(self.messages)
        at = f"2026-01-01T00:{n // 60:02d}:{n % 60:02d}Z"
        kind = f"JOB_MESSAGE_{importance}"
        self.messages.append({"time": at, "messageText": text, "messageImportance": kind})

    def as_json(self) -> dict[str, Any]:
        """What the service answers."""
        told = {name: self.description.get(name) for name in ("name", "clientRequestId")}
        return {**told, "id": self.id, "currentState": self.state}


Play = Callable[[StubJob], None]


def run_staged(job: StubJob) -> None:
    """What the service is for: the pipeline that was staged is run, in this process."""
    job.state = "JOB_STATE_RUNNING"
    pipeline = job.pipeline
    for environment in pipeline.components.environments.values():
        environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
    try:
        result = FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([]))
    except Exception:
        job.tell("ERROR", traceback.format_exc())
        job.tell("ERROR", WORKFLOW_FAILED)
        job.state = _FAILED
        return
    for counter in result.metrics().query()["counters"]:
        key = (counter.key.metric.namespace, counter.key.metric.name)
        job.counts[key] = job.counts.get(key, 0) + counter.committed
    job.state = _DONE


def stay(job: StubJob) -> None:
    """The job runs until a client cancels it."""
    job.state = "JOB_STATE_RUNNING"
    job.cancel_asked.wait(300)
    job.state = "JOB_STATE_CANCELLING"
    time.sleep(0.2)
    job.state = _CANCELLED


def ignore(job: StubJob) -> None:
    """The job runs on, whatever a client asks."""
    job.state = "JOB_STATE_RUNNING"


def fail(*errors: str) -> Play:
    """The job fails with these messages."""

    def play(job: StubJob) -> None:
        job.state = "JOB_STATE_RUNNING"
        for error in errors:
            job.tell("ERROR", error)
        job.state = _FAILED

    return play


def end_as(state: str) -> Play:
    """The job ends in a state that nobody here asked for."""

    def play(job: StubJob) -> None:
        job.state = state

    return play


WORKFLOW_FAILED = (
    "Workflow failed. Causes: S07:FetchImages+DecodeImages failed., The job failed because a work item has "
    "failed 4 times. The work item was attempted on these workers:\n\n  labelbeam-harness-x1\n"
    "      Root cause: Work item failed."
)


class DataflowStub:
    """Takes jobs in and plays them.

    Attributes:
      play: What becomes of the next job.
      jobs: Those that were submitted, oldest first.
      refusal: HTTP status and message that submitting is answered with, if any.
    """

    def __init__(self) -> None:
        self.play: Play = run_staged
        self.jobs: list[StubJob] = []
        self.refusal: tuple[int, str] | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True

    def __enter__(self) -> DataflowStub:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for job in self.jobs:
            job.cancel_asked.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def flag(self) -> str:
        """What points Beam here; it takes no other name of this machine."""
        return f"--dataflow_endpoint=http://localhost:{self._server.server_port}"

    @property
    def job(self) -> StubJob:
        """The only job."""
        (job,) = self.jobs
        return job

    def create(self, body: bytes) -> StubJob:
        """Takes a job in; one of the same name that has not ended is given instead, as the service does."""
        description = json_format.MessageToDict(dataflow.Job.pb(dataflow.Job.from_json(body)))
        for job in self.jobs:
            if job.state not in _ENDED and job.description["name"] == description["name"]:
                return job
        job = StubJob(f"2026-01-01_00_00_00-{len(self.jobs) + 1}", description)
        self.jobs.append(job)
        threading.Thread(target=self.play, args=(job,), daemon=True).start()
        return job


_JOB = re.compile(r"/v1b3/projects/[\w-]+/locations/[\w-]+/jobs(?:/([\w-]+)(/messages|/metrics)?)?$")


def _handler_of(stub: DataflowStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            job, part = self.target()
            if part == "/messages":
                self.answer(200, {"jobMessages": _messages(job, parse_qs(urlsplit(self.path).query))})
            elif part == "/metrics":
                self.answer(200, {"metrics": [m for item in job.counts.items() for m in _metrics(*item)]})
                job.counts_told.set()
            else:
                self.answer(200, job.as_json())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if stub.refusal:
                status, message = stub.refusal
                self.answer(status, {"error": {"code": status, "message": message}})
            else:
                self.answer(200, stub.create(body).as_json())

        def do_PUT(self) -> None:
            asked = dataflow.Job.from_json(self.rfile.read(int(self.headers["Content-Length"])))
            job, _ = self.target()
            if asked.requested_state.name == _CANCELLED:
                job.cancel_asked.set()
            self.answer(200, job.as_json())

        def target(self) -> tuple[StubJob, str | None]:
            job_id, part = _JOB.match(urlsplit(self.path).path).groups()
            return next(job for job in stub.jobs if job.id == job_id), part

        def answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _messages(job: StubJob, query: dict[str, list[str]]) -> list[dict[str, str]]:
    """The messages that a client asks for: from a time on, and of some importance at least."""
    importances = dataflow.JobMessageImportance
    least = int(query.get("minimumImportance", ["0"])[0])
    since = query.get("startTime", [""])[0][:19]
    return [
        message
        for message in job.messages
        if importances[message["messageImportance"]] >= least and message["time"][:19] >= since
    ]


def _metrics(key: tuple[str, str], count: int) -> list[dict[str, Any]]:
    """A counter as the service tells it: what was tried, and what was committed."""
    namespace, name = key
    tried_and_committed: tuple[dict[str, str], ...] = ({"tentative": "true"}, {})
    contexts = [{"namespace": namespace, **more} for more in tried_and_committed]
    return [{"name": {"origin": "user", "name": name, "context": c}, "scalar": count} for c in contexts]
