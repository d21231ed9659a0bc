"""The wheel and the source distribution: their contents."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from tests.graphs import PATIENCE_SEC

ROOT = Path(__file__).parent.parent
BUILD_SDIST = "import sys, setuptools.build_meta as backend; backend.build_sdist(sys.argv[1])"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Return a copy of the tracked files, because a build leaves folders beside its sources."""
    folder = tmp_path_factory.mktemp("source") / "labelbeam"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            path.symlink_to((ROOT / name).readlink())
        else:
            path.write_bytes((ROOT / name).read_bytes())
    return folder


def build_sdist(source: Path, folder: Path) -> Path:
    """Build a source distribution with the installed setuptools, because pip builds wheels alone."""
    command = [sys.executable, "-c", BUILD_SDIST, str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=PATIENCE_SEC)
    (path,) = folder.iterdir()
    return path


def wheel_names(source: Path, folder: Path) -> set[str]:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, f"--wheel-dir={folder}", source], check=True, timeout=PATIENCE_SEC)
    (path,) = folder.iterdir()
    with zipfile.ZipFile(path) as wheel:
        return set(wheel.namelist())


def package_files() -> set[str]:
    """Return the modules, the photos' files and the templates of pages, as distributions call them."""
    paths = [path for folder in ("pipeline", "transforms") for path in (ROOT / folder).rglob("*.*")]
    return {
        f"labelbeam/{path.relative_to(ROOT)}"
        for path in paths
        if path.is_file() and path.parent.name != "__pycache__"
    }


@pytest.mark.slow
def test_wheel__from_the_sources__holds_labelbeam_alone_and_whole(source, tmp_path):
    names = wheel_names(source, tmp_path)
    top = {PurePosixPath(name).parts[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"labelbeam"}
    assert package_files() <= names


@pytest.mark.slow
def test_sdist__a_wheel_built_from_it__is_the_wheel_of_the_sources(source, tmp_path):
    archive = build_sdist(source, tmp_path / "sdist")
    with tarfile.open(archive) as sdist:
        sdist.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert package_files() <= {
        str(path.relative_to(unpacked)) for path in (unpacked / "labelbeam").rglob("*")
    }
    assert wheel_names(unpacked, tmp_path / "of the sdist") == wheel_names(source, tmp_path / "direct")
