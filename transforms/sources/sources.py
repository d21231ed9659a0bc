"""All stores behind one door."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from labelbeam.transforms.sources.addresses import LOCAL, scheme_of
from labelbeam.transforms.sources.limits import Fetched, Limits


class Store(Protocol):
    """Fetches images of some schemes; safe to call from several threads."""

    def fetch(self, uri: str, known_version: str | None) -> Fetched | None:
        """Fetch one image, or raise an `ImageError`; None if it is still of the known version."""


def _local(limits: Limits) -> Store:
    from labelbeam.transforms.sources.local import LocalStore

    return LocalStore(limits)


def _http(limits: Limits) -> Store:
    from labelbeam.transforms.sources.http import HttpStore

    return HttpStore(limits)


def _gcs(limits: Limits) -> Store:
    from labelbeam.transforms.sources.gcs import GcsStore

    return GcsStore(limits)


_MAKERS: dict[str, Callable[[Limits], Store]] = {
    LOCAL: _local,
    "file": _local,
    "gs": _gcs,
    "http": _http,
    "https": _http,
}


class Stores:
    """Fetches any image; clients are made when they are first needed, one of each."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._stores: dict[Callable, Store] = {}

    def fetch(self, uri: str, known_version: str | None = None) -> Fetched | None:
        """Fetch one image.

        Args:
          uri: Where it is.
          known_version: The version that need not be fetched again.

        Returns:
          The image; None if it is still of the known version.

        Raises:
          ImageError: It cannot be had, for a reason of the closed set.
        """
        return self._store_for(scheme_of(uri, _MAKERS)).fetch(uri, known_version)

    def _store_for(self, scheme: str) -> Store:
        make = _MAKERS[scheme]
        with self._lock:
            if make not in self._stores:
                self._stores[make] = make(self._limits)
            return self._stores[make]
