"""The pipeline against other tools that label images: the same network, each in its best setting.

python -m benchmarks.rivals [--size 1600x1200] [--images 400,1600] [--rounds 5] [--only NAME,...]
                            [--environments build/rivals]
python -m benchmarks.rivals --whole_job 2000 [--rounds 5] [--only NAME,...]

First the labels of all are compared, image by image. Rates are marginal: from runs over fewer and more
images, each in a fresh process, so that start-up cancels out; the rate of a whole job has it in. Rounds are
interleaved; figures are medians of the rounds' ratios. Rivals with requirements of their own run in
environments of their own, which are made where they are missing.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.corpus import make_corpus
from benchmarks.measure import CLOCKS, Cost, Rate, Run, compare, cost_of, measure_rates
from benchmarks.rivals.environments import python_of
from benchmarks.rivals.rows import new_output, read_best
from benchmarks.throughput import MODEL, SAME_FUNCTIONS, Bounds, compare_labels, pipeline
from labelbeam.transforms.models.cache import cache_folder
from labelbeam.transforms.models.efficientnet_lite import ensure_lite0_saved_model

ROOT = Path(__file__).parents[2]
OURS = "labelbeam"
# Bounds for rivals that prepare images in their own way, because their pixels differ from ours.
OWN_WAY = Bounds(same_classes=0.9, same_score=math.inf)


class Rival(NamedTuple):
    """A rival and the way to run it.

    Attributes:
      module: Module to run.
      model: Form of the model: by name, as a SavedModel or as a Keras file.
      bounds: Largest difference of its labels from the pipeline's.
      environment: Name of its own environment; None stands for the pipeline's.
      clocks: Clocks that measure it correctly.
      args: Further arguments.
    """

    module: str
    model: str
    bounds: Bounds = SAME_FUNCTIONS
    environment: str | None = None
    clocks: tuple[str, ...] = CLOCKS
    args: tuple[str, ...] = ()


RIVALS = {
    "runinference_documented": Rival("runinference_documented", "keras", OWN_WAY),
    "runinference_expert": Rival("runinference_expert", "name", args=("in_memory",)),
    "runinference_expert_threads": Rival("runinference_expert", "name", args=("multi_threading",)),
    "runinference_expert_processes": Rival("runinference_expert", "name", args=("multi_processing",)),
    "tf_data": Rival("tf_data", "saved_model", OWN_WAY),
    # No CPU clock, because Ray's daemons are no children of the process, so that their time is not counted.
    "ray_data": Rival("ray_data", "saved_model", OWN_WAY, environment="ray", clocks=("wall",)),
    "daft_loop": Rival("daft_loop", "name", environment="daft", args=("threads",)),
    "daft_loop_processes": Rival("daft_loop", "name", environment="daft", args=("processes",)),
}


def prepare_models(folder: Path) -> dict[str, str]:
    """Return the model in each of its forms."""
    saved_model = ensure_lite0_saved_model(cache_folder())
    keras_file = folder / f"{saved_model.name}.keras"
    if not keras_file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        cost_of([sys.executable, "-m", "benchmarks.rivals.keras_model", str(saved_model), str(keras_file)])
    return {"name": MODEL, "saved_model": str(saved_model), "keras": str(keras_file)}


def run_of_rival(rival: Rival, model: str, environments: Path) -> Run:
    """Run a rival on a corpus and check that it labels each image."""
    python = python_of(environments, rival.environment) if rival.environment else sys.executable

    def run(corpus: Path) -> Cost:
        module = f"benchmarks.rivals.{rival.module}"
        cost = cost_of([python, "-m", module, str(corpus), str(new_output(corpus)), model, *rival.args])
        read_best(corpus)
        return cost

    return run


def run_ours(corpus: Path) -> Cost:
    """Run the pipeline as a user starts it, and check the same."""
    cost = cost_of(pipeline(corpus))
    read_best(corpus)
    return cost


def measure_marginal(folder: Path, args: argparse.Namespace, names: list[str], runs: dict[str, Run]) -> None:
    """Compare rates beyond start-up."""
    few, many = (corpus_of(folder, int(n), args.size) for n in args.images.split(","))
    rates = measure_rates(args.size, few, many, args.rounds, runs)
    for name in names:
        compare(f"{args.size} {OURS} / {name}", rates[OURS], rates[name], RIVALS[name].clocks)


def measure_whole_jobs(
    folder: Path, args: argparse.Namespace, names: list[str], runs: dict[str, Run]
) -> None:
    """Compare the rates of whole jobs."""
    corpus = corpus_of(folder, args.whole_job, args.size)
    rates: dict[str, list[Rate]] = {name: [] for name in runs}
    for n in range(args.rounds):
        costs = {name: run(corpus) for name, run in runs.items()}
        for name, cost in costs.items():
            rates[name].append(Rate(args.whole_job / cost.wall_sec, args.whole_job / cost.cpu_sec))
        now = ", ".join(f"{k} {v.wall_sec:.1f} s ({v.cpu_sec:.1f} CPU)" for k, v in costs.items())
        print(f"{args.size} {args.whole_job:,} images, round {n + 1}: {now}", flush=True)
    for name in names:
        title = f"{args.size} {args.whole_job:,} images, start-up included, {OURS} / {name}"
        compare(title, rates[OURS], rates[name], RIVALS[name].clocks)


def corpus_of(folder: Path, images: int, size: str) -> Path:
    """Return a corpus with a folder of its own around it."""
    return make_corpus(folder / str(images) / "images", images, *map(int, size.split("x")))


def main() -> None:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1600x1200")
    parser.add_argument("--images", default="400,1600")
    parser.add_argument("--whole_job", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only")
    parser.add_argument("--environments", type=Path, default=ROOT / "build" / "rivals")
    args = parser.parse_args()
    names = (args.only or ("daft_loop,daft_loop_processes" if args.whole_job else ",".join(RIVALS))).split(
        ","
    )
    if unknown := set(names) - RIVALS.keys():
        parser.error(f"unknown: {', '.join(unknown)}; rivals are {', '.join(RIVALS)}")
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    os.environ |= {"DO_NOT_TRACK": "true", "RAY_USAGE_STATS_ENABLED": "0"}
    models = prepare_models(args.environments)
    runs: dict[str, Run] = {OURS: run_ours}
    for name in names:
        runs[name] = run_of_rival(RIVALS[name], models[RIVALS[name].model], args.environments)
    with tempfile.TemporaryDirectory() as folder:
        compare_labels(args.size, runs, {name: RIVALS[name].bounds for name in names})
        measure = measure_whole_jobs if args.whole_job else measure_marginal
        measure(Path(folder), args, names, runs)


if __name__ == "__main__":
    main()
