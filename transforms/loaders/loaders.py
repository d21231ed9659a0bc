"""The loaders of a process, whichever kind they are of."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.loaders.image import Loaded, Loading
from labelbeam.transforms.loaders.orders import Finished
from labelbeam.transforms.loaders.pool import LoaderPool
from labelbeam.transforms.loaders.threads import LoaderThreads
from labelbeam.transforms.process import available_cores


class Loaders(Protocol):
    """Whatever loads images beside the caller's thread."""

    def submit(self, ref: ImageRef) -> Future[Loaded]:
        """Load an image. Its future raises an error only for a defect."""

    def is_hungry(self) -> bool:
        """Return whether a loader is idle because all images wait for their hosts."""

    def watch(self, window: Finished) -> None:
        """Start no request while this window and others hold too many finished images."""

    def taken(self) -> None:
        """Take note that a finished image was taken from a window."""


def start_loaders(
    loading: Loading,
    processes: int | None = None,
    cores: int | None = None,
) -> Loaders:
    """Start the loaders of a process.

    Args:
      loading: What becomes of every image.
      processes: Number of loader processes; by default one per core. 0 loads on threads of this process.
      cores: Number of cores to use; by default all.
    """
    cores = cores or available_cores()
    if processes == 0:
        return LoaderThreads(loading, cores)
    # One per core beside a GPU, too, because the process with the model needs a small part of a core: with a
    # core to itself on two cores, the model waited 22 % of the time for images, and 8 % without.
    return LoaderPool(loading, processes or cores)
