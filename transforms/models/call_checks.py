"""Checks of a model's calls: a row for each image, whatever the rest of the batch is, and in time."""

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

    The spread is the standard deviation, or a tenth of the largest output where the outputs are nearly
    equal. One output alone has no deviation: its spread is at least half a logit or half of [0, 1], because
    rounding in bfloat16 is a large share of a small output. Outputs that are not finite are not compared.
    """
    if not (np.isfinite(outputs).all() and np.isfinite(others).all()):
        return 0.0
    floor = 0.5 if outputs.size == 1 else 1e-12
    spread = max(float(outputs.std()), 0.1 * float(np.abs(outputs).max()), floor)
    return float(np.sqrt(np.mean((outputs - others) ** 2))) / spread


def wrong_rows(handle: str, shape: tuple[int, ...], images: int) -> str:
    """Return the message for outputs that are not one row per image."""
    return (
        f"Model {handle!r} returns {list(shape)} for {images} images; it must return a row for each. "
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
        """Note that this thread is inside a call of the model."""
        thread = threading.get_ident()
        self._starts[thread] = time.perf_counter()
        try:
            yield
        finally:
            del self._starts[thread]

    def longest_sec(self) -> float:
        """Return the time since the oldest of these calls began; 0 if there is none."""
        starts = self._starts.copy().values()
        return time.perf_counter() - min(starts) if starts else 0.0


# One for the process, because a thread that is inside a call which never returns can't be stopped.
model_calls = CallClock()
# Time between two looks at the clock.
_LOOK_SEC = 0.5


def run_in_time(handle: str, timeout_sec: float, task: Callable[[], T]) -> T:
    """Run a task that calls a model, and give it up once a call takes too long.

    The whole task runs in one other thread, not each call, because threads have heaps of their own in
    glibc: with the load in one and the first call in another, B7 took 1.5 GB more.

    Raises:
      RunError: A call did not return in time.
    """
    future = start_call(task)
    while not wait([future], min(_LOOK_SEC, timeout_sec)).done:
        if model_calls.longest_sec() > timeout_sec:
            raise never_returns(handle, timeout_sec)
    return future.result()


def never_returns(handle: str, timeout_sec: float) -> RunError:
    """Return the error for a model whose call took too long."""
    return RunError(
        f"Model {handle!r} did not return within predict_timeout_sec={timeout_sec:g}. "
        "Check the model, or raise the limit."
    )
