"""The pipeline against a loop written by hand, on the same images with the same functions.

python -m benchmarks.throughput [--sizes 1600x1200,500x375] [--images 400,1600] [--rounds 5]
    [--contenders "hand loop,pipeline,two processes"; also "split layout"]

Rates are marginal: from runs over fewer and more images, each in a fresh
process, so that start-up cancels out. Rounds are interleaved; the figure is
the median of the rounds' ratios to the first contender.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.corpus import make_corpus

MODEL = "efficientnet-lite0"

Command = Callable[[Path], list[str]]


def hand_loop(corpus: Path) -> list[str]:
    """The loop written by hand."""
    return [sys.executable, "-m", "benchmarks.hand_loop", str(corpus), MODEL]


def pipeline(corpus: Path, *flags: str, model: str = MODEL) -> list[str]:
    """The pipeline, as a user starts it."""
    output = corpus.parent / "output"
    shutil.rmtree(output, ignore_errors=True)
    options = ["--input", str(corpus), "--output", str(output), "--model", model]
    return [sys.executable, "-m", "pipeline", "run", *options, *flags]


def two_processes(corpus: Path) -> list[str]:
    """The pipeline on two processes."""
    return pipeline(corpus, "--direct_num_workers=2", "--direct_running_mode=multi_processing")


def split_layout(corpus: Path) -> list[str]:
    """The pipeline with a shuffle between decoding and inference."""
    return pipeline(corpus, "--layout=split")


class Cost(NamedTuple):
    """What a command took: seconds of wall time, and of the processor in all its processes."""

    wall_sec: float
    cpu_sec: float


def cost_of(command: Sequence[str]) -> Cost:
    """Runs a command."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True)
    after = os.times()
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    cpu_sec = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(time.perf_counter() - start, cpu_sec)


def marginal_rate(command: Command, few: Path, many: Path) -> tuple[float, float]:
    """Images per second beyond start-up, of wall time and of processor time."""
    images = len(list(many.iterdir())) - len(list(few.iterdir()))
    more, less = cost_of(command(many)), cost_of(command(few))
    return images / (more.wall_sec - less.wall_sec), images / (more.cpu_sec - less.cpu_sec)


def measure(size: str, images: tuple[int, int], rounds: int, contenders: dict[str, Command]) -> None:
    """Prints each round's rates, and the medians of their ratios to the first contender."""
    width_px, height_px = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        few, many = (make_corpus(Path(folder) / str(n) / "images", n, width_px, height_px) for n in images)
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for n in range(rounds):
            for name, command in contenders.items():
                rates[name].append(marginal_rate(command, few, many))
            now = ", ".join(f"{k} {v[-1][0]:.1f}/s ({v[-1][1]:.1f} a CPU second)" for k, v in rates.items())
            print(f"{size} round {n + 1}: {now}", flush=True)
    base, *others = contenders
    for name in others:
        for n, clock in enumerate(("wall", "CPU")):
            ratios = [a[n] / b[n] for a, b in zip(rates[name], rates[base], strict=True)]
            print(
                f"{size} {name} / {base}, {clock}: median {statistics.median(ratios):.3f}"
                f" (min {min(ratios):.3f}, max {max(ratios):.3f}, {rounds} rounds)",
                flush=True,
            )


CONTENDERS: dict[str, Command] = {
    "hand loop": hand_loop,
    "pipeline": pipeline,
    "two processes": two_processes,
    "split layout": split_layout,
}


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1600x1200,500x375")
    parser.add_argument("--images", default="400,1600")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", default="hand loop,pipeline,two processes")
    args = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    few, many = map(int, args.images.split(","))
    contenders = {name: CONTENDERS[name] for name in args.contenders.split(",")}
    for size in args.sizes.split(","):
        measure(size, (few, many), args.rounds, contenders)


if __name__ == "__main__":
    main()
