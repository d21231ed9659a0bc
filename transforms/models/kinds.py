"""Kinds of model: the interface, the table, and checks and digests for all kinds.

A kind is a module with the functions of `ModelKind`. Another kind is one such module and one row of `KINDS`.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, Protocol

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models import keras_file, saved_model
from labelbeam.transforms.models.contract import Contract, Model
from labelbeam.transforms.models.efficientnet_lite import LITE0_DIGEST, lite0_folder
from labelbeam.transforms.models.presets import PRESETS
from labelbeam.transforms.models.refusals import refuse_other_formats


class ModelKind(Protocol):
    """Functions of a module that holds one kind of model.

    Attributes:
      SUFFIX: Suffix of a model that is one file; "" for a folder.
    """

    SUFFIX: str

    def matches(self, path: Path) -> bool:
        """Return whether a path is a model of this kind."""

    def list_files(self, path: Path) -> dict[str, Path]:
        """Return the files of a model by name; the file that `matches` looks for comes last."""

    def find_damage(self, path: Path) -> str:
        """Return the damage that checksums and missing files show; "" for a whole model."""

    def digest_parts(self, path: Path) -> Iterator[bytes]:
        """Yield bytes that are equal for the same weights, whenever they were saved."""

    def read_contract(self, path: Path, signature: str | None, output: str | None) -> Contract:
        """Read inputs and outputs. `signature` and `output` are the user's choice among several.

        Raises:
          UserError: The model is damaged, or no image classifier.
        """

    def load(self, path: Path, handle: str, contract: Contract, size_px: int) -> Model:
        """Load a model, and choose the output of the contract.

        Raises:
          LabelbeamError: The model can't be loaded.
        """

    def describe(self, path: Path) -> Iterator[tuple[str, str]]:
        """Yield signatures, each with a heading, for a person."""


# Modules and no classes, because a kind has no state. mypy checks their functions against the protocol.
KINDS: tuple[ModelKind, ...] = (saved_model, keras_file)
FILE_SUFFIXES = tuple(kind.SUFFIX for kind in KINDS if kind.SUFFIX)


def find_kind(path: Path) -> ModelKind | None:
    """Return the kind of a model; None for a path that is no model."""
    return next((kind for kind in KINDS if kind.matches(path)), None)


def kind_of(path: Path) -> ModelKind:
    """Return the kind of a model.

    Raises:
      UserError: The path is no model.
    """
    if kind := find_kind(path):
        return kind
    raise UserError(f"{path} is no model, or not a whole one. Copy or download it again.")


def check_model(path: Path, handle: str) -> None:
    """Check that a path is a whole model.

    Raises:
      UserError: A file is missing or damaged, or the path is no model.
    """
    kind = find_kind(path)
    if kind is None:
        _refuse(path, handle)
    if damage := kind.find_damage(path):
        raise UserError(f"model={handle!r} is damaged: {damage}. Give a whole copy of the model.")


def _refuse(path: Path, handle: str) -> NoReturn:
    if path.exists():
        refuse_other_formats(handle, path)
    elif path.suffix in FILE_SUFFIXES:
        raise UserError(f"model={handle!r}: there is no such file. Check its name.")
    if path.is_dir() and (models := [p for p in sorted(path.iterdir()) if find_kind(p)]):
        raise UserError(
            f"model={handle!r} is a folder of models. Give one of them, such as {str(models[0])!r}."
        )
    close = difflib.get_close_matches(handle, PRESETS, 1)
    raise UserError(
        f"model={handle!r} is no SavedModel: there is no {path / saved_model.GRAPH}. Give a SavedModel "
        "folder, a .keras file, an archive of either, a TF Hub or Kaggle address, or a preset's name."
        f"{f' Did you mean {close[0]!r}?' if close else ''}"
    )


def digest_model(path: Path) -> str:
    """Return the SHA-256 of a model's content, hexadecimal.

    The digest of the embedded model is that of its weights, because TensorFlow writes other bytes at each
    conversion.

    Raises:
      UserError: The path is no model, or its content can't be read.
    """
    if path == lite0_folder(path.parent):
        return LITE0_DIGEST
    stats = [(name, file.stat()) for name, file in kind_of(path).list_files(path).items()]
    return _digest(path, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


# Cached, because a model is digested several times on its way to a device, and one of 10 GB takes seconds.
# Sizes and times are part of the key, because the files at a path may change.
@functools.lru_cache(maxsize=8)
def _digest(path: Path, _files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for part in kind_of(path).digest_parts(path):
        digest.update(part)
    return digest.hexdigest()
