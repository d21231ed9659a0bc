"""The listing of a bucket: its time by the number of folders, and its memory by the number of objects.

python -m benchmarks.listing [--only speed|memory] [--rounds 3]

A server on loopback, in a process of its own, makes the pages. Listing is the step that reads a folder of
images, `split` and `read` of all pieces, in one process; a runner's shuffle of the rows is not part of it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping

from tests.engines.listing import serving

# Objects of the measurement of time, and the latency of a page.
OBJECTS, LATENCY_SEC = 200_000, 0.1
FEW, MANY = 200_000, 2_000_000
CODE = "from benchmarks import listing; listing.list_once({how!r})"


def list_once(how: str) -> None:
    """List the server's bucket; print the number of rows, the seconds, and the peak memory in MB."""
    # Imported here, because the process that compares needs none of it.
    from labelbeam.transforms.inputs.corpus import Corpus
    from labelbeam.transforms.read import list_rows
    from labelbeam.transforms.sources.gcs_listing import BucketLister

    start = time.perf_counter()
    if how == "pages":
        lister, token, rows = BucketLister("b"), "", 0
        while token or not rows:
            page = lister.page("photos/", token=token)
            token, rows = page.token, rows + len(page.objects)
    else:
        rows = sum(1 for _ in list_rows(Corpus("gs://b/photos/**", "images", suffixes=(".jpg",))))
    wall_sec = time.perf_counter() - start
    print(rows, wall_sec, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


def measure(environment: Mapping[str, str], how: str, objects: int) -> tuple[float, float]:
    """List in a fresh process; return the seconds and the peak memory in MB."""
    command = [sys.executable, "-c", CODE.format(how=how)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    rows, wall_sec, peak_mb = done.stdout.split()
    assert int(rows) == objects
    return float(wall_sec), float(peak_mb)


def compare_speed(rounds: int) -> None:
    """Compare one page at a time with the listing of one folder and of ten, with the same objects."""
    ratios: dict[str, list[float]] = {"one folder": [], "ten folders": []}
    for _ in range(rounds):
        with serving(1, OBJECTS, LATENCY_SEC) as environment:
            plain_sec, _ = measure(environment, "pages", OBJECTS)
            one_sec, _ = measure(environment, "rows", OBJECTS)
        with serving(10, OBJECTS // 10, LATENCY_SEC) as environment:
            ten_sec, _ = measure(environment, "rows", OBJECTS)
        ratios["one folder"].append(plain_sec / one_sec)
        ratios["ten folders"].append(plain_sec / ten_sec)
    for name, values in ratios.items():
        spread = f"{min(values):.2f}-{max(values):.2f}"
        print(f"{name} / page by page: {statistics.median(values):.2f} ({spread}) times as fast", flush=True)


def compare_memory() -> None:
    """Compare the peak memory of a listing of few objects and of many."""
    peaks = {}
    for objects in (FEW, MANY):
        with serving(10, objects // 10) as environment:
            _, peaks[objects] = measure(environment, "rows", objects)
        print(f"{objects:,} objects: the peak is {peaks[objects]:.0f} MB", flush=True)
    print(f"{MANY:,} / {FEW:,} objects: {peaks[MANY] / peaks[FEW]:.3f} of the memory")


def main() -> None:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["speed", "memory"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.only != "memory":
        compare_speed(options.rounds)
    if options.only != "speed":
        compare_memory()


if __name__ == "__main__":
    main()
