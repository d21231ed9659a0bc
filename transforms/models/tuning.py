"""The batch size by trial: what this device does best with this model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.remember import Answer, remembered

# A larger batch must be this much faster to be worth its memory and its latency.
_WORTHWHILE = 1.02
# Sizes that are tried beyond the best one.
_PATIENCE = 2
# How long each size is tried, and at least how many batches by each caller.
_TRIAL_SEC, _TRIAL_BATCHES = 0.5, 2


def best_batch_size(sizes: Iterable[int], rate_of: Callable[[int], float | None]) -> tuple[int, bool]:
    """The size whose rate is highest, trying no more of them than it takes.

    Args:
      sizes: Ascending.
      rate_of: Images per second at a size; None where memory does not suffice.

    Returns:
      The size, and whether memory sufficed for all that were tried.
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


def tuned_batch_size(classifier: Classifier, callers: int, largest: int, facts: dict[str, Any]) -> int:
    """The best batch size, found by trial once for a model on a kind of device, and remembered.

    It is not remembered where memory ended: others may use it at another time.

    Args:
      classifier: What is tried; its sizes are other ones afterwards.
      callers: Batches run at once.
      largest: No larger one is tried.
      facts: What the answer depends on beside the batches run at once.
    """

    def find_out() -> tuple[Answer, bool]:
        sizes = [1 << n for n in range(largest.bit_length())]
        best, memory_sufficed = best_batch_size(sizes, lambda size: _rate(classifier, size, callers))
        return {"batch_size": best}, memory_sufficed

    facts = {**facts, "callers": callers, "largest": largest}
    return remembered("batch-sizes", facts, find_out)["batch_size"]


def _rate(classifier: Classifier, size: int, callers: int) -> float | None:
    """Images per second in full batches of a size; None where memory does not suffice."""
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
