"""Installation of the engines' parts from package registries; each part is made once.

python -m tests.engines.install prism flink

Prism needs Go; Flink needs Go, Java (11 or 17) and Maven.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apache_beam
from filelock import FileLock

HERE = Path(__file__).parent
# The version must be the Flink release that the job server's artifacts are made for.
_FLINK_JARS = "apache-flink-libraries==1.19.3"
_GO_PACKAGES = {"prism": "sdks/v2/go/cmd/prism", "boot": "sdks/v2/python/container"}


class MissingToolError(Exception):
    """A program that builds an engine is not on this machine."""


def folder() -> Path:
    """Return the folder of the parts: `LABELBEAM_ENGINES_DIR`, by default `build/engines`."""
    return Path(os.environ.get("LABELBEAM_ENGINES_DIR", HERE.parents[1] / "build" / "engines")).absolute()


def prism() -> Path:
    """Return the path of Beam's Go runner, in the Python SDK's version."""
    return _go_binary("prism")


def boot() -> Path:
    """Return the path of the program that starts a Python worker, in the Python SDK's version."""
    return _go_binary("boot")


def job_server() -> Path:
    """Return the jar of Beam's job server for Flink."""
    pom = HERE / "job-server.pom.xml"
    jar = folder() / f"job-server-{hashlib.sha256(pom.read_bytes()).hexdigest()[:8]}.jar"
    with _making(jar) as missing:
        if missing:
            _need("java", "mvn")
            with tempfile.TemporaryDirectory() as project:
                copy = shutil.copy(pom, Path(project) / "pom.xml")
                _run("mvn", "-q", "-B", "-f", str(copy), "package")
                # The jar is copied beside its place and renamed, because an interrupted build must not count
                # as complete.
                shutil.copy(Path(project) / "target" / "job-server.jar", folder() / "job-server.part")
            (folder() / "job-server.part").rename(jar)
    return jar


def flink_jars() -> list[Path]:
    """Return the jars of Flink itself."""
    home = folder() / _FLINK_JARS.replace("==", "-")
    with _making(home) as missing:
        if missing:
            part = folder() / "flink.part"
            venv.create(part, with_pip=True, clear=True)
            _run(str(part / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps", _FLINK_JARS)
            part.rename(home)
    return sorted(home.glob("lib/python*/site-packages/pyflink/lib/*.jar"))


def _go_binary(name: str) -> Path:
    version = apache_beam.__version__
    path = folder() / f"{name}-{version}"
    with _making(path) as missing:
        if missing:
            _need("go")
            package = f"github.com/apache/beam/{_GO_PACKAGES[name]}"
            with tempfile.TemporaryDirectory(dir=folder()) as target:
                _run("go", "install", f"{package}@v{version}", GOBIN=target)
                (Path(target) / Path(package).name).rename(path)
    return path


@contextmanager
def _making(path: Path) -> Iterator[bool]:
    """Hold the lock on a part; yield whether the part is still to be made."""
    folder().mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        yield not path.exists()


def _need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            raise MissingToolError(f"{tool} is not on this machine")


def _run(*command: str, **env: str) -> None:
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


ENGINES = {"prism": (prism,), "flink": (flink_jars, job_server, boot)}


def main() -> None:
    """Make the parts of the engines that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engines", nargs="+", choices=ENGINES, metavar="ENGINE")
    for engine in parser.parse_args().engines:
        for make in ENGINES[engine]:
            try:
                made = make()
            except MissingToolError as e:
                sys.exit(f"{engine}: {e}.")
            print(made if isinstance(made, Path) else made[0].parent)


if __name__ == "__main__":
    main()
