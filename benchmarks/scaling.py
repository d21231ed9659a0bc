"""Time per image as the corpus grows, and start-up time.

python -m benchmarks.scaling [--images 1000,10000,100000] [--rounds 5]

The images are tiny JPEGs under many ids, the model does next to nothing, so that what the
pipeline itself takes shows. A round is a process that runs the pipeline over each corpus,
over small ones several times, and over two images for what a run takes apart from its
images. Start-up is what a command with two images takes beyond a process that
imports what the command does and loads the model.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.measure import Cost, compare, cost_of
from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.launch import run

# Images per round and corpus, images of the start-up corpus, and runs over the start-up corpus per round.
_IMAGES_A_ROUND, _FEW, _RUNS_OF_FEW = 10_000, 2, 10

_LOAD = """
import sys
import labelbeam.pipeline.launch
from labelbeam.transforms.models.devices import choose_batch_size
from labelbeam.transforms.models.runtime import configure_tensorflow
configure_tensorflow(2, 2)
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.spec import ModelOptions
from tests.specs import resolve_spec
spec = resolve_spec(ModelOptions(sys.argv[1]))
Classifier(spec, top_k=5, batch_size=choose_batch_size(None, spec.resize.size_px, on_gpu=False))
"""


def prepare(folder: Path, images: int) -> dict[str, str]:
    """Make a corpus; return the options that name it."""
    make = [sys.executable, "-m", "benchmarks.published", str(folder), str(images), "1"]
    subprocess.run(make, check=True, capture_output=True)
    return {"input": f"{folder}/all.csv", "model": f"{folder}/model", "id_column": "key"}


def sec_a_run(options: Mapping[str, str], runs: int) -> Cost:
    """Return the mean time of several runs in this process."""
    start = Cost(time.perf_counter(), time.process_time())
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as output:
            run(load_config(None, {**options, "output": output}))
    now = Cost(time.perf_counter(), time.process_time())
    return Cost(*((after - before) / runs for after, before in zip(now, start, strict=True)))


def usec_an_image(few: Mapping[str, str], corpora: Mapping[int, Mapping[str, str]]) -> dict[int, Cost]:
    """Return the microseconds per image of each corpus, without the time of a run over hardly any images."""
    sec_a_run(few, 1)  # imports, and fills caches
    without = sec_a_run(few, _RUNS_OF_FEW)
    costs = {}
    for images, options in corpora.items():
        cost = sec_a_run(options, max(1, _IMAGES_A_ROUND // images))
        costs[images] = Cost(*(1e6 * (a - b) / (images - _FEW) for a, b in zip(cost, without, strict=True)))
    return costs


def start_up_sec(few: Mapping[str, str], folder: Path) -> float:
    """Return the seconds of a command over hardly any images, without imports and loading the model."""
    flags = [f"--{name}={value}" for name, value in few.items()]
    command = [sys.executable, "-m", "labelbeam", "run", *flags, f"--output={tempfile.mkdtemp(dir=folder)}"]
    return cost_of(command).wall_sec - cost_of([sys.executable, "-c", _LOAD, few["model"]]).wall_sec


def main() -> None:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="1000,10000,100000")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sizes = [int(size) for size in args.images.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        few = prepare(folder / "few", _FEW)
        starts = [start_up_sec(few, folder) for _ in range(args.rounds)]
        each = ", ".join(f"{sec:.2f}" for sec in starts)
        print(
            f"start-up beyond imports and model load: {statistics.median(starts):.2f} s, median of {each}",
            flush=True,
        )
        corpora = {size: prepare(folder / str(size), size) for size in sizes}
        rounds = []
        for n in range(args.rounds):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                rounds.append(process.submit(usec_an_image, few, corpora).result())
            costs = rounds[-1].items()
            now = ", ".join(
                f"{images:,}: {wall:.0f} ({cpu:.0f} of the processor)" for images, (wall, cpu) in costs
            )
            print(f"round {n + 1}: microseconds an image {now}", flush=True)
    for size in sizes[1:]:
        title = f"time an image, {size:,} / {sizes[0]:,} images"
        compare(title, [seen[size] for seen in rounds], [seen[sizes[0]] for seen in rounds])


if __name__ == "__main__":
    main()
