"""Counts of a process's model, added up by all its threads."""

from __future__ import annotations

import threading
from collections import Counter

# images_run: images that the model ran on. slots_run: slots of the batches they were in, padding included.
# full_slots: slots of as many full batches. images / full_slots is the fill of the batches.
IMAGES_RUN, SLOTS_RUN, FULL_SLOTS = "images_run", "slots_run", "full_slots"
# Batches that were halved because memory was short.
OOM_SPLITS = "oom_splits"
# busy_usec: time inside model calls, summed over concurrent calls. open_usec: time with work available, times
# the calls allowed at once. busy / open is the model's utilisation.
BUSY_USEC, OPEN_USEC = "busy_usec", "open_usec"
# wall_usec: time with work available. core_usec: this time multiplied by the cores of the process.
WALL_USEC, CORE_USEC = "wall_usec", "core_usec"
# Devices with a model, and how many of these are GPUs, run an unfrozen graph, or run the plain model although
# precision or xla is set.
LOADED, ON_GPU = "models_loaded", "models_on_gpu"
NOT_FROZEN, NOT_OPTIMISED = "models_not_frozen", "models_not_optimised"
# Sums over devices: slots in a full batch; sample photos that were compared with the plain model; photos of
# these that keep their best class.
BATCH_SIZE, COMPARED, AGREED = "models_batch_size", "photos_compared", "photos_agreed"
COUNTS = (
    *(IMAGES_RUN, SLOTS_RUN, FULL_SLOTS, OOM_SPLITS, BUSY_USEC, OPEN_USEC, WALL_USEC, CORE_USEC),
    *(LOADED, ON_GPU, NOT_FROZEN, NOT_OPTIMISED, BATCH_SIZE, COMPARED, AGREED),
)


class Meter:
    """Counts that many threads add to, and one thread at a time takes.

    Taken counts are reported to Beam by the bundle that takes them. They are reset in the same step, because
    several bundles of a process share one meter, and each count must be reported exactly once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, **counts: int) -> None:
        """Add to counts by name."""
        with self._lock:
            self._counts.update(counts)

    def take(self) -> Counter[str]:
        """Return the counts since the last call, and reset them."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return taken
