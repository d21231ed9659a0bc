"""The cost of resuming: a run over ids that are mostly done, against Beam's own join of the same ids.

python -m benchmarks.resume [--ids 1000000] [--done 900000] [--rounds 3]
python -m benchmarks.resume check OUTPUT IDS

The contenders: a run over all ids into a folder where most of them are published,
a run over the others alone into an empty folder, and a Beam program that only
reads both lists of ids and joins them. Each is a fresh process; rounds are
interleaved, and figures are medians of the rounds' ratios.
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
from pathlib import Path
from typing import NamedTuple

# Nothing large is imported here, because Linux counts the memory of the process that
# starts another one as the new process's own, if it is more.

TARGET_SEC, TARGET_MEMORY = 1.5, 1.25


class Cost(NamedTuple):
    """Cost of a process: seconds of wall time, and peak of its memory."""

    wall_sec: float
    peak_mb: float


def cost_of(module: str, *args: object) -> Cost:
    """Run a module and return its cost."""
    command = [sys.executable, "-m", module, *map(str, args)]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{output.read()}")
    return Cost(time.perf_counter() - start, usage.ru_maxrss / 1024)


def label(folder: Path, ids: str, output: str) -> Cost:
    """Run the pipeline, as a user starts it."""
    paths = {"input": folder / f"{ids}.csv", "output": folder / output, "model": folder / "model"}
    return cost_of("pipeline", "run", "--id_column=key", *(f"--{k}={v}" for k, v in paths.items()))


def measure(folder: Path, ids: int) -> dict[str, Cost]:
    """Run one round and return the cost of each contender."""
    for output in ("resumed", "empty"):
        shutil.rmtree(folder / output, ignore_errors=True)
    shutil.copytree(folder / "published", folder / "resumed")
    costs = {
        "resumed": label(folder, "all", "resumed"),
        "rest alone": label(folder, "missing", "empty"),
        "join": cost_of("benchmarks.beam_join", folder / "all.txt", folder / "done.txt"),
    }
    cost_of("benchmarks.resume", "check", folder / "resumed", ids)
    return costs


def check(output: str, ids: str) -> None:
    """Check that a published table has each id exactly once."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    column = ds.dataset(f"{output}/predictions", format="parquet").to_table(["id"])["id"]
    sizes = (len(column), pc.count_distinct(column).as_py())
    assert sizes == (int(ids), int(ids)), f"{sizes[0]} rows of {sizes[1]} ids, not of {ids}"


def report(rounds: list[dict[str, Cost]]) -> None:
    """Print the ratios."""
    seconds = [(r["resumed"].wall_sec - r["rest alone"].wall_sec) / r["join"].wall_sec for r in rounds]
    memory = [r["resumed"].peak_mb / r["join"].peak_mb for r in rounds]
    for name, ratios, target in (
        ("(resumed - rest alone) / join, wall", seconds, TARGET_SEC),
        ("resumed / join, peak memory", memory, TARGET_MEMORY),
    ):
        print(
            f"{name}: median {statistics.median(ratios):.3f}, target <= {target}"
            f" (min {min(ratios):.3f}, max {max(ratios):.3f}, {len(rounds)} rounds)"
        )


def main() -> None:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=1_000_000)
    parser.add_argument("--done", type=int, default=900_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    rounds: list[dict[str, Cost]] = []
    with tempfile.TemporaryDirectory() as folder:
        cost_of("benchmarks.published", folder, args.ids, args.done)
        print(f"{args.done:,} of {args.ids:,} ids are published", flush=True)
        for n in range(args.rounds):
            rounds.append(measure(Path(folder), args.ids))
            now = ", ".join(f"{k} {v.wall_sec:.1f} s {v.peak_mb:.0f} MB" for k, v in rounds[-1].items())
            print(f"round {n + 1}: {now}", flush=True)
    report(rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        check(*sys.argv[2:])
    else:
        main()
