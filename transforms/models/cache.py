"""Model cache: a model on this machine for a handle.

A model from elsewhere is kept in a folder named by its digest. An index maps each handle to such a folder,
because several handles may have the same content.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import tarfile
import tempfile
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout
from google.api_core.exceptions import GoogleAPICallError

from labelbeam.transforms.errors import FULL_DISK, UserError, describe_error
from labelbeam.transforms.models.efficientnet_lite import ensure_lite0_saved_model
from labelbeam.transforms.models.folders import cache_folder
from labelbeam.transforms.models.kinds import FILE_SUFFIXES, check_model, digest_model, find_kind, kind_of
from labelbeam.transforms.models.refusals import refuse_other_formats
from labelbeam.transforms.models.runtime import file_errors_of_tensorflow
from labelbeam.transforms.sources.addresses import GCS, split_gcs
from labelbeam.transforms.sources.secrets import public_uri

_LOG = logging.getLogger(__name__)

EMBEDDED = "embedded:efficientnet-lite0"
_REMOTE = (GCS, "http", "https")
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")

# Longest wait for the lock: a model of 10 GB at 10 MB/s takes half of it.
_LONGEST_WAIT_SEC = 1800

_FULL = "Free space there, or set LABELBEAM_CACHE_DIR to another folder"

# Fetches a model into an empty folder and returns its path there.
Fetch = Callable[[Path], Path]


def resolve_model(handle: str) -> Path:
    """Fetch a model to this machine.

    Args:
      handle: A SavedModel folder, a `.keras` file or a `.tar.gz` of either: local, `file://`, `gs://`
        or, as an archive, `https://`; an address on TF Hub or Kaggle; or `embedded:efficientnet-lite0`.

    Returns:
      A local SavedModel folder, or a `.keras` file.

    Raises:
      UserError: There is no such model, it can't be fetched, or it is damaged.
    """
    try:
        return _resolve(handle)
    except OSError as e:
        remedy = _FULL if e.errno in FULL_DISK else "Set LABELBEAM_CACHE_DIR to another folder"
        raise UserError(
            f"model={handle!r} cannot be cached in {cache_folder()}: {describe_error(e)}. {remedy}."
        ) from e


def _resolve(handle: str) -> Path:
    scheme = urlsplit(handle).scheme
    if handle == EMBEDDED:
        return ensure_lite0_saved_model(cache_folder())
    if scheme in _REMOTE:
        refuse_other_formats(handle)
    if scheme == GCS:
        return _resolve_gcs(handle.rstrip("/"))
    if scheme in ("http", "https"):
        fetch = _fetch_archive if handle.endswith(ARCHIVE_SUFFIXES) else _fetch_from_hub
        return _cached_model(handle, "", functools.partial(fetch, handle))
    path = Path(unquote(urlsplit(handle).path) if scheme == "file" else handle)
    if path.name.endswith(ARCHIVE_SUFFIXES) and path.is_file():
        # Time and size instead of a digest, because an archive of 10 GB would be read at every start.
        status = path.stat()
        version = f"{status.st_mtime_ns}-{status.st_size}"
        return _cached_model(str(path.resolve()), version, functools.partial(_unpack, path, handle))
    check_model(path, handle)
    return path


def is_here(handle: str) -> bool:
    """Return whether a model is on this machine, so that no server is needed."""
    scheme = urlsplit(handle).scheme
    if scheme not in _REMOTE:
        return True
    entry = _look_up(_index_of(handle))
    return scheme != GCS and entry is not None and _is_whole(entry)


def _cached_model(handle: str, version: str, fetch: Fetch) -> Path:
    """Return the cached model of a handle. Fetch it if the cache has none, a damaged or another version."""
    index = _index_of(handle)
    index.parent.mkdir(parents=True, exist_ok=True)
    try:
        # A lock, because all workers of a machine would otherwise download the same model at once. A lock on
        # a file, because the system frees it when a process is killed.
        with FileLock(index.with_suffix(".lock"), timeout=_LONGEST_WAIT_SEC):
            entry = _look_up(index)
            if entry and (not version or entry["version"] == version) and _is_whole(entry):
                return Path(entry["path"])
            if entry:
                _LOG.warning(
                    "The copy of model %r in %s is damaged or old; it is fetched again", handle, entry["path"]
                )
            return _fetch(handle, version, fetch, index)
    except Timeout as e:
        raise UserError(
            f"model={handle!r}: another process has been downloading it for "
            f"{_LONGEST_WAIT_SEC // 60} minutes. Stop it, or give a local copy of the model."
        ) from e


def _index_of(handle: str) -> Path:
    # Without secrets, because a rerun has none, and because a signature does not change the model.
    key = hashlib.sha256(public_uri(handle).encode()).hexdigest()[:32]
    return cache_folder() / "handles" / f"{key}.json"


def _look_up(index: Path) -> dict | None:
    try:
        return json.loads(index.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _is_whole(entry: dict) -> bool:
    """Return whether a cached model has the digest in its name."""
    # The whole content is digested, because users often delete a part of a cache, and a flipped bit changes
    # neither size nor time of a file.
    path = Path(entry["path"])
    try:
        return path.exists() and _kept_name(path) == path.name
    except UserError:
        return False


def _kept_name(path: Path) -> str:
    return digest_model(path)[:32] + kind_of(path).SUFFIX


def _fetch(handle: str, version: str, fetch: Fetch, index: Path) -> Path:
    models = cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    # Fetched under another name, checked, and then renamed, because the process may be killed meanwhile. In
    # the folder of the target, because a rename is only atomic within a file system.
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=models) as temporary:
        try:
            path = fetch(Path(temporary))
        except (OSError, EOFError, ValueError, RuntimeError, GoogleAPICallError, tarfile.TarError) as e:
            _explain(handle, e)
        check_model(path, handle)
        target = models / _kept_name(path)
        entry = {"handle": public_uri(handle), "version": version, "path": str(target)}
        if not _is_whole(entry):
            shutil.rmtree(target, ignore_errors=True)
            try:
                path.rename(target)
            except OSError:  # a process with another handle of the same model was faster
                if not _is_whole(entry):
                    raise
    # Written last and renamed, because an index must never name a model that is not there, or be half a file.
    index.with_suffix(".tmp").write_text(json.dumps(entry, indent=2), "utf-8")
    index.with_suffix(".tmp").replace(index)
    return target


def _explain(handle: str, error: Exception) -> NoReturn:
    """Raise an error with the reason why a model can't be fetched, and a remedy."""
    status = getattr(error, "code", None)
    copy = "or download it once elsewhere and give that SavedModel folder (local or gs://)"
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        raise error  # the cache folder is the cause, which `resolve_model` names
    if status in (401, 403):
        remedy = (
            f"The server refuses ({status}). TF Hub's models are on Kaggle now, where some require "
            f"that you accept a licence: try the model's Kaggle address, {copy}"
        )
    elif status == 404:
        remedy = f"There is no such model (404): check the address, {copy}"
    elif isinstance(error, urllib.error.URLError) and status is None:
        remedy = f"The server can't be reached: check the network, {copy}"
    else:
        remedy = f"Check the address and the network, {copy}"
    raise UserError(f"model={handle!r} cannot be downloaded: {error}. {remedy}.") from error


def _fetch_from_hub(handle: str, folder: Path) -> Path:
    """Download a model with `tensorflow_hub`."""
    import tensorflow_hub as hub

    own_cache = os.environ.get("TFHUB_CACHE_DIR")
    try:
        # First from the cache of tensorflow_hub, if the user has one, then into an empty one, because
        # tensorflow_hub returns a broken copy from its cache unchecked.
        for cache in filter(None, (own_cache, str(folder / "hub"))):
            os.environ["TFHUB_CACHE_DIR"] = cache
            with file_errors_of_tensorflow():
                path = Path(hub.resolve(handle))
            if find_kind(path):
                return Path(shutil.copytree(path, folder / "model"))
    finally:
        os.environ.pop("TFHUB_CACHE_DIR", None)
        if own_cache is not None:
            os.environ["TFHUB_CACHE_DIR"] = own_cache
    raise ValueError("its content is no SavedModel")


def _fetch_archive(handle: str, folder: Path) -> Path:
    """Download an archive and unpack it."""
    import urllib.request

    archive = folder / "archive"
    with urllib.request.urlopen(handle, timeout=60) as response, archive.open("wb") as f:
        shutil.copyfileobj(response, f, 1 << 20)
    return _unpack(archive, handle, folder)


def _unpack(archive: Path, handle: str, folder: Path) -> Path:
    """Unpack an archive and find the model in it."""
    with tarfile.open(archive) as tar:
        # The filter, because names in a foreign archive may lead out of the folder.
        tar.extractall(folder / "unpacked", filter="data")
    unpacked = folder / "unpacked"
    models = [path for path in (unpacked, *unpacked.rglob("*")) if find_kind(path)]
    if len(models) != 1:
        raise UserError(f"model={handle!r} holds {len(models)} models; it must hold one.")
    return models[0]


def _resolve_gcs(handle: str) -> Path:
    """Return a model in a bucket; if the bucket can't be listed, the copy that was fetched last."""
    from labelbeam.transforms.sources.gcs import list_objects

    is_file = handle.endswith((*FILE_SUFFIXES, *ARCHIVE_SUFFIXES))
    try:
        objects = list_objects(handle if is_file else f"{handle}/")
    except UserError as e:
        _LOG.info("%s; the copy in the model cache is used, if there is one", e)
        return _cached_model(handle, "", functools.partial(_raise, e))
    # Names that end with a slash are no files: Google's console makes such an object for each new folder.
    objects = [o for o in objects if not o.name.endswith("/")]
    if not objects:
        raise UserError(f"model={handle!r} holds no objects. Check the bucket and the folder's name.")
    # Generations, because an upload changes them even if names and sizes stay.
    version = hashlib.sha256("\n".join(f"{o.name} {o.generation}" for o in objects).encode()).hexdigest()
    _, prefix = split_gcs(handle)

    def fetch(folder: Path) -> Path:
        for o in objects:
            target = folder / "model" / (o.name.removeprefix(prefix).strip("/") or Path(prefix).name)
            target.parent.mkdir(parents=True, exist_ok=True)
            o.download_to_filename(str(target))
        first = folder / "model" / Path(prefix).name
        if handle.endswith(ARCHIVE_SUFFIXES):
            return _unpack(first, handle, folder)
        return first if is_file else folder / "model"

    return _cached_model(handle, version, fetch)


def _raise(error: Exception, _folder: Path) -> NoReturn:
    raise error
