"""Imports run one way: pure functions <- transforms <- pipeline <- command line."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Files of the product; links in labelbeam/ make them `labelbeam.pipeline` and `labelbeam.transforms`.
PRODUCT = sorted(path for top in ("pipeline", "transforms", "deploy") for path in (ROOT / top).rglob("*.py"))
PRODUCT += sorted((ROOT / "labelbeam").glob("*.py"))
FILES = PRODUCT + sorted(path for top in ("tests", "benchmarks") for path in (ROOT / top).rglob("*.py"))

# Bare names are refused, because a module imported twice has classes that Beam's coders take for different.
BARE = ("pipeline", "transforms")
PIPELINE = "labelbeam.pipeline"
HEAVY = ("apache_beam", "tensorflow", "tensorflow_hub")
# Imports that each part must not have; the longest prefix that fits a file counts.
FORBIDDEN = {
    "": BARE,
    "labelbeam": (*BARE, "tests", "benchmarks"),
    "deploy": (*BARE, "tests", "benchmarks"),
    "transforms": (*BARE, PIPELINE, "tests", "benchmarks"),
    "transforms/calibration.py": (*BARE, PIPELINE, "tests", "benchmarks", *HEAVY),
    "transforms/elements.py": (*BARE, PIPELINE, "tests", "benchmarks", *HEAVY),
    "transforms/errors.py": (*BARE, PIPELINE, "labelbeam.transforms", "tests", "benchmarks", *HEAVY),
    "transforms/images": (*BARE, PIPELINE, "tests", "benchmarks", *HEAVY),
    "transforms/models": (*BARE, PIPELINE, "tests", "benchmarks", "apache_beam"),
    "transforms/sources": (*BARE, PIPELINE, "tests", "benchmarks", *HEAVY),
    "pipeline": (*BARE, f"{PIPELINE}.cli", "labelbeam.__main__", "tests", "benchmarks"),
    "pipeline/cli": (*BARE, "tests", "benchmarks"),
}
# Foreign modules that one file of the product imports, and no other.
DOORS = {
    "apache_beam.io.filesystem": "transforms/files.py",
    "apache_beam.io.filesystems": "transforms/files.py",
}


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def forbidden_for(path: Path) -> tuple[str, ...]:
    name = path.relative_to(ROOT).as_posix()
    prefix = max((p for p in FORBIDDEN if not p or name == p or name.startswith(f"{p}/")), key=len)
    return FORBIDDEN[prefix]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports__every_file__run_one_way(path):
    wrong = {
        name
        for name in imported_modules(path)
        for forbidden in forbidden_for(path)
        if name == forbidden or name.startswith(f"{forbidden}.")
    }
    assert not wrong


@pytest.mark.parametrize(("module", "door"), DOORS.items())
def test_imports__module_with_a_door__are_of_that_file_alone(module, door):
    users = [p for p in PRODUCT if any(f"{name}.".startswith(f"{module}.") for name in imported_modules(p))]
    assert [path.relative_to(ROOT).as_posix() for path in users] == [door]


def test_models__are_there_without_beam():
    # Environments of rivals have no Beam, and a module of ours may import it.
    modules = "sys, labelbeam.transforms.models.classifier, labelbeam.transforms.models.spec"
    code = f"import {modules}; print('apache_beam' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_forbidden__every_rule__fits_a_file():
    names = [p.relative_to(ROOT).as_posix() for p in FILES]
    assert all(any(not rule or n == rule or n.startswith(f"{rule}/") for n in names) for rule in FORBIDDEN)
