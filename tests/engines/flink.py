"""A Flink cluster on this machine, on loopback alone.

python -m tests.engines.flink [--task_managers 2] [--slots 2]

The command prints the flags that send a job to it, and runs until Ctrl-C. Parts are installed
on the first start (see install.py). Workers run in this interpreter's environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.engines import install

_START_SEC = 120
# Packages that must be opened, because Flink 1.19 uses their private parts on Java 17.
_OPEN = [
    f"--add-opens=java.base/java.{package}=ALL-UNNAMED"
    for package in (
        *("lang", "lang.reflect", "net", "io", "nio", "text", "time"),
        *("util", "util.concurrent", "util.concurrent.atomic", "util.concurrent.locks"),
    )
] + ["--add-exports=java.base/sun.net.util=ALL-UNNAMED"]
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"


class FlinkCluster:
    """A job manager and task managers of one slot each.

    Attributes:
      flags: Beam's flags that send a job here, by a job server of its own.
      task_managers: Their processes.
    """

    def __init__(self, folder: Path, task_managers: int = 2, slots: int | None = None) -> None:
        # Fewer slots than task managers leave spare ones, because a dead task manager is not replaced.
        self._folder = folder.absolute()
        self._count = task_managers
        self._slots = slots or task_managers
        # Ports are chosen now, because Beam's flags have to name them before the cluster runs.
        self._rpc_port, self._rest_port = _free_ports(2)
        self.task_managers: list[subprocess.Popen] = []
        self._job_manager: subprocess.Popen | None = None

    @property
    def flags(self) -> list[str]:
        return self._flags(self._folder / "worker.sh")

    def flags_with(self, script: Path, variables: str) -> list[str]:
        """Write a script that starts workers with variables of the environment; return flags that use it."""
        worker = shlex.quote(str(self._folder / "worker.sh"))
        script.write_text(f'#!/bin/sh\n{variables} exec {worker} "$@"\n', "utf-8")
        script.chmod(0o755)
        return self._flags(script)

    def _flags(self, script: Path) -> list[str]:
        environment = {"command": str(script)}
        return [
            "--runner=FlinkRunner",
            f"--flink_master=localhost:{self._rest_port}",
            f"--flink_job_server_jar={self._job_server}",
            "--environment_type=PROCESS",
            f"--environment_config={json.dumps(environment)}",
            f"--parallelism={self._slots}",
        ]

    def __enter__(self) -> FlinkCluster:
        self._classpath = os.pathsep.join(map(str, install.flink_jars()))
        self._job_server, boot = install.job_server(), install.boot()
        (self._folder / "tmp").mkdir(parents=True, exist_ok=True)
        _write_worker_script(self._folder / "worker.sh", boot)
        try:
            self._job_manager = self._start("job-manager", "600m", _JOB_MANAGER)
            for n in range(self._count):
                self.task_managers.append(self._start(f"task-manager-{n}", "768m", _TASK_MANAGER))
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # Workers are listed before their parents end, because afterwards no process leads to them.
        workers = [worker for task_manager in self.task_managers for worker in workers_of(task_manager)]
        for process in self._processes:
            process.terminate()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def _processes(self) -> list[subprocess.Popen]:
        return [self._job_manager, *self.task_managers] if self._job_manager else self.task_managers

    def jobs(self) -> list[dict[str, Any]]:
        """Return the cluster's jobs, oldest first: `state`, `timestamps`, stages (`vertices`)."""
        jobs = [self._get(f"jobs/{job['jid']}") for job in self._get("jobs/overview")["jobs"]]
        return sorted(jobs, key=lambda job: job["start-time"])

    def _start(self, name: str, heap: str, main_class: str) -> subprocess.Popen:
        conf = self._folder / name
        conf.mkdir(exist_ok=True)
        (conf / "config.yaml").write_text(yaml.safe_dump(self._settings(name)), "utf-8")
        memory = (f"-Xmx{heap}", "-XX:MaxDirectMemorySize=700m")
        command = ("java", *memory, *_OPEN, "-cp", self._classpath, main_class, "--configDir", str(conf))
        with (self._folder / f"{name}.log").open("wb") as log:
            # Beam's boot leaves pipeline_options.json where it starts.
            return subprocess.Popen(
                command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _settings(self, name: str) -> dict[str, Any]:
        addresses = {
            "jobmanager.rpc.address": "localhost",
            "jobmanager.rpc.port": self._rpc_port,
            "jobmanager.bind-host": "localhost",
            "rest.address": "localhost",
            "rest.bind-address": "localhost",
            "rest.port": self._rest_port,
            "taskmanager.host": "localhost",
            "taskmanager.bind-host": "localhost",
            "taskmanager.resource-id": name,
        }
        # All parts of the memory, because Flink's start scripts, which would compute them, are not used.
        memory = {
            "jobmanager.memory.process.size": "1g",
            "taskmanager.numberOfTaskSlots": 1,
            "taskmanager.cpu.cores": 1.0,
            "taskmanager.memory.task.heap.size": "512m",
            "taskmanager.memory.task.off-heap.size": "128m",
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.framework.off-heap.size": "128m",
            "taskmanager.memory.network.min": "256m",  # less runs out of buffers
            "taskmanager.memory.network.max": "256m",
            "taskmanager.memory.managed.size": "256m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "192m",
            "taskmanager.memory.jvm-overhead.max": "192m",
        }
        # A short heartbeat, because a dead task manager must be noticed before the restarts are used up.
        survival = {
            "restart-strategy.type": "fixed-delay",
            "restart-strategy.fixed-delay.attempts": 10,
            "restart-strategy.fixed-delay.delay": "3 s",
            "heartbeat.interval": 2000,
            "heartbeat.timeout": 8000,
        }
        rest = {
            "parallelism.default": self._slots,
            "classloader.resolve-order": "parent-first",
            "io.tmp.dirs": str(self._folder / "tmp"),
        }
        return {**addresses, **memory, **survival, **rest}

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SEC
        while time.monotonic() < deadline:
            if any(process.poll() is not None for process in self._processes):
                break
            with contextlib.suppress(OSError):
                if self._get("overview")["taskmanagers"] == self._count:
                    return
            time.sleep(0.5)
        ends = [f"{log.name}: {log.read_text('utf-8')[-1000:]}" for log in self._folder.glob("*.log")]
        raise RuntimeError("The cluster did not start:\n" + "\n".join(ends))

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://localhost:{self._rest_port}/{path}", timeout=10) as response:
            return json.load(response)


def workers_of(task_manager: subprocess.Popen) -> list[psutil.Process]:
    """Return the Python workers of a task manager."""
    try:
        started = psutil.Process(task_manager.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in started if _runs_python_worker(process)]


def _runs_python_worker(process: psutil.Process) -> bool:
    try:
        return "sdk_worker_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _write_worker_script(path: Path, boot: Path) -> None:
    """Write the script by which a task manager starts a worker: Beam's boot, in this environment."""
    path.write_text(
        f"""#!/bin/sh
export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"
export RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
exec {shlex.quote(str(boot))} "$@"
""",
        "utf-8",
    )
    path.chmod(0o755)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main() -> None:
    """Run a cluster until it is interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task_managers", type=int, default=2)
    parser.add_argument("--slots", type=int, help="how many a job uses; the rest is spare (default: all)")
    args = parser.parse_args()
    if args.slots and args.slots > args.task_managers:
        parser.error(f"--slots {args.slots}: there is one in each of {args.task_managers} task managers")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="labelbeam-flink-") as folder:
        try:
            with FlinkCluster(Path(folder), args.task_managers, args.slots) as cluster:
                print(f"Ready; logs are in {folder}. Add to labelbeam run:\n  {shlex.join(cluster.flags)}")
                sys.stdout.flush()
                signal.pause()
        except (install.MissingToolError, RuntimeError) as e:
            sys.exit(f"Flink: {e}")
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
