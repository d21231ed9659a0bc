"""The one door to files, local and in buckets.

Only this module imports Beam's filesystems. Files are written whole: a reader sees all of a file or none.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem
from apache_beam.io.filesystems import FileSystems
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError

from labelbeam.transforms.errors import FULL_DISK, LabelbeamError, RunError, describe_error
from labelbeam.transforms.sources.addresses import is_gcs, split_gcs
from labelbeam.transforms.sources.gcs import CHECK_NETWORK, check_network, is_unreachable
from labelbeam.transforms.sources.gcs_listing import BucketLister

# Errors that filesystems and their clients raise for a path that can't be read or written; ValueError is for
# an invalid name. HTTP errors of `requests` are OSErrors.
_FILE_ERRORS = (BeamIOError, OSError, ValueError, GoogleAPIError, GoogleAuthError)

# Names of files that `write_file` and the check of an output folder make; others are the user's own.
_TEMPORARY = re.compile(r"\.json\.[0-9a-f]{8}\.tmp$|/_probe-\d{8}T\d{6}-[0-9a-f]{8}(\.[0-9a-f]{8}\.tmp)?$")


@contextmanager
def file_errors_as(error_type: type[LabelbeamError], fault: str, remedy: str) -> Iterator[None]:
    """Map errors of any filesystem to an error of the project.

    Args:
      error_type: Type of the error.
      fault: First part of the message, which names the path.
      remedy: Last sentence of the message, unless a server does not respond.
    """
    try:
        yield
    except _FILE_ERRORS as e:
        remedy = CHECK_NETWORK if is_unreachable(e) else remedy
        raise error_type(f"{fault}: {describe_error(e)}. {remedy}") from e


def _filesystems(path: str) -> type[FileSystems]:
    """Return Beam's filesystems, for a path in a bucket only if Cloud Storage responds.

    Raises:
      ValueError: The path is neither local nor in Cloud Storage.
    """
    # Checked first, because Beam's client tries for 120 s, without a word, where there is no network.
    if is_gcs(path):
        check_network()
    elif not is_local(path):
        # Here, because Beam's clients for other stores fail in their own ways where packages are missing.
        raise ValueError(f"{remote_scheme(path)}:// is neither read nor written; use a local path or gs://")
    return FileSystems


def remote_scheme(path: str) -> str | None:
    """Return the scheme of a path, such as `gs`; None for a local path."""
    return FileSystems.get_scheme(path)


def is_local(path: str) -> bool:
    """Return whether a path is on this machine's disks."""
    return remote_scheme(path) is None


def join_path(folder: str, *parts: str) -> str:
    """Return a path below a folder."""
    return FileSystems.join(folder, *parts)


def exists(path: str) -> bool:
    """Return whether there is a file of this name, or a local folder."""
    return _filesystems(path).exists(path)


def is_folder(path: str) -> bool:
    """Return whether a path is a folder. In a bucket, a folder is a prefix of objects' names."""
    if is_local(path):
        return os.path.isdir(path)
    bucket, name = split_gcs(path)
    if name and not name.endswith("/") and exists(path):
        return False
    # Not by Beam, which would list a whole bucket for a name with wildcards.
    return BucketLister(bucket).has_any(f"{name.rstrip('/')}/" if name else "")


def match_glob(pattern: str) -> list[FileMetadata]:
    """List the files that a glob matches, as Beam reads globs."""
    (match,) = _filesystems(pattern).match([pattern])
    return match.metadata_list


def translate_glob(pattern: str) -> str:
    """Return a glob as a regular expression."""
    return FileSystem.translate_pattern(pattern)


def file_metadata(path: str) -> FileMetadata:
    """Return the size and the time of a file."""
    return _filesystems(path).get_filesystem(path).metadata(path)


def escape_glob(path: str) -> str:
    """Return a glob that matches a path with special characters literally."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


def write_file(path: str, data: Any) -> None:
    """Write a whole file in place of the one of its name."""
    # Under another name first, because a power cut or a process that is killed must not leave half a file
    # under this name. A bucket shows an object only when its upload is complete.
    written = f"{path}.{secrets.token_hex(4)}.tmp" if is_local(path) else path
    sink = FileSink(written)
    sink.write(data)
    sink.close()
    if written != path:
        os.replace(written, path)


def open_file(path: str) -> Any:
    """Open a file for reading."""
    # Uncompressed, because Beam would decompress by the name, and drop what follows damage without an error.
    return _filesystems(path).open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def read_file(path: str) -> bytes:
    """Read a whole file."""
    with open_file(path) as f:
        return f.read()


class FileDigest(NamedTuple):
    """Length and SHA-256 of a file's bytes."""

    size_bytes: int
    sha256: str


def digest_file(path: str) -> FileDigest:
    """Return the digest of a whole file, which is read some bytes at a time."""
    with open_file(path) as f:
        digest = hashlib.file_digest(f, "sha256")
        return FileDigest(f.tell(), digest.hexdigest())


# Remedy for a damaged file of a table.
MEND = (
    "Put a whole copy in its place (labelbeam verify names all files that are damaged), or label into "
    "another --output."
)


@contextmanager
def open_parquet(path: str, remedy: str = MEND, buffer_bytes: int = 0) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file.

    Args:
      path: The file.
      remedy: Last sentence of the message about a damaged file.
      buffer_bytes: Bytes of a column that are read at once; 0 for all of a row group.

    Raises:
      RunError: The file is gone, or Arrow can't read it, here or while the body reads on.
    """
    try:
        with open_file(path) as f:
            # Arrow would ignore the buffer and read all of a row group ahead unless `pre_buffer` is off.
            options = {"buffer_size": buffer_bytes, "pre_buffer": not buffer_bytes}
            yield pq.ParquetFile(f, page_checksum_verification=True, **options)
    except (pa.ArrowException, OSError) as e:
        # Arrow raises OSError for damaged bytes, too, but without a number. A disk's errors have one.
        if getattr(e, "errno", None) not in (None, errno.ENOENT, errno.EISDIR):
            raise
        raise RunError(f"{path} is damaged: {describe_error(e)}. {remedy}") from e


def list_files(folder: str) -> list[FileMetadata]:
    """List the files in and below a folder, by path; none if there is no such folder."""
    if is_local(folder):  # not by Beam, which lists nothing for a relative path with brackets
        return sorted(_walk(folder), key=lambda file: file.path)
    return sorted(match_glob(f"{escape_glob(folder)}/**"), key=lambda file: file.path)


def _walk(folder: str) -> Iterator[FileMetadata]:
    for path in (os.path.join(at, name) for at, _, names in os.walk(folder) for name in names):
        with suppress(FileNotFoundError):  # deleted meanwhile, or a broken link
            status = os.stat(path)
            yield FileMetadata(path, status.st_size, status.st_mtime)


def move_files(sources: Sequence[str], targets: Sequence[str]) -> None:
    """Move files within a filesystem."""
    # Not those that are moved already, because the step that moves files is tried again when it fails.
    pairs = [
        (source, target)
        for source, target in zip(sources, targets, strict=True)
        if exists(source) or not exists(target)
    ]
    for folder in {os.path.dirname(target) for _, target in pairs}:
        make_folder(folder)
    if pairs:
        FileSystems.rename(*map(list, zip(*pairs, strict=True)))


def make_folder(path: str) -> None:
    """Make a folder unless there is one; in a bucket there is nothing to make."""
    if is_local(path):
        # "." for the folder of a bare name, which is empty.
        os.makedirs(path or ".", exist_ok=True)


def delete_files(paths: Sequence[str]) -> None:
    """Delete files."""
    for path in filter(is_local, paths):  # not by Beam, which finds no relative path with brackets
        os.remove(path)
    if others := [escape_glob(path) for path in paths if not is_local(path)]:
        FileSystems.delete(others)


def delete_temporary(folder: str) -> None:
    """Delete temporary files that killed processes left in a folder."""
    patterns = [f"{escape_glob(folder)}/{name}" for name in ("*.json.*.tmp", "_probe-*")]
    files = itertools.chain.from_iterable(map(match_glob, patterns))
    delete_files([file.path for file in files if _TEMPORARY.search(file.path)])


def delete_folder(path: str) -> None:
    """Delete a folder and its content, if there is one."""
    if not is_local(path):
        FileSystems.delete([f"{path}/"])
    elif os.path.isdir(path):
        shutil.rmtree(path)


class FileSink:
    """A new file that is written piece by piece, and digested on the way.

    Before `close` the file may be missing or incomplete.

    Attributes:
      path: Path of the file.
      size_bytes: Number of written bytes.

    Raises:
      RunError: The disk is full, here or in a method.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size_bytes = 0
        self._digest = hashlib.sha256()
        with self._full_disk_explained():
            self._file = self._create()

    def _create(self) -> Any:
        if is_local(self.path):
            make_folder(os.path.dirname(os.path.abspath(self.path)))
            return open(self.path, "wb")
        return _filesystems(self.path).create(self.path, compression_type=CompressionTypes.UNCOMPRESSED)

    @property
    def closed(self) -> bool:
        """Whether the file is complete."""
        return self._file.closed

    @property
    def sha256(self) -> str:
        """Digest of the written bytes, hexadecimal."""
        return self._digest.hexdigest()

    def write(self, data: Any) -> int:
        """Write a piece."""
        with self._full_disk_explained():
            self._file.write(data)
        self._digest.update(data)
        self.size_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing, because `close` flushes the file."""

    def close(self) -> None:
        """Complete the file."""
        with self._full_disk_explained():
            if is_local(self.path) and not self._file.closed:
                self._file.flush()
                # Synced, because a manifest that lists the file must not outlive it in a power cut.
                os.fsync(self._file.fileno())
            self._file.close()

    @contextmanager
    def _full_disk_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            if e.errno not in FULL_DISK:
                raise
            # Deleted, because the rest of the run may need the little space that it takes.
            with suppress(OSError):
                os.remove(self.path)
            raise RunError(
                f"{self.path} cannot be written: {os.strerror(e.errno).lower()}. Free space there, or move "
                "the output to a larger disk."
            ) from e
