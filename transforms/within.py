"""Calls that may never return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

_T = TypeVar("_T")


class NoResponseError(Exception):
    """A call that did not return in time."""


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """Make a call that may never return, and return its result or raise its error.

    Raises:
      NoResponseError: The call did not return in time. It goes on in its thread, and its result is dropped.
    """
    # In a thread of its own, because a thread inside C code can't be stopped, and because the main thread
    # must stay free for signals.
    future = start_call(call)
    if not wait([future], seconds).done:
        raise NoResponseError(f"it did not respond within {seconds:g} s")
    return future.result()


def start_call(call: Callable[[], _T]) -> Future[_T]:
    """Start a call in a daemon thread, which does not keep the process alive."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as e:
            # Also SystemExit, because a caller would otherwise wait for a future that never finishes.
            future.set_exception(e)

    threading.Thread(target=run, daemon=True).start()
    return future
