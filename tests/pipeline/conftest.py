"""What tests of whole runs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_model import save_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that can be told by eye; nobody changes it."""
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", size_px=16)
