"""The start of a process's loaders, of either kind."""

from __future__ import annotations

from labelbeam.transforms.loaders.crew import Loaders
from labelbeam.transforms.loaders.image import Loading
from labelbeam.transforms.loaders.pool import LoaderPool
from labelbeam.transforms.loaders.threads import LoaderThreads
from labelbeam.transforms.process import available_cores


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
