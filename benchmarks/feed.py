"""The rate at which a worker process feeds its model, and what feeding costs that process.

python -m benchmarks.feed [--only tiny,accelerator,photos] [--rounds 5] [--images N] [--loaders ""]
                          [--environments build/rivals]

tiny         JPEGs of 96 px, a model that does nothing: from gs:// against local files, and the processor
             time of an image in the process with the model.
accelerator  JPEGs of 96 px, a model that sleeps as long as an accelerator of 1,500 images per second would
             take: the share of time in which the model waits.
photos       JPEGs of 500x375 over HTTP and from gs://, a model that does nothing, against Daft and Ray Data.

Each also with `--loaders 0`, which loads on threads. Images come from an object server on loopback, in a
process of its own. Every run is a fresh process, rounds are interleaved, figures are medians of the rounds
with the smallest and the largest; they count from the end of the model's first call, so that start-up cancels
out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow.dataset as ds

from benchmarks.clock import Feed, read_feed
from benchmarks.corpus import make_corpus
from benchmarks.measure import cost_of
from benchmarks.object_server import serving
from benchmarks.rivals.environments import python_of

ROOT = Path(__file__).parents[1]
RATE = 1500
RIVALS = ("daft_feed", "ray_feed")
# As beside a GPU, because a call of TensorFlow costs 0.6 ms, which small batches would count as feeding.
_LARGE_BATCHES = ("--batch_size=64",)


class Benchmark(NamedTuple):
    """A corpus and the contenders on it.

    Attributes:
      size: Width and height of the images, px.
      images: Number of images.
      sources: Sources of the images.
      rate: Images per second that the model takes; 0 for a model that does nothing.
      rivals: What else is measured.
      flags: Options of the command.
    """

    size: tuple[int, int]
    images: int
    sources: tuple[str, ...]
    rate: int = 0
    rivals: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


BENCHMARKS = {
    "tiny": Benchmark((96, 96), 20_000, ("local", "gs"), flags=_LARGE_BATCHES),
    "accelerator": Benchmark((96, 96), 20_000, ("http", "gs"), RATE),
    "photos": Benchmark((500, 375), 6000, ("http", "gs"), rivals=RIVALS, flags=_LARGE_BATCHES),
}


def write_lists(folder: Path, corpus: Path, address: str) -> dict[str, Path]:
    """Write a list of the corpus's URIs for each source."""
    bases = {"local": corpus.as_uri(), "http": address, "gs": "gs://photos"}
    names = sorted(path.name for path in corpus.iterdir())
    lists = {source: folder / f"{source}.txt" for source in bases}
    for source, file in lists.items():
        file.write_text("".join(f"{bases[source]}/{name}\n" for name in names), "utf-8")
    return lists


def contenders(
    benchmark: Benchmark,
    lists: Mapping[str, Path],
    model: str,
    loaders: Sequence[str],
    feed: Path,
    python: str,
) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each contender and its command."""
    images = str(benchmark.images)
    for number in loaders:
        for source in benchmark.sources:
            options = [f"--input={lists[source]}", f"--output={feed.parent}/output", f"--model={model}"]
            options += [
                "--allow_hosts=127.0.0.1",
                *benchmark.flags,
                *([f"--loaders={number}"] if number else []),
            ]
            run = [sys.executable, "-m", "benchmarks.accelerator", str(benchmark.rate), images, str(feed)]
            yield f"{source}{number and f', loaders {number}'}", [*run, "run", *options]
    for name in benchmark.rivals:
        yield name, [python, "-m", f"benchmarks.rivals.{name}", str(lists["http"]), images, str(feed)]


def measure(folder: Path, name: str, benchmark: Benchmark, args: argparse.Namespace) -> dict[str, list[Feed]]:
    """Run all contenders in turn, and print each round."""
    python = python_of(args.environments, "feed") if benchmark.rivals else ""
    # In a process of its own, because TensorFlow would otherwise take this one's memory.
    save = f"from benchmarks import ceilings; ceilings.save_null_model({str(folder / 'model')!r})"
    cost_of([sys.executable, "-c", save])
    corpus, feed = make_corpus(folder / "images", benchmark.images, *benchmark.size), folder / "feed.json"
    feeds: dict[str, list[Feed]] = {}
    with serving(corpus) as address:
        os.environ["STORAGE_EMULATOR_HOST"] = address
        lists = write_lists(folder, corpus, address)
        for n in range(args.rounds):
            commands = contenders(
                benchmark, lists, str(folder / "model"), args.loaders.split(","), feed, python
            )
            for who, command in commands:
                feed.unlink(missing_ok=True)
                shutil.rmtree(folder / "output", ignore_errors=True)
                cost = cost_of(command)
                if not feed.is_file():
                    failures = ds.dataset(folder / "output" / "failures", format="parquet").to_table()
                    sys.exit(f"{who}: images have failed: {failures.num_rows}, {failures[:2].to_pylist()}")
                feeds.setdefault(who, []).append(read_feed(feed))
                rate = f"{feeds[who][-1].images_per_sec:.0f}/s"
                # With the load, because a busy machine makes figures worthless.
                job = f"whole job {cost.wall_sec:.1f} s, load of the machine {os.getloadavg()[0]:.1f}"
                print(f"{name} round {n + 1}: {who}: {rate}, {job}", flush=True)
    return feeds


def report(name: str, benchmark: Benchmark, feeds: Mapping[str, Sequence[Feed]]) -> None:
    """Print medians and ratios."""
    print(f"{name:28}{'images/s':>20}{'model waits, %':>20}{'model process ms':>20}{'loaders ms':>20}")
    for who, rows in feeds.items():
        columns = [[row.images_per_sec for row in rows], [100 * row.waiting for row in rows]]
        columns += [[row.model_ms for row in rows], [row.loader_ms for row in rows]]
        cells = map(_spread, columns, (0, 1, 3, 3))
        print(f"{who:28}{''.join(f'{cell:>20}' for cell in cells)}")
    if name == "tiny":
        _compare("gs", "local", feeds)
    for rival in benchmark.rivals:
        for source in benchmark.sources:
            _compare(source, rival, feeds)


def _compare(above: str, below: str, feeds: Mapping[str, Sequence[Feed]]) -> None:
    ratios = [a.images_per_sec / b.images_per_sec for a, b in zip(feeds[above], feeds[below], strict=True)]
    print(f"{above} / {below}: {_spread(ratios, 2)}")


def _spread(values: Sequence[float], digits: int) -> str:
    least, median, most = min(values), statistics.median(values), max(values)
    return f"{median:.{digits}f} ({least:.{digits}f}-{most:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int)
    parser.add_argument("--loaders", default=",0", help="values of --loaders; an empty one is its default")
    parser.add_argument("--environments", type=Path, default=ROOT / "build" / "rivals")
    args = parser.parse_args()
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    os.environ |= {"DO_NOT_TRACK": "true", "RAY_USAGE_STATS_ENABLED": "0"}
    for name in args.only.split(","):
        benchmark = BENCHMARKS[name]
        benchmark = benchmark._replace(images=args.images or benchmark.images)
        with tempfile.TemporaryDirectory() as folder:
            report(name, benchmark, measure(Path(folder), name, benchmark, args))


if __name__ == "__main__":
    main()
