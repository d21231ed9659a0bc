"""Values that all threads and bundles of a worker process share."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def once_per_process(make: Callable[..., T]) -> Callable[..., T]:
    """Memoise a factory by its arguments; concurrent callers wait for the first."""
    # With a lock, because `functools.cache` alone calls the factory in each thread that comes before the
    # first result: bundles start together, and each would make its own pool or stager.
    lock = threading.Lock()
    cached = functools.cache(make)

    @functools.wraps(make)
    def get(*args: Hashable) -> T:
        with lock:
            return cached(*args)

    return get


def available_cores() -> int:
    """Return the number of cores that this process may run on."""
    # Not `os.cpu_count` alone, because it counts cores of the machine that a container may not use.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@once_per_process
def compute_pool(threads: int) -> ThreadPoolExecutor:
    """Return the process's threads for computing: inference on a CPU, unpacking, and `DecodeImages`.

    One pool for all, because more threads than cores interrupt each other and evict each other's data from
    the caches: on two cores, two pools took up to 1.15 times as long.
    """
    return ThreadPoolExecutor(threads, "compute")
