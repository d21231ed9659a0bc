"""Loading on threads of this process."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import Future

from labelbeam.transforms.elements import AnyImage
from labelbeam.transforms.images.memory import tune_malloc
from labelbeam.transforms.loaders.crew import Loaders
from labelbeam.transforms.loaders.image import Loaded, Loader, Loading
from labelbeam.transforms.loaders.orders import Finished, Orders
from labelbeam.transforms.loaders.schedule import Order


class LoaderThreads(Loaders):
    """Threads in place of `LoaderPool`, where no process may be started.

    A decoder that crashes ends this process, and one that never returns keeps a thread.
    """

    def __init__(self, loading: Loading, decoders: int) -> None:
        """Start the threads.

        Args:
          loading: What becomes of every image.
          decoders: Number of images that are decoded at once.
        """
        tune_malloc()
        super().__init__(_Crew(loading, decoders))


class _Crew:
    def __init__(self, loading: Loading, decoders: int) -> None:
        self._loader = Loader(loading, decoders, threading.Lock())
        self._orders = Orders(loading, loading.limits.connections)
        self._changed = threading.Condition()
        self._idle = 0
        self._has_ended = False
        for n in range(loading.limits.connections):
            threading.Thread(target=self._run, name=f"load-{n}", daemon=True).start()

    def submit(self, image: AnyImage) -> Future[Loaded]:
        with self._changed:
            future = self._orders.add(image)
            self._changed.notify()
        return future

    def is_hungry(self) -> bool:
        with self._changed:
            return self._idle > 0 and not self._orders.has_ready()

    def watch(self, window: Finished) -> None:
        with self._changed:
            self._orders.watch(window)

    def taken(self) -> None:
        if self._orders.is_full:
            with self._changed:
                self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (order := self._next()) is not None:
            fetched = functools.partial(self._release, order) if order.is_bounded else None
            settle = functools.partial(self._settle, order)
            self._loader.load(order.image, settle, fetched=fetched)

    def _next(self) -> Order | None:
        with self._changed:
            while not self._has_ended:
                if orders := self._orders.take(1):
                    return orders[0]
                self._idle += 1
                self._changed.wait(None if self._orders.is_full else self._orders.wait_sec())
                self._idle -= 1
        return None

    def _release(self, order: Order) -> None:
        with self._changed:
            self._orders.release(order)
            self._changed.notify()

    def _settle(self, order: Order, loaded: Loaded | Exception) -> None:
        with self._changed:
            self._orders.settle(order, loaded)
            # One, because a request that has ended makes room for one.
            self._changed.notify()
