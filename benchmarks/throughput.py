"""The pipeline against a loop written by hand, on the same images with the same functions.

python -m benchmarks.throughput [--sizes 1600x1200,500x375] [--images 400,1600] [--rounds 5]
    [--contenders "hand loop,pipeline,two processes"; also "split layout", "one core"]

First the labels of all are compared. Rates are marginal: from runs over fewer and
more images, each in a fresh process, so that start-up cancels out. Rounds are
interleaved; the figure is the median of the rounds' ratios to the first contender.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.corpus import make_corpus
from benchmarks.measure import Command, Run, compare, measure_rates, timed
from benchmarks.rivals.rows import agreement, new_output, read_best

MODEL = "efficientnet-lite0"
# Number of images whose labels are compared: one for each sample photo.
CHECKED_IMAGES = 57


class Bounds(NamedTuple):
    """Bounds of differences: smallest share of images of the same class, largest change of a best score."""

    same_classes: float
    same_score: float


SAME_FUNCTIONS = Bounds(1.0, 1e-3)


def hand_loop(corpus: Path) -> list[str]:
    """Return the command of the loop written by hand."""
    return [sys.executable, "-m", "benchmarks.hand_loop", str(corpus), str(new_output(corpus)), MODEL]


def pipeline(corpus: Path, *flags: str, model: str = MODEL) -> list[str]:
    """Return the command of the pipeline, as a user starts it."""
    options = ["--input", str(corpus), "--output", str(new_output(corpus)), "--model", model]
    return [sys.executable, "-m", "labelbeam", "run", *options, *flags]


def two_processes(corpus: Path) -> list[str]:
    """Return the command of the pipeline on two processes."""
    return pipeline(corpus, "--direct_num_workers=2", "--direct_running_mode=multi_processing")


def one_core(corpus: Path) -> list[str]:
    """Return the command of the pipeline on one core."""
    return ["taskset", "--cpu-list", "0", *pipeline(corpus)]


def split_layout(corpus: Path) -> list[str]:
    """Return the command of the pipeline with a shuffle between decoding and inference."""
    return pipeline(corpus, "--layout=split")


def compare_labels(size: str, runs: Mapping[str, Run], bounds: Mapping[str, Bounds] = {}) -> None:
    """Compare all labels with the first contender's; end the program where they differ too much.

    Args:
      size: Width and height of the photos.
      runs: The contenders.
      bounds: Bounds of contenders that do not use the same functions.
    """
    with tempfile.TemporaryDirectory() as folder:
        corpus = make_corpus(Path(folder) / "images", CHECKED_IMAGES, *map(int, size.split("x")))
        best = {}
        for name, run in runs.items():
            run(corpus)
            best[name] = read_best(corpus)
    base, *others = best
    for name in others:
        same, worst = agreement(best[base], best[name])
        seen = f"{same:.1%} of {len(best[name])} labels are those of {base}, scores within {worst:.1e}"
        print(f"{name}: {seen}", flush=True)
        allowed = bounds.get(name, SAME_FUNCTIONS)
        assert same >= allowed.same_classes and worst <= allowed.same_score, f"{name} does something else"


def measure(size: str, images: tuple[int, int], rounds: int, runs: dict[str, Run]) -> None:
    """Print each round's rates, and the medians of their ratios to the first contender."""
    width_px, height_px = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        few, many = (make_corpus(Path(folder) / str(n) / "images", n, width_px, height_px) for n in images)
        rates = measure_rates(size, few, many, rounds, runs)
    base, *others = runs
    for name in others:
        compare(f"{size} {name} / {base}", rates[name], rates[base])


CONTENDERS: dict[str, Command] = {
    "hand loop": hand_loop,
    "pipeline": pipeline,
    "two processes": two_processes,
    "split layout": split_layout,
    "one core": one_core,
}


def main() -> None:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1600x1200,500x375")
    parser.add_argument("--images", default="400,1600")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", default="hand loop,pipeline,two processes")
    args = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    few, many = map(int, args.images.split(","))
    runs = {name: timed(CONTENDERS[name]) for name in args.contenders.split(",")}
    for size in args.sizes.split(","):
        compare_labels(size, runs)
        measure(size, (few, many), args.rounds, runs)


if __name__ == "__main__":
    main()
