"""Loaders of either kind, as bundles see them; they end with the object that bundles share."""

from __future__ import annotations

import weakref
from concurrent.futures import Future
from typing import Protocol

from labelbeam.transforms.elements import AnyImage
from labelbeam.transforms.loaders.image import Loaded
from labelbeam.transforms.loaders.orders import Finished


class Crew(Protocol):
    """Threads or processes that load images, and go on until they are stopped."""

    def submit(self, image: AnyImage) -> Future[Loaded]:
        """Load an image. Its future raises an error only for a defect."""

    def is_hungry(self) -> bool:
        """Return whether a loader is idle because all images wait for their hosts."""

    def watch(self, window: Finished) -> None:
        """Start no request while this window and others hold too many finished images."""

    def taken(self) -> None:
        """Take note that a finished image was taken from a window."""

    def stop(self) -> None:
        """End the threads and processes."""


class Loaders:
    """Loaders that all bundles of a worker process share. They end with this object.

    Attributes:
      submit, is_hungry, watch, taken: Methods of `Crew`.
    """

    def __init__(self, crew: Crew) -> None:
        """Take over a crew."""
        self.submit, self.is_hungry = crew.submit, crew.is_hungry
        self.watch, self.taken = crew.watch, crew.taken
        # The crew's threads keep the crew alive, and must not keep this object alive.
        weakref.finalize(self, crew.stop)
