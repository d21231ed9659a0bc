"""A worker's memory as the corpus grows: the peaks of two worker processes over fewer and more images.

python -m benchmarks.memory [--images 20000,100000]

The images are one tiny file under many ids, the model does next to nothing, and rows are staged
every 1,000, so that whatever a worker keeps of what it has done shows.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

FLAGS = ("--direct_num_workers=2", "--direct_running_mode=multi_processing", "--stage_rows=1000")


def peak_mb(folder: Path, images: int) -> float:
    """Run the pipeline over `images` ids; return the peak memory of its largest worker."""
    make = [sys.executable, "-m", "benchmarks.published", str(folder), str(images), "1"]
    subprocess.run(make, check=True, capture_output=True)
    paths = {"input": folder / "all.csv", "output": folder / "out", "model": folder / "model"}
    command = [sys.executable, "-m", "labelbeam", "run", "--id_column=key", *FLAGS]
    process = subprocess.Popen(
        command + [f"--{name}={path}" for name, path in paths.items()], stdout=subprocess.DEVNULL
    )
    peak = 0.0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            workers = psutil.Process(process.pid).children(recursive=True)
            peak = max([peak, *(worker.memory_info().rss / 1e6 for worker in workers)])
        time.sleep(0.1)
    assert process.returncode == 0
    return peak


def main() -> None:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", default="20000,100000")
    few, many = map(int, parser.parse_args().images.split(","))
    peaks = {}
    for images in (few, many):
        with tempfile.TemporaryDirectory() as folder:
            peaks[images] = peak_mb(Path(folder), images)
        print(f"{images:,} images: a worker's peak is {peaks[images]:.0f} MB", flush=True)
    print(f"{many:,} / {few:,} images: {peaks[many] / peaks[few]:.3f} of the memory")


if __name__ == "__main__":
    main()
