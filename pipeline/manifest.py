"""The manifest: what a run tells about itself, beside its tables."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from apache_beam.io.filesystems import FileSystems

from pipeline import __version__
from pipeline.config import RunConfig
from transforms.errors import UserError
from transforms.files import read_file
from transforms.models.spec import ModelSpec
from transforms.publish import MANIFEST

FORMAT = 1


def new_run_id() -> str:
    """A name for a run: the time it started, UTC, and four random digits."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def manifest_facts(run_id: str, config: RunConfig, model: ModelSpec) -> dict[str, Any]:
    """What the manifest says before anything is counted."""
    return {
        "format": FORMAT,
        "labelbeam": __version__,
        "run_id": run_id,
        "model": {
            "handle": model.handle,
            "sha256": model.digest,
            "classes": len(model.labels),
            "outputs": model.outputs,
            "fingerprint": model.model_fingerprint,
        },
        "preprocessing": {
            "resize": model.resize.describe(),
            "input_range": list(model.input_range),
            "fingerprint": model.preprocessing_fingerprint,
        },
        "config": config.as_dict(),
    }


def manifest_path(output: str) -> str:
    """Where the manifest of an output folder is."""
    return FileSystems.join(output, MANIFEST)


def read_manifest(output: str) -> dict[str, Any] | None:
    """The manifest of an output folder; None if nothing was published there.

    Raises:
      UserError: There is one, and it is not ours.
    """
    path = manifest_path(output)
    if not FileSystems.exists(path):
        return None
    try:
        manifest = json.loads(read_file(path))
        _ = manifest["format"], manifest["run_id"], manifest["counts"]
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path} is no manifest of labelbeam's: {e!r}. Give another --output.") from e
    return manifest
