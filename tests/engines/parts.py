"""Engines that are installed for the tests, where this machine has what they are made with."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

from tests.engines.install import MissingToolError

T = TypeVar("T")

# Where this is set, an engine that is missing is a failure.
REQUIRED = "LABELBEAM_REQUIRE_ENGINES"


def part(engine: str, make: Callable[[], T]) -> T:
    """A part of an engine; without the tools to make it, the test is skipped and says so."""
    try:
        return make()
    except MissingToolError as e:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{engine} is required here, and {e}")
        pytest.skip(f"{engine} needs a tool: {e}")
