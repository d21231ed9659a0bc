"""Beam's own job server as a process on loopback: it takes jobs in as Flink's does, and runs them itself."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

_MODULE = "apache_beam.runners.portability.local_job_service_main"


class JobServer:
    """A job server; `flags` give jobs to it, with workers in the process that submits."""

    def __enter__(self) -> JobServer:
        self._folder = tempfile.TemporaryDirectory()
        port_file = Path(self._folder.name) / "port"
        command = [sys.executable, "-m", _MODULE, f"--port_file={port_file}"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text()):
            assert self._process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        endpoint = f"--job_endpoint=localhost:{port_file.read_text()}"
        self.flags = ("--runner=PortableRunner", endpoint, "--environment_type=LOOPBACK")
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    def kill(self) -> None:
        """Ends it, as a machine that fails does."""
        self._process.kill()
        self._process.wait()
