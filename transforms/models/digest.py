"""Digests of models: equal for the same weights, whenever and under whatever name they were saved."""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.efficientnet_lite import LITE0_DIGEST, lite0_folder

# TensorFlow writes a random one at every export.
_NOT_PART_OF_THE_MODEL = "fingerprint.pb"
# Keras writes the date here.
_KERAS_METADATA = "metadata.json"
_KERAS_CONFIG = "config.json"
# State of training, which labels don't depend on: `compile_config` in the configuration, and these weights.
_OPTIMIZER = "optimizer/"
_CHUNK_BYTES = 1 << 20


def digest_model(path: Path) -> str:
    """Return the SHA-256 of a SavedModel's graph, variables and assets, or of a Keras model; hexadecimal.

    The digest of the embedded model is that of its weights, because TensorFlow writes other bytes
    whenever it converts them.

    Raises:
      UserError: The weights of a Keras model can't be read.
    """
    if path == lite0_folder(path.parent):
        return LITE0_DIGEST
    files = model_files(path)
    facts = tuple((name, (stat := file.stat()).st_size, stat.st_mtime_ns) for name, file in files.items())
    return _digest(path, facts)


def model_files(path: Path) -> dict[str, Path]:
    """Return a model's files by name, without TensorFlow's random fingerprint."""
    if path.is_file():
        return {path.name: path}
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != _NOT_PART_OF_THE_MODEL)
    return {file.relative_to(path).as_posix(): file for file in files}


# Sizes and times are part of the key, because the file at a path may change. A model is digested several
# times on its way to a device, and one of 10 GB takes seconds.
@functools.lru_cache(maxsize=8)
def _digest(path: Path, _facts: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for part in _keras_parts(path) if path.is_file() else _saved_model_parts(path):
        digest.update(part)
    return digest.hexdigest()


def _saved_model_parts(folder: Path) -> Iterator[bytes]:
    for name, file in model_files(folder).items():
        yield f"{name}\0{file.stat().st_size}\0".encode()
        with file.open("rb") as f:
            yield from _chunks(f)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _keras_parts(path: Path) -> Iterator[bytes]:
    """Yield the contents of a `.keras` file, without dates, archive layout and state of training."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name != _KERAS_METADATA:
                    yield f"{name}\0".encode()
                    yield from _member_parts(archive, name)
    except (OSError, KeyError, RuntimeError, ValueError, zipfile.BadZipFile) as e:
        raise UserError(f"{path} is no whole Keras model: {e}. Save or copy it again.") from e


def _member_parts(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    with archive.open(name) as member:
        if name == _KERAS_CONFIG:
            config = _without_object_ids(json.load(member))
            config.pop("compile_config", None)
            yield json.dumps(config, sort_keys=True).encode()
        elif name.endswith(".h5"):
            yield from _weights(member)
        else:
            yield f"{archive.getinfo(name).file_size}\0".encode()
            yield from _chunks(member)


def _without_object_ids(value: Any) -> Any:
    """Remove `shared_object_id`, because Keras writes addresses in memory, other ones in every process."""
    if isinstance(value, dict):
        return {key: _without_object_ids(v) for key, v in value.items() if key != "shared_object_id"}
    return [_without_object_ids(v) for v in value] if isinstance(value, list) else value


def _weights(file: IO[bytes]) -> Iterator[bytes]:
    """Yield an HDF5 file's arrays by name, because its bytes depend on the order of writing."""
    import h5py

    with h5py.File(file, "r") as weights:
        names: list[str] = []
        weights.visit(names.append)
        for name in sorted(n for n in names if not n.startswith(_OPTIMIZER)):
            if isinstance(dataset := weights[name], h5py.Dataset):
                attributes = sorted((key, repr(value)) for key, value in dataset.attrs.items())
                yield f"{name}\0{dataset.dtype}\0{dataset.shape}\0{attributes}\0".encode()
                yield dataset[()].tobytes()
