"""Fixtures that many tests share; costly ones are made once per session."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# The level is set first, because TensorFlow reads the variable at its import, here and in worker processes.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

# A shell leaves SIGINT ignored in what it starts in the background, and so do all processes that tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from tests.engines import install
from tests.engines.browser import Browser, chromium
from tests.engines.flink import FlinkCluster
from tests.engines.gcs import GcsEmulator
from tests.engines.http_server import WebServer
from tests.sources.fault_server import FaultServer

# Without limits of time, because tests pass on a busy machine, and without files of failed examples.
settings.register_profile(
    "labelbeam", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("labelbeam")

DATA = Path(__file__).parent / "data"


def _part(engine: str, make: Callable[[], Any]) -> Any:
    """Return a part of an engine. Without the tools to make the part, the test is skipped, or fails in CI."""
    try:
        return make()
    except install.MissingToolError as e:
        if os.environ.get("LABELBEAM_REQUIRE_ENGINES"):
            pytest.fail(f"{engine} is required here, and {e}")
        pytest.skip(f"{engine} needs a tool: {e}")


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the session's own cache folder, because tests must not fill the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["LABELBEAM_CACHE_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def lite0_dir(cache_dir: Path) -> Path:
    """Return the folder of the embedded model, which is converted once per session."""
    from labelbeam.transforms.models.efficientnet_lite import ensure_lite0_saved_model

    return ensure_lite0_saved_model(cache_dir)


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsEmulator]:
    with GcsEmulator() as emulator:
        yield emulator


@pytest.fixture
def gcs(gcs_server: GcsEmulator, monkeypatch: pytest.MonkeyPatch) -> GcsEmulator:
    """Return the emulator without any bucket, and point this process to it."""
    gcs_server.empty()
    for name, value in gcs_server.env.items():
        monkeypatch.setenv(name, value)
    return gcs_server


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def faults() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server


@pytest.fixture(scope="session")
def prism_flags() -> tuple[str, ...]:
    """Return the flags that send a job to Prism."""
    return ("--runner=PrismRunner", f"--prism_location={_part('Prism', install.prism)}")


@pytest.fixture(scope="session")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    """Yield a cluster with a spare task manager."""
    for make in install.ENGINES["flink"]:
        _part("Flink", make)
    with FlinkCluster(tmp_path_factory.mktemp("flink"), task_managers=3, slots=2) as cluster:
        yield cluster


# Of a module, because Playwright keeps an event loop running, which other tests must not find.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(_part("Chromium", chromium)) as browser:
        yield browser
