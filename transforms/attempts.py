"""Attempts: tasks on one image, whose errors become rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from labelbeam.transforms.elements import Failure, ImageRef, host_of_uri
from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.sources.secrets import hide_in_message

T = TypeVar("T")


class Timed(NamedTuple, Generic[T]):
    """The result of a task, and the time that the task took."""

    value: T
    usec: int


def usec_since(start: float) -> int:
    """Return the microseconds since a reading of `time.perf_counter`."""
    return round(1e6 * (time.perf_counter() - start))


def failure_of(ref: ImageRef, step: str, error: ImageError) -> Failure:
    """Return the row of `failures/` for an image."""
    # Hidden here, because all failures are made here, and clients and servers quote addresses in any form.
    message = hide_in_message(str(error), ref.address, ref.uri)
    return Failure(ref, step, error.reason.value, message, 1, host_of_uri(ref.uri))


def attempt(step: str, ref: ImageRef, task: Callable[[], T]) -> Timed[T | Failure]:
    """Run a task; an `ImageError` becomes a `Failure`, any other error is raised."""
    start = time.perf_counter()
    # No other error is caught, because it is a defect: as a row of `failures/` it would pass unnoticed.
    try:
        value: T | Failure = task()
    except ImageError as e:
        value = failure_of(ref, step, e)
    return Timed(value, usec_since(start))
