"""Imports run one way: pure functions <- transforms <- pipeline <- command line."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("pipeline", "transforms", "container", "engines")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

# What each part must not import, by the longest prefix that fits a file.
FORBIDDEN = {
    "transforms": ("pipeline",),
    "transforms/elements.py": ("pipeline", "apache_beam", "tensorflow", "tensorflow_hub"),
    "transforms/errors.py": ("pipeline", "transforms", "apache_beam", "tensorflow", "tensorflow_hub"),
    "transforms/images": ("pipeline", "apache_beam", "tensorflow", "tensorflow_hub"),
    "transforms/models": ("pipeline", "apache_beam"),
    "transforms/stores": ("pipeline", "apache_beam", "tensorflow", "tensorflow_hub"),
    "pipeline": ("pipeline.cli", "pipeline.__main__"),
    "pipeline/cli.py": (),
    "pipeline/__main__.py": (),
    "container": ("tests", "benchmarks"),
    "engines": ("pipeline", "transforms", "tests", "benchmarks"),
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
    prefix = max((p for p in FORBIDDEN if name == p or name.startswith(f"{p}/")), key=len)
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


def test_models__are_there_without_beam():
    # Environments of rivals have none, and a module of ours may bring it.
    modules = "sys, transforms.models.classifier, transforms.models.spec"
    code = f"import {modules}; print('apache_beam' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_forbidden__every_rule__fits_a_file():
    names = [p.relative_to(ROOT).as_posix() for p in FILES]
    assert all(any(n == rule or n.startswith(f"{rule}/") for n in names) for rule in FORBIDDEN)
