"""Following a job that runs elsewhere until it has ended; Ctrl-C cancels it."""

from __future__ import annotations

import logging
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import urllib3
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.runner import PipelineState

from labelbeam.pipeline import GO_ON
from labelbeam.pipeline.report.progress import Counts, quiet_beam, shown
from labelbeam.pipeline.runners.errors import cause_of, cause_of_error, is_traceback
from labelbeam.pipeline.runners.options import flink_cluster
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.interrupts import ending_signals_handled
from labelbeam.transforms.within import within

_LOG = logging.getLogger(__name__)

Say = Callable[[str], None]

_POLL_SEC = 5.0
# Time between two readings of a job's counters.
_COUNTS_SEC = 10.0
# A service that is silent for so long is given up; Beam's clients try again by themselves, without a limit.
_SILENCE_SEC = 900.0
# Answers that do not change: no such job, or not for us to see.
_FINAL_ANSWERS = (401, 403, 404)
# Longest wait for a service's messages.
_NEWS_SEC = 30.0
# Dataflow takes a minute or two to end a job's workers.
_CANCEL_SEC, _CANCEL_POLL_SEC = 300.0, 1.0
# The message that says why a job failed may come later than its state; Beam's own runner waits as long.
_REASON_SEC, _REASON_POLL_SEC = 50.0, 1.0
# States of Flink's jobs that are their last, and what it answers to who would cancel one that is in them.
_ENDED_ON_FLINK, _HAS_ENDED = ("FINISHED", "CANCELED", "FAILED"), (404, 409)
# The longest wait for its REST interface.
_REST_SEC = 30.0

_NOT_ANOTHER = "Do not start another on this output before it has ended."


class Job(ABC):
    """A job that was submitted.

    Attributes:
      id: What its runner calls it.
      link: Where to look at it; empty where there is no such place.
      cancelled: What to do when its runner calls it cancelled.
    """

    cancelled = GO_ON

    def __init__(self, result: Any, job_id: str, link: str = "") -> None:
        self.id = job_id
        self.link = link
        self._result = result

    def __str__(self) -> str:
        return f"job {self.id} ({self.link})" if self.link else f"job {self.id}"

    @abstractmethod
    def state(self) -> str:
        """Its state now, as `PipelineState` names it."""

    @abstractmethod
    def news(self) -> list[str]:
        """What its service warns of, a line each, since this was last asked."""

    @abstractmethod
    def reason(self) -> str:
        """Why it failed, once it has, with all that the runner says of that."""

    def cancel(self) -> None:
        """Asks its service to end it."""
        self._result.cancel()


class DataflowJob(Job):
    """A job of Dataflow's."""

    def __init__(self, result: Any, client: Any, options: PipelineOptions) -> None:
        cloud = options.view_as(GoogleCloudOptions)
        place = f"{cloud.region}/{result.job_id()}?project={cloud.project}"
        super().__init__(result, result.job_id(), f"https://console.cloud.google.com/dataflow/jobs/{place}")
        self._client = client
        self._since: Any = None
        self._seen: set[tuple[Any, str]] = set()
        self._told: set[str] = set()
        self._errors: list[str] = []

    def state(self) -> str:
        # Not the result's state, which knows no JOB_STATE_QUEUED: where FlexRS keeps a job for hours.
        state = self._client.get_job(self.id).current_state
        return getattr(state, "name", PipelineState.UNRECOGNIZED).removeprefix("JOB_STATE_")

    def news(self) -> list[str]:
        try:
            messages = within(_NEWS_SEC, lambda: list(self._messages()))
        except Exception as e:  # clients raise anything; the state may be known nevertheless
            _LOG.info("no messages of the job: %r", e)
            return []
        new = [m for m in messages if (m.time, m.message_text) not in self._seen]
        for message in new:
            self._seen.add((message.time, message.message_text))
            self._since = max(filter(None, (self._since, message.time)), default=None)
            if getattr(message.message_importance, "name", "") == "JOB_MESSAGE_ERROR":
                self._errors.append(message.message_text)
        # A work item that fails is tried four times, and says the same each time.
        lines = [f"Dataflow: {cause_of(message.message_text)}" for message in new]
        untold = [line for line in dict.fromkeys(lines) if line not in self._told]
        self._told.update(untold)
        return untold

    def _messages(self) -> Iterator[Any]:
        """Messages since the last one that was seen, that one included."""
        page = None
        while True:
            messages, page = self._client.list_messages(
                self.id, start_time=self._since, page_token=page, minimum_importance="JOB_MESSAGE_WARNING"
            )
            yield from messages
            if not page:
                return

    def reason(self) -> str:
        deadline = time.monotonic() + _REASON_SEC
        while not self._errors and time.monotonic() < deadline:
            time.sleep(_REASON_POLL_SEC)
            self.news()
        return max(reversed(self._errors), key=_tells, default="")


def _tells(error: str) -> int:
    """How much an error of Dataflow's tells: a worker's exception more than how often it was tried."""
    return 2 if is_traceback(error) else int("work item was attempted" not in error)


class PortableJob(Job):
    """A job that a job server was given: Flink's, Spark's."""

    cancelled = f"That is the job server's word: first see that it has ended on the cluster, too. {GO_ON}"

    def __init__(self, result: Any) -> None:
        super().__init__(result, result._job_id)  # nothing public tells it
        self._error: Exception | None = None
        # Messages are read while a result is waited for, and only then.
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        try:
            self._result.wait_until_finish()
        except Exception as e:  # runners raise anything
            self._error = e

    def state(self) -> str:
        return self._result.state

    def news(self) -> list[str]:
        return []

    def reason(self) -> str:
        self._waiting.join(_REASON_SEC)
        return str(self._error or "")


class FlinkJob(PortableJob):
    """A job on a Flink cluster, where it runs on when Beam's job server says that it is cancelled.

    Its name is taken to be no other job's: the cluster's own id of it is nowhere to be had.
    """

    cancelled = Job.cancelled

    def __init__(self, result: Any, master: str) -> None:
        super().__init__(result)
        self._master = master
        self._http = urllib3.PoolManager(timeout=_REST_SEC, retries=False)

    def state(self) -> str:
        state = super().state()
        running = self._on_the_cluster() if state == PipelineState.CANCELLED else []
        for job in running:  # each time: one that is starting may not listen yet
            self._ask("PATCH", f"jobs/{job}?mode=cancel", allowed=_HAS_ENDED)
        return PipelineState.CANCELLING if running else state

    def _on_the_cluster(self) -> list[str]:
        """What the cluster calls the job, as long as it has not ended there."""
        name = self.id.rpartition("_")[0]  # what follows is the job server's
        jobs = self._ask("GET", "jobs/overview").json()["jobs"]
        return [job["jid"] for job in jobs if job["name"] == name and job["state"] not in _ENDED_ON_FLINK]

    def _ask(self, method: str, path: str, allowed: tuple[int, ...] = ()) -> urllib3.BaseHTTPResponse:
        answer = self._http.request(method, f"{self._master}/{path}")
        if answer.status >= 400 and answer.status not in allowed:
            raise RunError(f"{self._master} answers {answer.status} to {method} {path}")
        return answer


def job_of(result: Any, runner: Any, options: PipelineOptions) -> Job:
    """The job that a runner has submitted.

    Args:
      result: What the runner gave.
      runner: The runner.
      options: Beam's.
    """
    client = getattr(runner, "dataflow_client", None)
    if client:
        return DataflowJob(result, client, options)
    cluster = flink_cluster(options)
    return FlinkJob(result, FlinkRunner.add_http_scheme(cluster)) if cluster else PortableJob(result)


def follow(job: Job, read: Callable[[], Counts]) -> None:
    """Follows a job until it is done, from the main thread, and shows what becomes of it.

    Args:
      job: The job.
      read: Tells how far it is.

    Raises:
      RunError: It failed, it was cancelled elsewhere, or its service is silent.
      KeyboardInterrupt: A signal came. SIGINT cancels the job; SIGTERM, which a machine
        that shuts down sends, leaves it alone.
    """
    left_alone = ending_signals_handled(_terminate, (signal.SIGTERM, signal.SIGHUP))
    with quiet_beam(), shown(read, least_sec=_COUNTS_SEC) as say, left_alone:
        try:
            state = _watch(job, say)
        except _Terminated as e:
            raise KeyboardInterrupt(f"No longer following {job}, which may run on. {_NOT_ANOTHER}") from e
        except KeyboardInterrupt as e:
            raise KeyboardInterrupt(_cancel(job, say)) from e
        if state == PipelineState.FAILED:
            raise RunError(f"{_failure(job)} {GO_ON}")
    if state == PipelineState.CANCELLED:
        raise RunError(f"The job was cancelled, and not by this command. {job.cancelled}")
    if state != PipelineState.DONE:
        raise RunError(f"The job ended as {state}, and published nothing. {GO_ON}")


def _watch(job: Job, say: Say) -> str:
    """Waits until a job has ended, and tells what its service says; gives its last state."""
    told, heard, warned = "", time.monotonic(), False
    while True:
        try:
            state = within(_SILENCE_SEC, job.state)
        except Exception as e:  # clients raise anything
            why = cause_of_error(e)
            if time.monotonic() - heard >= _SILENCE_SEC or getattr(e, "code", None) in _FINAL_ANSWERS:
                raise RunError(f"No answer about {job}, which may run on: {why}. {_NOT_ANOTHER}") from e
            if not warned:
                say(f"No answer about the job ({why}); asking again for {_SILENCE_SEC / 60:.0f} minutes.")
            warned = True
            time.sleep(_POLL_SEC)
            continue
        heard, warned = time.monotonic(), False
        for line in job.news():
            say(line)
        if state != told:
            say(f"The job is {_in_words(state)}.")
            told = state
        if PipelineState.is_terminal(state):
            return state
        time.sleep(_POLL_SEC)


def _in_words(state: str) -> str:
    return state.lower().replace("_", " ")


def _failure(job: Job) -> str:
    why = cause_of(job.reason())
    return f"The job failed: {why}" if why else f"The job failed, and no message says why: look at {job}."


def _cancel(job: Job, say: Say) -> str:
    """Ends a job, and waits until it has ended or a signal comes; gives what to tell the user."""
    deadline = time.monotonic() + _CANCEL_SEC
    try:
        say("Cancelling the job, and waiting until it has ended. Ctrl-C again leaves at once.")
        within(_CANCEL_SEC, job.cancel)
        while not PipelineState.is_terminal(state := within(_CANCEL_SEC, job.state)):
            if time.monotonic() >= deadline:
                return f"Cancelled, but {job} has not ended yet. {_NOT_ANOTHER}"
            time.sleep(_CANCEL_POLL_SEC)
    except KeyboardInterrupt:
        return f"Not waiting any longer: {job} may still run. End it there. {_NOT_ANOTHER}"
    except Exception as e:  # clients raise anything
        why = cause_of_error(e)
        return f"It could not be cancelled ({why}): {job} may still run. End it there. {_NOT_ANOTHER}"
    if state == PipelineState.DONE:
        return "The job was done before it could be cancelled: its results are published."
    if state == PipelineState.FAILED:
        return f"{_failure(job)} {GO_ON}"
    return f"Interrupted: the job is cancelled. {job.cancelled}"


class _Terminated(KeyboardInterrupt):
    """The end of this process, and not of its job: SIGTERM, or SIGHUP of a closed terminal."""


def _terminate(*_: Any) -> NoReturn:
    raise _Terminated
