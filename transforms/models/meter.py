"""What a process's model did, counted by all its threads."""

from __future__ import annotations

import threading
from collections import Counter

# Images that the model ran on, the places in its batches, padding included, and those there would be
# if each of them were a full one.
IMAGES_RUN, PLACES_RUN, FULL_PLACES = "images_run", "places_run", "full_places"
# Batches that memory did not suffice for.
OOM_SPLITS = "oom_splits"
# Microseconds in which the model ran, of each batch that may run at once, and in which it could have.
BUSY_USEC, OPEN_USEC = "busy_usec", "open_usec"
# Microseconds in which images were on their way through the process, and these times its cores.
WALL_USEC, CORE_USEC = "wall_usec", "core_usec"
# Devices whose model was loaded, and of these: a GPU; its variables stayed; it is not as fast as was asked.
LOADED, ON_GPU = "models_loaded", "models_on_gpu"
NOT_FROZEN, NOT_OPTIMISED = "models_not_frozen", "models_not_optimised"
# Sums over these: places in a full batch; photos that it was compared with the plain model on, and that kept
# their best class.
BATCH_SIZE, COMPARED, AGREED = "models_batch_size", "photos_compared", "photos_agreed"
COUNTS = (
    *(IMAGES_RUN, PLACES_RUN, FULL_PLACES, OOM_SPLITS, BUSY_USEC, OPEN_USEC, WALL_USEC, CORE_USEC),
    *(LOADED, ON_GPU, NOT_FROZEN, NOT_OPTIMISED, BATCH_SIZE, COMPARED, AGREED),
)


class Meter:
    """Counts that many threads add to, and that one takes away at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, **counts: int) -> None:
        """Adds to counts by name."""
        with self._lock:
            self._counts.update(counts)

    def take(self) -> Counter[str]:
        """Gives what was counted since it was last asked."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return taken
