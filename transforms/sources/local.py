"""Images in files."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.sources.addresses import host_and_path
from labelbeam.transforms.sources.limits import Fetched, Limits, too_large


class LocalSource:
    """The source of paths and `file://`; the version is mtime and size."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def fetch(self, uri: str, known_version: str | None = None) -> Fetched | None:
        """Read one file."""
        path = _path_of(uri)
        # Absolute, because relative paths start at the worker's folder, which the user may not expect.
        name = os.path.abspath(path) if path == uri else uri
        try:
            # O_NONBLOCK, because opening a pipe would wait for a writer.
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as f:
                return self._read(f, os.fstat(fd), name, known_version)
        except FileNotFoundError as e:
            raise ImageError(Reason.NOT_FOUND, f"{name}: no such file") from e
        except PermissionError as e:
            raise ImageError(Reason.FORBIDDEN, f"{name}: {e.strerror}") from e
        except IsADirectoryError as e:
            raise ImageError(Reason.NOT_AN_IMAGE, f"{name} is a folder") from e
        except (OSError, ValueError) as e:
            if getattr(e, "errno", None) == errno.ENAMETOOLONG:
                message = f"{path[:100]!r}… has {len(os.fsencode(path)):,} bytes, more than a path may have"
                raise ImageError(Reason.BAD_URI, message) from e
            raise ImageError(Reason.UNREACHABLE, f"{name}: {getattr(e, 'strerror', None) or e}") from e

    def _read(
        self, f: BinaryIO, status: os.stat_result, name: str, known_version: str | None
    ) -> Fetched | None:
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(Reason.UNSUPPORTED, f"{name} is no ordinary file")
        if status.st_size > self._limits.max_bytes:
            raise too_large(self._limits, status.st_size)
        version = f"{status.st_mtime_ns}-{status.st_size}"
        if version == known_version:
            return None
        # Not max_bytes at once: that much memory would be mapped, faulted in and unmapped for each image.
        data = f.read(status.st_size + 1)
        if len(data) > status.st_size:  # it has grown meanwhile
            data += f.read(self._limits.max_bytes + 1 - len(data))
        if len(data) > self._limits.max_bytes:
            raise too_large(self._limits)
        return Fetched(data, version)


def _path_of(uri: str) -> str:
    if uri[:5].lower() != "file:":
        return uri
    host, path = host_and_path(uri)
    if host not in ("", "localhost") or not path.startswith("/"):
        raise ImageError(Reason.BAD_URI, f"{uri!r:.300} names the host {host!r}; write file:///path")
    # Through bytes, because a local name need not be UTF-8.
    name = unquote_to_bytes(path)
    if b"\0" in name:
        raise ImageError(Reason.BAD_URI, f"{uri!r:.300} has the character NUL")
    return os.fsdecode(name)
