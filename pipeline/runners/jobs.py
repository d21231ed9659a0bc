"""Jobs that run elsewhere: each is followed until it has ended, and Ctrl-C cancels it."""

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

from labelbeam.pipeline import GO_ON, KEPT
from labelbeam.pipeline.report.progress import Counts, Status, quiet_beam, shown
from labelbeam.pipeline.runners.errors import (
    FOREIGN_ERRORS,
    cause_of,
    cause_of_error,
    is_traceback,
    own_message,
)
from labelbeam.pipeline.runners.options import flink_cluster
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.interrupts import ending_signals_handled
from labelbeam.transforms.within import within

_LOG = logging.getLogger(__name__)

Print = Callable[[str], None]

_POLL_SEC = 5.0
# Time between two readings of a job's counters.
_COUNTS_SEC = 10.0
# Silence of a service after which the command gives up, because Beam's clients retry without a limit.
_SILENCE_SEC = 900.0
# HTTP statuses that a retry does not change: no login, no right to see the job, no such job.
_FINAL_STATUSES = (401, 403, 404)
# Longest wait for a service's messages.
_NEWS_SEC = 30.0
# Dataflow takes a minute or two to end a job's workers.
_CANCEL_SEC, _CANCEL_POLL_SEC = 300.0, 1.0
# The error message of a failed job may come later than the state. Beam's own runner waits as long for it.
_REASON_SEC, _REASON_POLL_SEC = 50.0, 1.0
# Final states of Flink's jobs, and HTTP statuses of a request to cancel a job in one of them.
_ENDED_ON_FLINK, _HAS_ENDED = ("FINISHED", "CANCELED", "FAILED"), (404, 409)
# Longest wait for Flink's REST interface.
_REST_SEC = 30.0

_NOT_ANOTHER = "Do not start another run on this output before the job has ended."


class Job(ABC):
    """A submitted job.

    Attributes:
      id: The runner's id of the job.
      link: Address of the job's web page; empty if there is none.
      cancelled: Remedy for a job that its runner reports as cancelled.
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
        """Return the present state, one of `PipelineState`."""

    @abstractmethod
    def news(self) -> list[str]:
        """Return the service's warnings since the last call, a line each."""

    @abstractmethod
    def reason(self) -> str:
        """Return the runner's full error message of a job that has failed."""

    def cancel(self) -> None:
        """Request the end of the job."""
        self._result.cancel()


class DataflowJob(Job):
    """A job on Dataflow."""

    def __init__(self, result: Any, client: Any, options: PipelineOptions) -> None:
        cloud = options.view_as(GoogleCloudOptions)
        place = f"{cloud.region}/{result.job_id()}?project={cloud.project}"
        super().__init__(result, result.job_id(), f"https://console.cloud.google.com/dataflow/jobs/{place}")
        self._client = client
        # Time of the last message. Messages of equal time are remembered, because the next request, which
        # begins at this time, returns them again.
        self._since: Any = None
        self._seen: set[tuple[Any, str]] = set()
        self._returned: set[str] = set()
        self._errors: list[str] = []

    def state(self) -> str:
        # Not the result's state, because it lacks JOB_STATE_QUEUED, in which FlexRS keeps a job for hours.
        state = self._client.get_job(self.id).current_state
        return getattr(state, "name", PipelineState.UNRECOGNIZED).removeprefix("JOB_STATE_")

    def news(self) -> list[str]:
        try:
            # Fetched completely before any is kept, because a request that fails half-way must lose none.
            messages = within(_NEWS_SEC, lambda: list(self._messages()))
        except FOREIGN_ERRORS as e:
            # Not raised, because the job's state may be available nevertheless.
            _LOG.info("The job's messages are not available: %r", e)
            return []
        new = [m for m in messages if (m.time, m.message_text) not in self._seen]
        for message in new:
            self._seen.add((message.time, message.message_text))
            self._since = max(filter(None, (self._since, message.time)), default=None)
            if getattr(message.message_importance, "name", "") == "JOB_MESSAGE_ERROR":
                self._errors.append(message.message_text)
        # Equal lines are dropped, because Dataflow tries a work item four times and logs each failure.
        lines = dict.fromkeys(f"Dataflow: {cause_of(message.message_text)}" for message in new)
        fresh = [line for line in lines if line not in self._returned]
        self._returned.update(fresh)
        return fresh

    def _messages(self) -> Iterator[Any]:
        """Yield messages from the time of the last one on, which comes again."""
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
        # Reversed, because `max` returns the first of equals, and the last error ended the job.
        return max(reversed(self._errors), key=_weight_of, default="")


def _weight_of(error: str) -> int:
    """Rate an error of Dataflow's, because a worker's exception explains more than the number of attempts."""
    return 2 if is_traceback(error) else int("work item was attempted" not in error)


class PortableJob(Job):
    """A job of a job server."""

    cancelled = (
        "The job server reports it as cancelled. Check on the cluster that it has stopped before you run "
        f"again. {GO_ON}"
    )

    def __init__(self, result: Any) -> None:
        super().__init__(result, result._job_id)  # Beam has no public attribute for it
        self._error: Exception | None = None
        # In a thread, because Beam reads a job's messages only while some thread waits for the result.
        self._waiting = threading.Thread(target=self._wait, daemon=True)
        self._waiting.start()

    def _wait(self) -> None:
        try:
            self._result.wait_until_finish()
        except FOREIGN_ERRORS as e:
            self._error = e

    def state(self) -> str:
        return self._result.state

    def news(self) -> list[str]:
        return []

    def reason(self) -> str:
        # Joined, because the thread sets the error after the state has changed.
        self._waiting.join(_REASON_SEC)
        return str(self._error or "")


class FlinkJob(PortableJob):
    """A job on a Flink cluster.

    A cancelled job's state is read from the cluster, because Beam's job server reports it as cancelled while
    the cluster still runs it. It is found there by its name, because Beam does not return the cluster's id.
    """

    cancelled = Job.cancelled

    def __init__(self, result: Any, master: str) -> None:
        super().__init__(result)
        self._master = master
        # Without retries, because `_watch` repeats its requests itself, up to a bound.
        self._http = urllib3.PoolManager(timeout=_REST_SEC, retries=False)

    def state(self) -> str:
        state = super().state()
        running = self._on_the_cluster() if state == PipelineState.CANCELLED else []
        for job in running:  # at each call, because a job that is starting ignores the request
            self._request("PATCH", f"jobs/{job}?mode=cancel", allowed=_HAS_ENDED)
        return PipelineState.CANCELLING if running else state

    def _on_the_cluster(self) -> list[str]:
        """Return the cluster's ids of the job; empty once it has ended there."""
        name = self.id.rpartition("_")[0]  # without the suffix of the job server
        jobs = self._request("GET", "jobs/overview").json()["jobs"]
        return [job["jid"] for job in jobs if job["name"] == name and job["state"] not in _ENDED_ON_FLINK]

    def _request(self, method: str, path: str, allowed: tuple[int, ...] = ()) -> urllib3.BaseHTTPResponse:
        response = self._http.request(method, f"{self._master}/{path}")
        if response.status >= 400 and response.status not in allowed:
            raise RunError(f"{self._master} returns {response.status} for {method} {path}")
        return response


def job_of(result: Any, runner: Any, options: PipelineOptions) -> Job:
    """Return the job that a runner has submitted, from the runner's result."""
    client = getattr(runner, "dataflow_client", None)
    if client:
        return DataflowJob(result, client, options)
    cluster = flink_cluster(options)
    return FlinkJob(result, FlinkRunner.add_http_scheme(cluster)) if cluster else PortableJob(result)


def follow(job: Job, read: Callable[[], Counts]) -> None:
    """Follow a job until it is done, from the main thread, and show its state and progress.

    Raises:
      RunError: The job failed or was cancelled elsewhere, or its service is silent.
      KeyboardInterrupt: A signal came. SIGINT cancels the job; SIGTERM, which a machine
        that shuts down sends, leaves it alone.
    """
    # The state is shared with the thread that shows progress, because lines must name it while `_watch`
    # waits.
    status = Status("submitted")
    # Only SIGINT cancels the job, because a laptop that shuts down sends SIGTERM, a closed terminal SIGHUP.
    left_alone = ending_signals_handled(_terminate, (signal.SIGTERM, signal.SIGHUP))
    with quiet_beam(), shown(read, status=status, least_sec=_COUNTS_SEC) as print_line, left_alone:
        try:
            state = _watch(job, status, print_line)
        except _Terminated as e:
            raise KeyboardInterrupt(f"No longer following {job}, which may run on. {_NOT_ANOTHER}") from e
        except KeyboardInterrupt as e:
            raise KeyboardInterrupt(_cancel(job, status, print_line)) from e
        if state == PipelineState.FAILED:
            raise RunError(_failure(job))
    if state == PipelineState.CANCELLED:
        raise RunError(f"The job was cancelled, and not by this command. {job.cancelled}")
    if state != PipelineState.DONE:
        raise RunError(f"The job ended as {state}, and published nothing. {GO_ON}")


def _watch(job: Job, status: Status, print_line: Print) -> str:
    """Wait until a job has ended, print its service's messages, and return its last state."""
    response_sec, warned = time.monotonic(), False
    while True:
        try:
            state = within(_SILENCE_SEC, job.state)
        except FOREIGN_ERRORS as e:
            why = cause_of_error(e)
            # Retried, because a service may be away for minutes while the job goes on.
            if time.monotonic() - response_sec >= _SILENCE_SEC or getattr(e, "code", None) in _FINAL_STATUSES:
                raise RunError(f"The state of {job} is unknown ({why}). It may run on. {_NOT_ANOTHER}") from e
            if not warned:
                print_line(
                    f"The job's state is unknown ({why}); retrying for {_SILENCE_SEC / 60:.0f} minutes."
                )
            warned = True
            time.sleep(_POLL_SEC)
            continue
        response_sec, warned = time.monotonic(), False
        # Messages before the state, because they explain a change of it.
        for line in job.news():
            print_line(line)
        if (words := _in_words(state)) != status.state:
            print_line(f"The job is {words}.")
            status.state = words
        if PipelineState.is_terminal(state):
            return state
        time.sleep(_POLL_SEC)


def _in_words(state: str) -> str:
    return state.lower().replace("_", " ")


def _failure(job: Job) -> str:
    reason = job.reason()
    if why := cause_of(reason):
        return f"The job failed: {why} {KEPT if own_message(reason) else GO_ON}"
    return f"The job failed without an error message. Look at {job}. {GO_ON}"


def _cancel(job: Job, status: Status, print_line: Print) -> str:
    """Cancel a job, wait until it has ended or a signal comes, and return a message for the user."""
    deadline = time.monotonic() + _CANCEL_SEC
    try:
        print_line("Cancelling the job, and waiting until it has ended. Ctrl-C again leaves at once.")
        # In a thread, because a client that hangs must not hold the second Ctrl-C back.
        within(_CANCEL_SEC, job.cancel)
        while not PipelineState.is_terminal(state := within(_CANCEL_SEC, job.state)):
            status.state = _in_words(state)
            if time.monotonic() >= deadline:
                return f"Cancelled, but {job} has not ended yet. {_NOT_ANOTHER}"
            time.sleep(_CANCEL_POLL_SEC)
    except KeyboardInterrupt:
        return f"Not waiting any longer: {job} may still run. End it there. {_NOT_ANOTHER}"
    except FOREIGN_ERRORS as e:
        why = cause_of_error(e)
        return f"The job could not be cancelled ({why}): {job} may still run. End it there. {_NOT_ANOTHER}"
    # A job may end by itself before the request to cancel it arrives.
    if state == PipelineState.DONE:
        return "The job was done before it could be cancelled: its results are published."
    if state == PipelineState.FAILED:
        return _failure(job)
    return f"Interrupted: the job is cancelled. {job.cancelled}"


class _Terminated(KeyboardInterrupt):
    """A signal that ends this process and not its job: SIGTERM, or SIGHUP of a closed terminal."""


def _terminate(*_: Any) -> NoReturn:
    raise _Terminated
