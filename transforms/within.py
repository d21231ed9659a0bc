"""Calls that may never return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

_T = TypeVar("_T")


class NoAnswerError(Exception):
    """There was no answer in time."""


def within(seconds: float, call: Callable[[], _T]) -> _T:
    """Make a call that may never return, in a thread of its own; signals get through meanwhile.

    Args:
      seconds: Longest wait. A call that takes longer goes on, and its result is dropped.
      call: The call. Its errors are raised here.

    Raises:
      NoAnswerError: There was no answer in time.
    """
    future = start_call(call)
    if not wait([future], seconds).done:
        raise NoAnswerError(f"it did not answer within {seconds:g} s")
    return future.result()


def start_call(call: Callable[[], _T]) -> Future[_T]:
    """Start a call in a thread of its own, which does not keep the process alive."""
    future: Future[_T] = Future()

    def answer() -> None:
        try:
            future.set_result(call())
        except BaseException as e:
            future.set_exception(e)

    threading.Thread(target=answer, daemon=True).start()
    return future
