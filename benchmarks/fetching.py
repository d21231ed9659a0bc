"""Processor time of fetching an image: this project's sources against urllib3 and google-cloud-storage.

python -m benchmarks.fetching [--kilobytes 100] [--images 1000] [--threads 1] [--rounds 5]

The images come over loopback from a server in a process of its own. Each row: processor milliseconds of this
process for an image (user and system), and of wall time; medians and extremes of the rounds, in which all
clients take turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import urllib3
from google.cloud import storage

from benchmarks.object_server import serving
from labelbeam.transforms.sources import Limits, Sources

_NAME = "a.jpg"
# Fetches one image.
Fetch = Callable[[], bytes]


def clients(address: str, threads: int) -> dict[str, Fetch]:
    """Return the clients that are compared."""
    sources = Sources(Limits(connections=threads, allow_hosts=("127.0.0.1",)))
    pool = urllib3.PoolManager(maxsize=threads)
    bucket = storage.Client(project="none").bucket("photos")

    def ours(uri: str) -> Fetch:
        def fetch() -> bytes:
            fetched = sources.fetch(uri)
            assert fetched
            return fetched.data

        return fetch

    def by_urllib3() -> bytes:
        headers = {"Accept": "image/*", "Accept-Encoding": "identity"}
        return pool.request("GET", f"{address}/{_NAME}", headers=headers).data

    def by_google() -> bytes:
        return bucket.blob(_NAME).download_as_bytes(checksum="crc32c", retry=None)

    return {
        "http  labelbeam": ours(f"{address}/{_NAME}"),
        "http  urllib3": by_urllib3,
        "gs    labelbeam": ours(f"gs://photos/{_NAME}"),
        "gs    google-cloud-storage": by_google,
    }


def cost_ms(fetch: Fetch, pool: ThreadPoolExecutor, images: int, length: int) -> tuple[float, float]:
    """Return milliseconds of the processor, and of wall time, for an image."""
    start, before = time.perf_counter(), time.process_time()
    for data in pool.map(lambda _: fetch(), range(images)):
        assert len(data) == length
    return 1000 * (time.process_time() - before) / images, 1000 * (time.perf_counter() - start) / images


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kilobytes", type=int, default=100)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    length = 1000 * args.kilobytes
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.threads) as pool:
        (Path(folder) / _NAME).write_bytes(os.urandom(length))
        with serving(Path(folder)) as address:
            os.environ["STORAGE_EMULATOR_HOST"] = address
            fetches = clients(address, args.threads)
            costs: dict[str, list[tuple[float, float]]] = {name: [] for name in fetches}
            for round_number in range(args.rounds + 1):
                for name, fetch in fetches.items():
                    # The first round opens connections.
                    images = args.images if round_number else 10 * args.threads
                    cost = cost_ms(fetch, pool, images, length)
                    costs[name] += [cost] if round_number else []
    print(f"{'':28}{'processor ms':>20}{'wall ms':>20}")
    for name, rows in costs.items():
        columns = (f"{statistics.median(c):.2f} ({min(c):.2f}-{max(c):.2f})" for c in zip(*rows, strict=True))
        print(f"{name:28}{''.join(f'{column:>20}' for column in columns)}")


if __name__ == "__main__":
    main()
