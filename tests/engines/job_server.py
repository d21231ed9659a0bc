"""Beam's own job server as a process on loopback. It accepts jobs as Flink's does, and runs them itself."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from apache_beam.portability import python_urns

_ROOT = Path(__file__).parent.parent.parent
_SERVER, _WORKER = "runners.portability.local_job_service_main", "runners.worker.sdk_worker_main"


class JobServer:
    """A job server whose workers are processes of its own.

    Attributes:
      flags: Beam's flags that send a job here.
    """

    def __enter__(self) -> JobServer:
        self._folder = tempfile.TemporaryDirectory()
        port_file = Path(self._folder.name) / "port"
        command = [sys.executable, "-m", f"apache_beam.{_SERVER}", f"--port_file={port_file}"]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, cwd=_ROOT, **silent)
        deadline = time.monotonic() + 240
        while not (port_file.exists() and port_file.read_text()):
            assert self._process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        self.flags = (
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{port_file.read_text()}",
            f"--environment_type={python_urns.SUBPROCESS_SDK}",
            f"--environment_config={sys.executable} -m apache_beam.{_WORKER}",
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    def kill(self) -> None:
        """Kill the server and its workers, as a failing machine would."""
        if self._process.poll() is None:
            workers = psutil.Process(self._process.pid).children(recursive=True)
            self._process.kill()
            self._process.wait()
            for worker in workers:
                if worker.is_running():
                    worker.kill()
