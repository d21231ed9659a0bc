"""Comparison of commands: rounds in turn, fresh processes, medians of the rounds' ratios."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

CLOCKS = ("wall", "CPU")

# Returns the command that labels a corpus.
Command = Callable[[Path], list[str]]


class Cost(NamedTuple):
    """Cost of a command: seconds of wall time, and of processor time in all its processes."""

    wall_sec: float
    cpu_sec: float


class Rate(NamedTuple):
    """Images per second, of wall time and of processor time."""

    wall: float
    cpu: float


# Labels a corpus and returns the cost.
Run = Callable[[Path], Cost]


def cost_of(command: Sequence[str]) -> Cost:
    """Run a command and return its cost."""
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True)
    wall_sec, after = time.perf_counter() - start, os.times()
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    cpu_sec = after.children_user + after.children_system - before.children_user - before.children_system
    return Cost(wall_sec, cpu_sec)


def timed(command: Command) -> Run:
    """Return a function that runs a command on a corpus and returns its cost."""
    return lambda corpus: cost_of(command(corpus))


def marginal_rate(run: Run, few: Path, many: Path) -> Rate:
    """Return the images per second without start-up, from runs over fewer and more images."""
    images = len(list(many.iterdir())) - len(list(few.iterdir()))
    more, less = run(many), run(few)
    return Rate(images / (more.wall_sec - less.wall_sec), images / (more.cpu_sec - less.cpu_sec))


def measure_rates(
    title: str, few: Path, many: Path, rounds: int, runs: Mapping[str, Run]
) -> dict[str, list[Rate]]:
    """Measure the runs in turn and print each round's rates."""
    rates: dict[str, list[Rate]] = {name: [] for name in runs}
    for n in range(rounds):
        for name, run in runs.items():
            rates[name].append(marginal_rate(run, few, many))
        now = ", ".join(f"{k} {v[-1].wall:.1f}/s ({v[-1].cpu:.1f} a CPU second)" for k, v in rates.items())
        print(f"{title} round {n + 1}: {now}", flush=True)
    return rates


def compare(
    title: str, above: Sequence[Rate | Cost], below: Sequence[Rate | Cost], clocks: Sequence[str] = CLOCKS
) -> None:
    """Print the medians of the rounds' ratios."""
    for clock in clocks:
        n = CLOCKS.index(clock)
        ratios = [a[n] / b[n] for a, b in zip(above, below, strict=True)]
        print(
            f"{title}, {clock}: median {statistics.median(ratios):.3f}"
            f" (min {min(ratios):.3f}, max {max(ratios):.3f}, {len(ratios)} rounds)",
            flush=True,
        )
