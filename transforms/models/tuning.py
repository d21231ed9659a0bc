"""The batch size at which a device labels most images per second, by trial."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.measurements import Measurement, cached_measurement

# Least gain in speed for a larger batch, because a larger batch takes more memory and waits longer.
_WORTHWHILE = 1.02
# Number of larger sizes without a gain after which the trial ends.
_PATIENCE = 2
# Time for each size, and least number of batches of each caller.
_TRIAL_SEC, _TRIAL_BATCHES = 0.5, 2


def best_batch_size(sizes: Iterable[int], rate_of: Callable[[int], float | None]) -> tuple[int, bool]:
    """Return the fastest of ascending sizes, and whether memory sufficed for all that were tried.

    `rate_of` returns images per second at a size; None if memory is short.
    """
    best, best_rate, worse = 1, 0.0, 0
    for size in sizes:
        rate = rate_of(size)
        if rate is None:
            return best, False
        if rate > best_rate * _WORTHWHILE:
            best, best_rate, worse = size, rate, 0
        else:
            worse += 1
        if worse == _PATIENCE:
            break
    return best, True


def tuned_batch_size(classifier: Classifier, callers: int, largest: int, conditions: dict[str, Any]) -> int:
    """Return the best batch size, tried once for a model on a kind of device and then cached.

    The result is not cached if memory was short, because other processes may use the memory at another time.

    Args:
      classifier: Model to try; its batch sizes change.
      callers: Number of batches that run at once.
      largest: Largest size to try.
      conditions: Everything else that the result depends on.
    """

    def try_sizes() -> tuple[Measurement, bool]:
        sizes = [1 << n for n in range(largest.bit_length())]
        best, memory_sufficed = best_batch_size(sizes, lambda size: _rate(classifier, size, callers))
        return {"batch_size": best}, memory_sufficed

    conditions = {**conditions, "callers": callers, "largest": largest}
    return cached_measurement("batch-sizes", conditions, try_sizes)["batch_size"]


def _rate(classifier: Classifier, size: int, callers: int) -> float | None:
    """Return images per second in full batches of a size; None if memory is short."""
    # Also a batch of 1, because memory that is short for the tried size must leave a size to fall back to.
    classifier.warm_up(sorted({1, size}))
    if classifier.largest < size:
        return None
    size_px = classifier.spec.resize.size_px
    images = [np.zeros((size_px, size_px, 3), np.uint8)] * size

    def run_batches(_caller: int) -> int:
        batches = 0
        while batches < _TRIAL_BATCHES or time.perf_counter() < deadline:
            classifier.classify(images)
            batches += 1
        return batches

    start = time.perf_counter()
    deadline = start + _TRIAL_SEC
    with ThreadPoolExecutor(callers) as pool:
        batches = sum(pool.map(run_batches, range(callers)))
    if classifier.largest < size:
        return None
    return batches * size / (time.perf_counter() - start)
