"""Buckets for DuckDB, through the same filesystems and credentials as the rest of labelbeam."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import duckdb
from fsspec import AbstractFileSystem

from labelbeam.transforms.files import exists, file_metadata, open_file
from labelbeam.transforms.sources.addresses import GCS


class _Buckets(AbstractFileSystem):
    """Objects of Cloud Storage, read only."""

    protocol = GCS
    # Not cached over instances, because tests change the endpoint of the environment.
    cachable = False

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": file_metadata(_uri(path)).size_in_bytes, "type": "file"}

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(file_metadata(_uri(path)).last_updated_in_seconds, UTC)

    def exists(self, path: str, **_: Any) -> bool:
        return exists(_uri(path))

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return open_file(_uri(path))

    def glob(self, path: str, **_: Any) -> list[str]:
        # DuckDB takes each name for a glob; `path_literal` has made a glob of one name.
        return [re.sub(r"\[(.)\]", r"\1", path)]


def _uri(path: str) -> str:
    return path if path.startswith(f"{GCS}://") else f"{GCS}://{path}"


def register_buckets(connection: duckdb.DuckDBPyConnection) -> None:
    """Let a connection read `gs://` paths."""
    # Not DuckDB's own extension httpfs, because that one is downloaded and takes no Google credentials.
    connection.register_filesystem(_Buckets())
