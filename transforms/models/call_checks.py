"""Checks of a model's calls: one row per image, the same row in every batch, and an end in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.within import start_call

T = TypeVar("T")

# Largest change of an image's outputs between two batches, in units of their spread. Another batch size
# changes logits by rounding alone: by up to 4e-6 in float32, and by some hundredths in float16 and bfloat16.
# Batch normalisation that was exported for training changes them by about 1.
MAX_CHANGE = 0.1


def change_of(outputs: np.ndarray, others: np.ndarray) -> float:
    """Return the change between two outputs, `[length] float32`: root mean square, in units of their spread.

    The spread is the standard deviation, or a tenth of the largest output if the outputs are nearly equal. A
    single output has no deviation: its spread is at least 0.5, because rounding in bfloat16 is a large share
    of a small output. The change is 0 if an output is not finite.
    """
    if not (np.isfinite(outputs).all() and np.isfinite(others).all()):
        return 0.0
    floor = 0.5 if outputs.size == 1 else 1e-12
    spread = max(float(outputs.std()), 0.1 * float(np.abs(outputs).max()), floor)
    return float(np.sqrt(np.mean((outputs - others) ** 2))) / spread


def wrong_rows(handle: str, shape: tuple[int, ...], images: int) -> str:
    """Return the message for outputs that are not one row per image."""
    return (
        f"Model {handle!r} returns {list(shape)} for {images} images; it must return one row per image. "
        "Export it with a batch dimension of None, or choose an output [N, classes] with --output_name."
    )


def depends_on_neighbours(handle: str) -> str:
    """Return the message for a model whose outputs for an image depend on the rest of its batch."""
    return (
        f"Model {handle!r} returns other outputs for the same image in another batch, as batch "
        "normalisation and dropout do in training. Export it for inference (training=False)."
    )


class CallClock:
    """Start times of model calls that have not returned."""

    def __init__(self) -> None:
        self._starts: dict[int, float] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record that this thread is inside a call of the model."""
        thread = threading.get_ident()
        self._starts[thread] = time.perf_counter()
        try:
            yield
        finally:
            del self._starts[thread]

    def longest_sec(self) -> float:
        """Return the time since the start of the oldest call, s; 0 if there is none."""
        # A copy, because other threads add and remove calls meanwhile.
        starts = self._starts.copy().values()
        return time.perf_counter() - min(starts) if starts else 0.0


# One for the process, because a call that never returns holds its thread and must be seen from any other one.
model_calls = CallClock()
# Time between two checks of the clock.
_CHECK_SEC = 0.5


def run_in_time(handle: str, timeout_sec: float, task: Callable[[], T]) -> T:
    """Run a task that loads and calls a model, and abandon it when one call takes too long.

    The whole task runs in one other thread, not each call, because each thread has its own heap in glibc,
    and freed memory of one heap doesn't serve another: with the load in one thread and the first call in
    another, EfficientNet-B7 took 1.5 GB more.

    Raises:
      RunError: A call did not return in time.
    """
    future = start_call(task)
    while not wait([future], min(_CHECK_SEC, timeout_sec)).done:
        if model_calls.longest_sec() > timeout_sec:
            raise never_returns(handle, timeout_sec)
    return future.result()


def never_returns(handle: str, timeout_sec: float) -> RunError:
    """Return the error for a model whose call took too long."""
    return RunError(
        f"Model {handle!r} did not return within predict_timeout_sec={timeout_sec:g}. "
        "Check the model, or raise the limit."
    )
