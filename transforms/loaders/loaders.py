"""The loaders of a process, whichever kind they are of."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.loaders.image import Loaded, Loading
from labelbeam.transforms.loaders.pool import LoaderPool
from labelbeam.transforms.loaders.threads import LoaderThreads
from labelbeam.transforms.process import available_cores, has_nvidia_driver

# Longest time of an image, where nothing else is set.
IMAGE_TIMEOUT_SEC = 60.0


class Loaders(Protocol):
    """Whatever loads images beside the caller's thread."""

    def submit(self, ref: ImageRef) -> Future[Loaded]:
        """Load an image. Its future raises an error only for a defect."""


def start_loaders(
    loading: Loading,
    processes: int | None = None,
    cores: int | None = None,
    image_timeout_sec: float = IMAGE_TIMEOUT_SEC,
) -> Loaders:
    """Start the loaders of a process.

    Args:
      loading: What becomes of every image.
      processes: Number of loader processes; by default one per core, and one less beside a GPU. 0 loads on
        threads of this process.
      cores: Number of cores to use; by default all.
      image_timeout_sec: Longest time of an image, fetched and decoded.
    """
    cores = cores or available_cores()
    if processes is None:
        # One core is left to the process with the model beside a GPU, because batches must be made up as fast
        # as the GPU takes them. On a CPU the model takes turns with the loaders on every core.
        processes = max(1, cores - has_nvidia_driver())
    if processes == 0:
        return LoaderThreads(loading, cores)
    return LoaderPool(loading, processes, image_timeout_sec)
