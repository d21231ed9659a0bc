"""Loading from hosts that are slow, dead, far away, or allow few requests.

python -m benchmarks.manners [--only latency,neighbours,ration,memory] [--rounds 3]

latency     photos of 500x375 px of a server that responds after 50 ms: images per second against what
            `host_connections` allow.
neighbours  images of a healthy host (50 ms) alone, and in turn with as many of a host that responds after
            10 s and of one that never responds: the healthy host's rate.
ration      400 images of a server that allows 15 per second: requests an image, and the time against the
            least possible one.
memory      50,000 images: memory of all processes after 10,000 and at the end.

Images go through the window and the loaders that the pipeline uses, without Beam and a model. Servers run on
loopback, in processes of their own; figures are medians of the rounds, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from benchmarks.corpus import make_corpus
from benchmarks.object_server import serving
from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.images.memory import tune_malloc
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.loaders.image import Loaded, Loading
from labelbeam.transforms.loaders.loaders import start_loaders
from labelbeam.transforms.sources import Limits, Manners
from labelbeam.transforms.window import Window

LATENCY_SEC, SLOW_SEC = 0.05, 10.0
_LIMITS = Limits(allow_hosts=("127.0.0.1",))


def load(uris: Iterator[str] | Sequence[str]) -> Iterator[Loaded]:
    """Load images as a bundle does, and yield them as they finish."""
    loaders = start_loaders(Loading(_LIMITS, ResizeRule(224), 100_000_000))
    window = Window[Loaded](4 * _LIMITS.connections, 256 << 20)
    loaders.watch(window)
    for n, uri in enumerate(uris):
        yield from window.add(loaders.submit(ImageRef(str(n), uri)), 150_528, loaders.is_hungry)
    yield from window.drain()


def names(folder: Path) -> list[str]:
    """Return the names of a corpus's files."""
    return sorted(path.name for path in folder.iterdir())


def measure_latency(folder: Path) -> float:
    """Return the rate as a share of what the connections allow."""
    with serving(folder, LATENCY_SEC) as address:
        times = [time.monotonic() for _ in load([f"{address}/{name}" for name in names(folder)] * 3)]
    # From the first image on, because start-up is no latency.
    rate = (len(times) - 1) / (times[-1] - times[0])
    return rate / (Manners().host_connections / LATENCY_SEC)


def measure_neighbours(folder: Path) -> float:
    """Return the healthy host's rate beside a slow and a dead one, as a share of its rate alone."""

    def rate(addresses: Sequence[str]) -> float:
        uris = [f"{address}/{name}" for name in names(folder) for address in addresses]
        times = []
        for loaded in load(uris):
            if loaded.value.ref.uri.startswith(addresses[0]) and loaded.size_bytes:
                times.append(time.monotonic())
            if len(times) == len(names(folder)):
                break
        return (len(times) - 1) / (times[-1] - times[0])

    with (
        serving(folder, LATENCY_SEC) as healthy,
        serving(folder, SLOW_SEC) as slow,
        serving(folder, float("inf")) as dead,
    ):
        alone = rate([healthy])
        return rate([healthy, slow, dead]) / alone


def measure_ration(folder: Path) -> float:
    """Return the time as a multiple of the least possible one."""
    rate, images = 15, 400
    with serving(folder, 0.0, rate) as address:
        start = time.monotonic()
        outcomes = list(load([f"{address}/{name}" for name in names(folder)[:images]]))
    assert all(one.size_bytes for one in outcomes), Counter(type(one.value) for one in outcomes)
    return (time.monotonic() - start) / (images / rate)


def measure_memory(folder: Path) -> float:
    """Return the memory at the end as a multiple of that after a fifth of the images."""

    def memory() -> int:
        process = psutil.Process()
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))

    seen = []
    with serving(folder) as address:
        uris = (f"{address}/{name}" for _ in range(50) for name in names(folder))
        for n, _ in enumerate(load(uris), 1):
            if n % 10_000 == 0:
                seen.append(memory())
    return seen[-1] / seen[0]


# Number and size of the images, and the measure.
MEASURES: dict[str, tuple[int, tuple[int, int], Callable[[Path], float]]] = {
    "latency": (300, (500, 375), measure_latency),
    "neighbours": (600, (96, 96), measure_neighbours),
    "ration": (400, (96, 96), measure_ration),
    "memory": (1000, (96, 96), measure_memory),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(MEASURES))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    tune_malloc()
    results: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for name in args.only.split(","):
                images, size, measure = MEASURES[name]
                corpus = Path(folder) / name
                if not corpus.exists():
                    make_corpus(corpus, images, *size)
                results.setdefault(name, []).append(measure(corpus))
    for name, values in results.items():
        print(f"{name}: {statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})")


if __name__ == "__main__":
    main()
