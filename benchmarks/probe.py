"""The cost of the probe at the start of a run: a model's first run against its second.

python -m benchmarks.probe [--rounds 3]

lite0  EfficientNet-Lite0 as a SavedModel folder, 224 px: all photos, 27 of them in four more input ranges.
b7     EfficientNet-B7's architecture at 600 px (random weights): as many photos as 30 s suffice for.

Each row has the seconds of wall time of `understand_model` in a process that has imported TensorFlow, without
and with a cached result; medians of the rounds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_UNDERSTAND = """
import sys, time
from labelbeam.transforms.models.runtime import configure_tensorflow
configure_tensorflow(2, 2)
import tensorflow_hub
from labelbeam.transforms.models.probe import understand_model
from labelbeam.transforms.models.spec import ModelOptions
start = time.perf_counter()
understand_model(ModelOptions(sys.argv[1]), 600)
print(time.perf_counter() - start)
"""


def save_model(name: str, folder: Path) -> None:
    """Save a model that is no preset."""
    if name == "b7":
        from tests.b7_model import save_b7

        save_b7(str(folder))
        return
    from labelbeam.transforms.models.cache import resolve_model

    shutil.copytree(resolve_model("embedded:efficientnet-lite0"), folder)


def seconds(model: Path, cache: Path) -> float:
    """Return the time that a fresh process takes to understand a model."""
    environment = {**os.environ, "LABELBEAM_CACHE_DIR": str(cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", _UNDERSTAND, str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(name: str, folder: Path, rounds: int) -> None:
    """Print one row."""
    model = folder / name
    save_model(name, model)
    pairs = []
    for n in range(rounds):
        cache = folder / f"cache-{n}"
        pairs.append((seconds(model, cache), seconds(model, cache)))
    first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{name:6} first {first:6.2f} s   second {second:5.2f} s", flush=True)


def main() -> None:
    """Measure both models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    for name in ("lite0", "b7"):
        with tempfile.TemporaryDirectory() as folder:
            measure(name, Path(folder), rounds)


if __name__ == "__main__":
    main()
