"""Whole runs: a mixed corpus, and its results by the pure functions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pyarrow.dataset as ds
import pytest

from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.launch import run
from labelbeam.transforms.elements import EncodedImage, ImageRef, id_of_uri
from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.loaders.image import decode, fetch_image
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.predict import predict_labels
from labelbeam.transforms.sources import Limits, Manners, Sources
from tests.engines.http_server import LOOPBACK
from tests.synthetic import BAD_IMAGES, encoded, gradient

LIMITS = Limits(5, 10_000_000, 4, manners=Manners(attempts=1), allow_hosts=LOOPBACK)
# Longest wait for a process or a thread. It is long, because the machine may be busy; only a test that fails
# waits so long.
PATIENCE_SEC = 240.0
# Time between two looks at a condition that a test waits for.
_POLL_SEC = 0.005
TWO_PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def wait_until(condition: Callable[[], Any], process: subprocess.Popen | None = None) -> None:
    """Wait until a condition holds, which a process that must not end before brings about."""
    deadline = time.monotonic() + PATIENCE_SEC
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(_POLL_SEC)


def make_mixed_corpus(folder: Path, images: int = 40) -> list[str]:
    """Write good and bad images; return their paths, and those of some images that do not exist."""
    folder.mkdir()
    paths = []
    for n in range(images):
        format = ("JPEG", "PNG", "WEBP")[n % 3]
        picture = gradient(30 + n, 60 - n).rotate(10 * n)
        paths.append(folder / f"good{n:03d}.{format.lower()}")
        paths[-1].write_bytes(encoded(picture, format))
    for name, (data, _) in BAD_IMAGES.items():
        paths.append(folder / f"bad-{name}.jpg")
        paths[-1].write_bytes(data)
    return [str(path) for path in paths] + [str(folder / "missing.jpg"), "s3://bucket/a.jpg"]


def label_purely(uris: list[str], classifier: Classifier) -> tuple[dict[str, list], dict[str, tuple]]:
    """Run the pure functions over all images; return labels by id, and (stage, reason) by id."""
    labels, failures = {}, {}
    sources = Sources(LIMITS)
    for uri in dict.fromkeys(uris):
        ref = ImageRef(id_of_uri(uri), uri)
        stage = "fetch"
        try:
            fetched: EncodedImage = fetch_image(ref, sources)
            stage = "decode"
            image = decode(fetched, classifier.spec.resize, 100_000_000)
        except ImageError as e:
            failures[ref.id] = (stage, e.reason.value)
            continue
        (prediction,) = predict_labels([image], classifier)
        labels[ref.id] = [(one.class_id, one.label, one.score) for one in prediction.labels]
    return labels, failures


def run_pipeline(
    *beam_flags: str, config: str | None = None, loaders: int = 0, **options: Any
) -> dict[str, Any]:
    """Run the pipeline as the command line would, and return the manifest.

    Images are loaded on threads by default, because a process takes longer to start than most tests to run,
    and servers of tests are allowed.
    """
    # Without further requests, because most servers of tests fail for ever.
    defaults = {"loaders": loaders, "allow_hosts": ",".join(LOOPBACK), "fetch_attempts": 1}
    values = {
        name: list(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in (defaults | options).items()
    }
    finished = run(load_config(config, values, beam_flags))
    assert finished is not None
    return json.loads(json.dumps(dataclasses.asdict(finished.manifest)))


def read_tables(output: Path | str) -> tuple[list[dict], list[dict]]:
    """Return the rows of both tables, sorted by id."""
    folders = (f"{output}/{table}" for table in ("predictions", "failures"))
    tables = (ds.dataset(folder, partitioning=None).to_table().to_pylist() for folder in folders)
    predictions, failures = (sorted(rows, key=lambda row: row["id"]) for rows in tables)
    return predictions, failures


def assert_same_rows(output: Path, expected: Path) -> None:
    """Check that two outputs are equal except for the run's id and differences of scores below 1e-5."""
    for rows, others in zip(read_tables(output), read_tables(expected), strict=True):
        assert [_without_scores(row) for row in rows] == [_without_scores(row) for row in others]
        for row, other in zip(rows, others, strict=True):
            scores, other_scores = ([one["score"] for one in r.get("labels", [])] for r in (row, other))
            assert scores == pytest.approx(other_scores, abs=1e-5)


def _without_scores(row: dict) -> dict:
    labels = [(one["class_id"], one["label"]) for one in row.get("labels", [])]
    return {k: v for k, v in row.items() if k not in ("run_id", "score", "labels")} | {"labels": labels}


def besides_progress(stderr: str) -> list[str]:
    """Return the lines of a command's standard error that are no progress lines."""
    return [line for line in stderr.splitlines() if not re.match(r"[\d,]+ (of [\d,]+ )?images, ", line)]


def read_until(stream: TextIO, text: str) -> str:
    """Read lines of a process until one contains a text; return all of them."""
    seen = ""
    for line in stream:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} did not come: {seen}")


def assert_sound(output: Path) -> dict[str, Any]:
    """Check the invariants of every output folder; return its manifest."""
    manifest = json.loads((output / "manifest.json").read_text("utf-8"))
    assert manifest.pop("checksum")
    predictions, failures = read_tables(output)
    counts = manifest["counts"]
    assert manifest["balanced"] is True
    assert manifest["rows"] == {"predictions": len(predictions), "failures": len(failures)}
    ids = [row["id"] for row in predictions + failures]
    chosen = counts["listed"] - counts["duplicate"] - counts["not_chosen"]
    assert len(set(ids)) == len(ids) == chosen + counts["other"]
    listed = {file["path"] for file in manifest["files"]}
    tables = (output / "predictions", output / "failures")
    assert listed == {str(p.relative_to(output)) for t in tables for p in t.rglob("*") if p.is_file()}
    for file in manifest["files"]:
        data = (output / file["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size_bytes"], file["sha256"])
    assert [p.name for p in (output / "_staging").glob("*")] in ([], ["lock"])
    return manifest
