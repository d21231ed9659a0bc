"""Loading on threads of this process."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.images.memory import tune_malloc
from labelbeam.transforms.loaders.image import Loaded, Loader, Loading


class LoaderThreads:
    """Threads in place of `LoaderPool`, where no process may be started.

    A decoder that crashes ends this process, and one that never returns keeps a thread.
    """

    def __init__(self, loading: Loading, decoders: int) -> None:
        """Start no thread yet.

        Args:
          loading: What becomes of every image.
          decoders: Number of images that are decoded at once.
        """
        tune_malloc()
        self._loader = Loader(loading, decoders, threading.Lock())
        self._pool = ThreadPoolExecutor(loading.limits.connections, "load")

    def submit(self, ref: ImageRef) -> Future[Loaded]:
        """Load an image. Its future raises an error only for a defect."""
        future: Future[Loaded] = Future()
        # Running from now on, because a future that somebody cancels takes no outcome.
        future.set_running_or_notify_cancel()
        self._pool.submit(self._loader.load, ref, functools.partial(_settle, future))
        return future


def _settle(future: Future[Loaded], loaded: Loaded | Exception) -> None:
    if isinstance(loaded, Exception):
        future.set_exception(loaded)
    else:
        future.set_result(loaded)
