"""The sources of images, by scheme."""

from __future__ import annotations

import importlib
import threading
from typing import Final, Protocol

from labelbeam.transforms.sources.addresses import GCS, LOCAL, scheme_of
from labelbeam.transforms.sources.limits import Fetched, Limits


class ImageSource(Protocol):
    """A client that fetches images of some schemes; safe to call from several threads.

    It enforces the limits itself. An error other than `ImageError` ends the run.
    """

    def __init__(self, limits: Limits) -> None: ...

    def fetch(self, uri: str, known_version: str | None) -> Fetched | None:
        """Fetch one image, as `Sources.fetch` does."""


# Module and class of the source of each scheme. Modules are imported when an image needs them, because
# clients take up to a second to import, and most corpora need one.
SCHEMES: Final = {
    LOCAL: "local.LocalSource",
    "file": "local.LocalSource",
    GCS: "gcs_images.GcsSource",
    "http": "http.HttpSource",
    "https": "http.HttpSource",
}


class Sources:
    """All sources, each made when an image first needs it, because some look for credentials."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._sources: dict[str, ImageSource] = {}

    def fetch(self, uri: str, known_version: str | None = None) -> Fetched | None:
        """Fetch one image.

        Args:
          uri: Address of the image.
          known_version: Version that need not be fetched again.

        Returns:
          The image; None if its version is `known_version`.

        Raises:
          ImageError: The image cannot be fetched, for a reason of the closed set.
        """
        return self._source_of(scheme_of(uri, SCHEMES)).fetch(uri, known_version)

    def _source_of(self, scheme: str) -> ImageSource:
        name = SCHEMES[scheme]
        # Under a lock, because threads that come at once must share one client and its connections.
        with self._lock:
            if name not in self._sources:
                module, _, class_name = name.partition(".")
                source_class = getattr(importlib.import_module(f"{__package__}.{module}"), class_name)
                self._sources[name] = source_class(self._limits)
            return self._sources[name]
