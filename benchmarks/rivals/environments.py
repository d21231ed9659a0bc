"""Environments of rivals that must not share the pipeline's; each is made at first use and then kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def python_of(environments: Path, name: str) -> str:
    """Return the interpreter of an environment that has `requirements-NAME.txt` installed."""
    requirements = Path(__file__).with_name(f"requirements-{name}.txt")
    folder = environments.absolute() / name
    installed, python = folder / requirements.name, folder / "bin" / "python"
    # The copy is written last, because its presence and content show which installation is complete.
    if not installed.is_file() or installed.read_text("utf-8") != requirements.read_text("utf-8"):
        print(f"Installing {requirements.name} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True)
        shutil.copyfile(requirements, installed)
    return str(python)
