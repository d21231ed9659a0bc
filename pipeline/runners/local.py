"""Processes that a run starts on this machine: early ends are noticed, and none outlives the command."""

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

# Names that Beam's local runner gives to the thread that waits for a worker process, and to its module.
_WAITING_THREAD, _WORKER_MODULE = "run_worker", "apache_beam.runners.worker.sdk_worker_main"
# Time for children to end by themselves before they are killed.
_END_SEC = 3.0


def end_children() -> None:
    """End all child processes that are left, such as a runner's job server."""
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

    A worker process that ends early, or a signal, ends the run and all its workers
    at once, because Beam alone would wait for the other workers.
    Signals that were ignored before stay ignored, as for a job that a shell started in the background.

    Raises:
      RunError: A worker process ended early.
      KeyboardInterrupt: A signal came.
    """
    watch = _Watch()
    # The hook is the only sign of a worker that died, because Beam waits for its process in a thread and
    # drops what this thread raises.
    hook, threading.excepthook = threading.excepthook, watch.thread_failed
    try:
        with ending_signals_handled(watch.interrupt, if_ignored=watch.wake), _workers_without_interrupts():
            yield
    except BaseException as e:
        # First of all, because workers that live on would hold files and memory while errors are reported.
        watch.end_workers()
        if watch.worker_error:
            raise RunError(
                f"A worker process ended early ({watch.worker_error}). If memory ran out, set fewer "
                "--direct_num_workers or a smaller --batch_size."
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
        # By a trap, because Beam runs the command in a shell, and Python inherits signals that it ignores.
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
        """End the workers at a signal."""
        self.interrupted = True
        self.end_workers()
        raise KeyboardInterrupt

    def wake(self, *_: Any) -> None:
        """Handle a signal that the user has ignored, which may be the one that `thread_failed` sends."""
        if self.worker_error:
            raise KeyboardInterrupt

    def thread_failed(self, args: Any) -> None:
        """Handle an exception in a thread of the runner."""
        if args.thread and args.thread.name == _WAITING_THREAD and not self._ending:
            self.worker_error = str(args.exc_value)
            self.end_workers()
            # A signal, because the main thread waits inside Beam and nothing else wakes it.
            os.kill(os.getpid(), signal.SIGINT)
        _LOG.info("A thread of the runner failed: %r", args.exc_value)

    def end_workers(self) -> None:
        """Kill the worker processes that are left."""
        # Set first, because each killed worker makes its waiting thread fail, which is no error then.
        self._ending = True
        for process in psutil.Process().children(recursive=True):
            try:
                if _WORKER_MODULE in " ".join(process.cmdline()):
                    process.kill()
            except psutil.Error:
                continue
