"""Processes that a run starts here: no worker ends unnoticed, nothing outlives the command."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.interrupts import ending_signals_handled

_LOG = logging.getLogger(__name__)

# How Beam's local runner names the thread that waits for a worker process, and what the process runs.
_WAITING_THREAD, _WORKER_MODULE = "run_worker", "apache_beam.runners.worker.sdk_worker_main"


_END_SEC = 3.0


def end_children() -> None:
    """Ends what this process has started and what is still there, such as a runner's job server."""
    children = psutil.Process().children(recursive=True)
    for process in children:
        with suppress(psutil.Error):
            process.terminate()
    _, left = psutil.wait_procs(children, _END_SEC)
    for process in left:
        with suppress(psutil.Error):
            process.kill()


@contextmanager
def supervised() -> Iterator[None]:
    """Watch over a local run, from the main thread.

    A worker process that ends early, or a signal that asks for the end, ends the
    run and all its workers at once: Beam alone would wait for those left.
    Signals that were ignored before stay ignored, as for a job that a shell started in the background.

    Raises:
      RunError: A worker process ended early.
      KeyboardInterrupt: A signal came.
    """
    watch = _Watch()
    hook, threading.excepthook = threading.excepthook, watch.thread_failed
    try:
        with ending_signals_handled(watch.interrupt, if_ignored=watch.wake), _workers_without_interrupts():
            yield
    except BaseException as e:
        watch.end_workers()
        if watch.worker_error:
            raise RunError(
                f"A worker process ended early ({watch.worker_error}). If memory ran out, fewer "
                "--direct_num_workers or a smaller --batch_size need less."
            ) from e
        if watch.interrupted:
            raise KeyboardInterrupt from e
        raise
    finally:
        threading.excepthook = hook


@contextmanager
def _workers_without_interrupts() -> Iterator[None]:
    """Have Beam start worker processes that ignore SIGINT.

    A terminal sends Ctrl-C to them, too, and each would print a traceback. They end with this process.
    """
    make = SubprocessSDKEnvironment.from_command_string

    def make_ignoring(command_string: str, *args: Any, **options: Any) -> SubprocessSDKEnvironment:
        # Beam runs the command in a shell; what a shell ignores, Python ignores as well.
        return make(f"trap '' INT; exec {command_string}", *args, **options)

    SubprocessSDKEnvironment.from_command_string = make_ignoring  # type: ignore[method-assign]
    try:
        yield
    finally:
        SubprocessSDKEnvironment.from_command_string = make  # type: ignore[method-assign]


class _Watch:
    def __init__(self) -> None:
        self.interrupted = False
        self.worker_error = ""
        self._ending = False

    def interrupt(self, *_: Any) -> None:
        """Handles a signal."""
        self.interrupted = True
        self.end_workers()
        raise KeyboardInterrupt

    def wake(self, *_: Any) -> None:
        """Handle a signal that the user has ignored, which may be the one that `thread_failed` sends."""
        if self.worker_error:
            raise KeyboardInterrupt

    def thread_failed(self, args: Any) -> None:
        """Handles what a thread of the runner raised."""
        if args.thread and args.thread.name == _WAITING_THREAD and not self._ending:
            self.worker_error = str(args.exc_value)
            self.end_workers()
            os.kill(os.getpid(), signal.SIGINT)  # wakes the main thread up
        _LOG.info("a thread of the runner failed: %r", args.exc_value)

    def end_workers(self) -> None:
        """Kills what is left of the worker processes."""
        self._ending = True
        for process in psutil.Process().children(recursive=True):
            try:
                if _WORKER_MODULE in " ".join(process.cmdline()):
                    process.kill()
            except psutil.Error:
                continue
