"""The pipeline against what else one would label images with: the same network, each in its best setting.

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
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.corpus import make_corpus
from benchmarks.measure import CLOCKS, Cost, Rate, Run, compare, cost_of, measure_rates
from benchmarks.rivals.environments import python_of
from benchmarks.rivals.rows import agreement, output_of, read_best
from benchmarks.throughput import CHECKED_IMAGES, MODEL, SAME_SCORE, pipeline
from transforms.models.efficientnet_lite import ensure_lite0_saved_model
from transforms.models.store import cache_folder

ROOT = Path(__file__).parents[2]
OURS = "labelbeam"
# Labels that must be the pipeline's where a rival prepares images in its own way.
SAME_CLASSES = 0.9


class Rival(NamedTuple):
    """What is known of a rival.

    Attributes:
      module: What is run.
      model: The model as it takes it: by name, as a SavedModel or as a Keras file.
      own_way: Whether it prepares images in its own way, so that its labels differ now and then.
      environment: Whose requirements it has, if not the pipeline's.
      clocks: What can be measured of it.
      args: What else it is told.
    """

    module: str
    model: str
    own_way: bool = False
    environment: str | None = None
    clocks: tuple[str, ...] = CLOCKS
    args: tuple[str, ...] = ()


RIVALS = {
    "runinference_documented": Rival("runinference_documented", "keras", own_way=True),
    "runinference_expert": Rival("runinference_expert", "name", args=("in_memory",)),
    "runinference_expert_threads": Rival("runinference_expert", "name", args=("multi_threading",)),
    "runinference_expert_processes": Rival("runinference_expert", "name", args=("multi_processing",)),
    "tf_data": Rival("tf_data", "saved_model", own_way=True),
    # Ray's daemons leave its process, which is not charged for what they use.
    "ray_data": Rival("ray_data", "saved_model", own_way=True, environment="ray", clocks=("wall",)),
    "daft_loop": Rival("daft_loop", "name", environment="daft", args=("threads",)),
    "daft_loop_processes": Rival("daft_loop", "name", environment="daft", args=("processes",)),
}


def prepare_models(folder: Path) -> dict[str, str]:
    """The model in each of its forms."""
    saved_model = ensure_lite0_saved_model(cache_folder())
    keras_file = folder / f"{saved_model.name}.keras"
    if not keras_file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        cost_of([sys.executable, "-m", "benchmarks.rivals.keras_model", str(saved_model), str(keras_file)])
    return {"name": MODEL, "saved_model": str(saved_model), "keras": str(keras_file)}


def run_of_rival(rival: Rival, model: str, environments: Path) -> Run:
    """Runs a rival on a corpus and checks that it labels each image."""
    python = python_of(environments, rival.environment) if rival.environment else sys.executable

    def run(corpus: Path) -> Cost:
        output = output_of(corpus)
        shutil.rmtree(output, ignore_errors=True)
        module = f"benchmarks.rivals.{rival.module}"
        cost = cost_of([python, "-m", module, str(corpus), str(output), model, *rival.args])
        read_best(corpus)
        return cost

    return run


def run_ours(corpus: Path) -> Cost:
    """Runs the pipeline as a user starts it, and checks the same."""
    cost = cost_of(pipeline(corpus))
    read_best(corpus)
    return cost


def compare_outputs(corpus: Path, names: list[str], runs: dict[str, Run]) -> None:
    """Compares the labels of each rival with the pipeline's; ends the program where they differ too much."""
    run_ours(corpus)
    ours = read_best(corpus)
    for name in names:
        runs[name](corpus)
        same, worst = agreement(ours, read_best(corpus))
        print(
            f"{name}: {same:.1%} of {len(ours)} labels are the pipeline's, scores within {worst:.1e}",
            flush=True,
        )
        if RIVALS[name].own_way:
            assert same >= SAME_CLASSES, f"{name} labels other images, or prepares them wrongly"
        else:
            assert same == 1 and worst <= SAME_SCORE, f"{name} does something else"


def measure_marginal(folder: Path, args: argparse.Namespace, names: list[str], runs: dict[str, Run]) -> None:
    """Compares rates beyond start-up."""
    few, many = (corpus_of(folder, int(n), args.size) for n in args.images.split(","))
    rates = measure_rates(args.size, few, many, args.rounds, runs)
    for name in names:
        compare(f"{args.size} {OURS} / {name}", rates[OURS], rates[name], RIVALS[name].clocks)


def measure_whole_jobs(
    folder: Path, args: argparse.Namespace, names: list[str], runs: dict[str, Run]
) -> None:
    """Compares the rates of whole jobs."""
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
    """A corpus with a folder of its own around it."""
    return make_corpus(folder / str(images) / "images", images, *map(int, size.split("x")))


def main() -> None:
    """Measures what the command line asks for."""
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
        compare_outputs(corpus_of(Path(folder) / "check", CHECKED_IMAGES, args.size), names, runs)
        measure = measure_whole_jobs if args.whole_job else measure_marginal
        measure(Path(folder), args, names, runs)


if __name__ == "__main__":
    main()
