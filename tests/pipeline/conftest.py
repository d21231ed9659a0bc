"""Fixtures that tests of whole runs share."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apache_beam.io.gcp.gcsfilesystem import GCSFileSystem
from apache_beam.options.pipeline_options import PipelineOptions

from labelbeam.transforms.interrupts import ENDING_SIGNALS
from labelbeam.transforms.models.presets import find_preset
from tests.engines.gcs import GcsEmulator
from tests.tiny_model import save_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose classes are an image's mean colours; tests must not change its files."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", size_px=16)


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace fsync, because tests that write many files would spend most of their time in it."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def one_client(gcs: GcsEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Beam one client of the emulator.

    Beam makes a client for every request, which takes longer than the emulator's answer.
    """
    client = GCSFileSystem(PipelineOptions())._gcsIO()
    monkeypatch.setattr(GCSFileSystem, "_gcsIO", lambda _: client)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a small model in a preset's place in TF Hub's cache."""
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))

    def put(model: str) -> None:
        preset = find_preset(model)
        name = hashlib.sha1(preset.handle.encode()).hexdigest()
        save_tiny_model(tmp_path / "hub" / name, size_px=preset.image_size_px, classes=1000)

    return put


@pytest.fixture
def own_signal_handlers() -> Iterator[None]:
    """Restore signal handlers, because the command line replaces them when a test calls it as a function."""
    handlers = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
