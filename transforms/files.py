"""Whole files on any of Beam's filesystems: a reader sees all of a file or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems


def write_file(path: str, data: Any) -> None:
    """Writes a file, replacing the one that was there.

    On a local disk it is written under another name and renamed; in a bucket
    an object appears when its upload is complete.
    """
    local = FileSystems.get_scheme(path) is None
    written = f"{path}.{os.getpid()}.tmp" if local else path
    with FileSystems.create(written, compression_type=CompressionTypes.UNCOMPRESSED) as f:
        f.write(data)
    if local:
        os.replace(written, path)


def read_file(path: str) -> bytes:
    """Reads a whole file."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as f:
        return f.read()


def move_files(sources: Sequence[str], targets: Sequence[str]) -> None:
    """Moves files within a filesystem; those an earlier try has moved are left alone."""
    pairs = [
        (source, target)
        for source, target in zip(sources, targets, strict=True)
        if FileSystems.exists(source) or not FileSystems.exists(target)
    ]
    if pairs:
        FileSystems.rename(*map(list, zip(*pairs, strict=True)))


def make_folder(path: str) -> None:
    """Makes a folder unless it is there; in a bucket there is nothing to make."""
    if FileSystems.get_scheme(path) is None:
        os.makedirs(path, exist_ok=True)


def delete_folder(path: str) -> None:
    """Deletes a folder and all that is in it, if it is there."""
    if FileSystems.get_scheme(path) is None:
        if os.path.isdir(path):
            FileSystems.delete([path])
        return
    files = [m.path for result in FileSystems.match([f"{path}/**"]) for m in result.metadata_list]
    if files:
        FileSystems.delete(files)
