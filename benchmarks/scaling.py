"""Time an image and a worker's memory as the corpus grows, and start-up.

python -m benchmarks.scaling [--images 1000,10000,100000] [--rounds 3]

The images are small JPEGs under many ids, the model does next to nothing, so that what
the pipeline itself takes shows. Time an image is marginal: from two runs of which one has
twice the images, so that start-up cancels out. Start-up is what a run of one image takes
beyond a process that imports Beam and TensorFlow and loads the model.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import cost_of

_LOAD = """
import sys
import apache_beam, google.cloud.storage, pyarrow.parquet
from transforms.models.runtime import configure_tensorflow
configure_tensorflow(2, 2)
from transforms.models.classifier import Classifier
from transforms.models.spec import ModelOptions, resolve_spec
Classifier(resolve_spec(ModelOptions(sys.argv[1])), top_k=5, batch_size=64)
"""


def prepare(folder: Path, images: int) -> list[str]:
    """Makes a corpus; gives the command that labels it."""
    make = [sys.executable, "-m", "benchmarks.published", str(folder), str(images), "1"]
    subprocess.run(make, check=True, capture_output=True)
    paths = {"input": folder / "all.csv", "model": folder / "model"}
    command = [sys.executable, "-m", "pipeline", "run", "--id_column=key"]
    return command + [f"--{name}={path}" for name, path in paths.items()]


def usec_an_image(folder: Path, images: int, rounds: int) -> tuple[float, float]:
    """Marginal microseconds an image, of wall time and of the processor: medians."""
    commands = [prepare(folder / str(n), n) for n in (images, 2 * images)]
    seen = []
    for n in range(rounds):
        few, many = (
            cost_of([*command, f"--output={folder}/out-{n}-{m}"]) for m, command in enumerate(commands)
        )
        seen.append(((many.wall_sec - few.wall_sec) / images, (many.cpu_sec - few.cpu_sec) / images))
    wall, cpu = (1e6 * statistics.median(column) for column in zip(*seen, strict=True))
    return wall, cpu


def start_up_sec(folder: Path, rounds: int) -> float:
    """Seconds a run of one image takes beyond imports and loading the model: median."""
    command = prepare(folder, 2)
    seen = []
    for n in range(rounds):
        run = cost_of([*command, f"--output={folder}/out-{n}"])
        load = cost_of([sys.executable, "-c", _LOAD, str(folder / "model")])
        seen.append(run.wall_sec - load.wall_sec)
    return statistics.median(seen)


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="1000,10000,100000")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = start_up_sec(Path(folder) / "start", args.rounds)
        print(f"start-up beyond imports and loading the model: {seconds:.2f} s", flush=True)
        for images in map(int, args.images.split(",")):
            wall, cpu = usec_an_image(Path(folder), images, args.rounds)
            print(f"{images:,} images: {wall:.0f} us an image, {cpu:.0f} of the processor", flush=True)


if __name__ == "__main__":
    main()
