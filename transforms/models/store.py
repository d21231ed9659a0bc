"""The model store: from a handle to a folder on this machine."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import platformdirs

from transforms.errors import UserError
from transforms.models.efficientnet_lite import ensure_lite0_saved_model
from transforms.models.folders import make_folder_once

EMBEDDED = "embedded:efficientnet-lite0"

# TensorFlow writes a random one at every export.
_NOT_PART_OF_THE_MODEL = "fingerprint.pb"


def cache_folder() -> Path:
    """Where models are kept: `$LABELBEAM_CACHE_DIR`, or the user's cache folder."""
    return Path(os.environ.get("LABELBEAM_CACHE_DIR") or platformdirs.user_cache_dir("labelbeam"))


def resolve_model(handle: str) -> Path:
    """Brings a model to this machine.

    Args:
      handle: A SavedModel folder, local, `file://` or `gs://`; an address on TF Hub
        or Kaggle; or `embedded:efficientnet-lite0`.

    Returns:
      A local SavedModel folder.

    Raises:
      UserError: There is no such model, or it cannot be had.
    """
    scheme = urlsplit(handle).scheme
    if handle == EMBEDDED:
        folder = ensure_lite0_saved_model(cache_folder())
    elif scheme in ("http", "https"):
        folder = _from_hub(handle)
    elif scheme == "gs":
        folder = _from_gcs(handle.rstrip("/"))
    else:
        folder = Path(unquote(urlsplit(handle).path) if scheme == "file" else handle)
    if not (folder / "saved_model.pb").is_file():
        raise UserError(
            f"model={handle!r} is no SavedModel: there is no {folder / 'saved_model.pb'}. "
            "Give a SavedModel folder, a TF Hub or Kaggle address, or a preset's name."
        )
    return folder


def digest_model(folder: Path) -> str:
    """The SHA-256 of a SavedModel's graph, variables and assets, hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _NOT_PART_OF_THE_MODEL):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as f:
            while chunk := f.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _from_hub(handle: str) -> Path:
    os.environ.setdefault("TFHUB_CACHE_DIR", str(cache_folder() / "tfhub"))
    import tensorflow_hub as hub

    try:
        return Path(hub.resolve(handle))
    except (OSError, ValueError, RuntimeError) as e:
        raise UserError(
            f"model={handle!r} cannot be downloaded: {e}. Check the address and the network, "
            "or download it once and give the SavedModel folder (local or gs://)."
        ) from e


def _from_gcs(handle: str) -> Path:
    """Copies a folder of a bucket, once per content."""
    from transforms.stores.gcs import list_objects

    objects = list_objects(f"{handle}/")
    if not objects:
        raise UserError(f"model={handle!r} holds no objects. Check the bucket and the folder's name.")
    listing = "\n".join(f"{o.name} {o.generation}" for o in objects)
    name = f"gcs-{hashlib.sha256(f'{handle} {listing}'.encode()).hexdigest()[:16]}"
    prefix = handle.removeprefix("gs://").partition("/")[2] + "/"

    def download(folder: Path) -> None:
        for o in objects:
            target = folder / o.name.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            o.download_to_filename(str(target))

    return make_folder_once(cache_folder() / name, download)
