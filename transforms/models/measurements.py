"""Measurements of a model on a kind of device, cached on disk for the next process."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labelbeam.transforms.errors import describe_error
from labelbeam.transforms.models.folders import cache_folder, write_cached

_LOG = logging.getLogger(__name__)

Measurement = dict[str, Any]


def cached_measurement(
    name: str, conditions: dict[str, Any], measure: Callable[[], tuple[Measurement, bool]]
) -> Measurement:
    """Return a measurement from the cache; measure if there is none.

    Args:
      name: Name of the measurement, and of its folder in the cache.
      conditions: Everything that the result depends on, as plain data.
      measure: Returns the result, and whether the next process would get the same; only then it is cached.
    """
    file = cache_folder() / name / f"{digest_of(conditions)[:32]}.json"
    result = _read(file)
    if result is None:
        result, lasts = measure()
        if lasts:
            _write(file, {"conditions": conditions, "result": result, "sha256": digest_of(result)})
    return result


def _read(file: Path) -> Measurement | None:
    # The digest is compared, because a damaged number would silently change labels or speed.
    try:
        document = json.loads(file.read_text("utf-8"))
        return document["result"] if document["sha256"] == digest_of(document["result"]) else None
    except (OSError, ValueError, KeyError, TypeError):  # no file yet, or a damaged one
        return None


def digest_of(value: Any) -> str:
    """Return the SHA-256 of plain data, hexadecimal."""
    # With sorted keys, because equal dictionaries may differ in their order.
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write(file: Path, document: dict[str, Any]) -> None:
    try:
        write_cached(file, json.dumps(document).encode())
    except OSError as e:  # the next process measures again
        _LOG.warning(
            "Results can't be cached in %s: %s. Set LABELBEAM_CACHE_DIR to another folder",
            file.parent,
            describe_error(e),
        )
