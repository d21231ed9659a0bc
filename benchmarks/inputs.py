"""Inputs of every format against a plain list of the same images, and requests for images inside files.

python -m benchmarks.inputs [--images 200,1000] [--rounds 3] [--formats csv,parquet,tar]
python -m benchmarks.inputs requests [--images 200]

Rates are marginal: from runs over fewer and more photos of 500x375, each in a fresh process; rounds are
interleaved, and figures are medians of the rounds' ratios to the plain list. `requests` labels the photos of
a bucket, on an emulator behind a proxy that counts: loose, and in four files of each
format.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpus import make_corpus
from benchmarks.measure import Command, compare, measure_rates, timed
from benchmarks.rivals.rows import new_output
from tests.engines.gcs import GcsEmulator
from tests.shards import parquet_of, tar_of, tfrecord_of, zip_of

SIZE_PX = (500, 375)
# Archives of a bucket.
_ARCHIVES = 4


def _parquet_list(paths: list[str]) -> bytes:
    f = io.BytesIO()
    pq.write_table(pa.table({"uri": paths}), f)
    return f.getvalue()


def _members(paths: list[str]) -> dict[str, bytes]:
    return {Path(path).name: Path(path).read_bytes() for path in paths}


# Makes a file from the paths of images, by the ending of its name.
Write = Callable[[list[str]], bytes]
LISTS: dict[str, Write] = {
    "txt": lambda paths: "\n".join(paths).encode(),
    "csv": lambda paths: "\n".join(["uri", *paths]).encode(),
    "jsonl": lambda paths: "\n".join(json.dumps({"uri": path}) for path in paths).encode(),
    "json": lambda paths: json.dumps([{"uri": path} for path in paths]).encode(),
    "parquet": _parquet_list,
}
ARCHIVES: dict[str, Write] = {
    "tar": lambda paths: tar_of(_members(paths)),
    "zip": lambda paths: zip_of(_members(paths)),
    "tfrecord": lambda paths: tfrecord_of(_members(paths)),
    "parquet": lambda paths: parquet_of(_members(paths)),
}
FORMATS = LISTS | {f"images.{suffix}": write for suffix, write in ARCHIVES.items()}


def label(source: str, output: Path | str) -> list[str]:
    """Return the command that labels an input."""
    options = ["--input", source, "--output", str(output), "--model", "efficientnet-lite0"]
    return [sys.executable, "-m", "labelbeam", "run", *options]


def labelled_from(suffix: str) -> Command:
    """Return the function that makes the command for a corpus in one format."""
    return lambda corpus: label(f"{corpus.parent}/all.{suffix}", new_output(corpus))


def measure_formats(images: tuple[int, int], rounds: int, formats: list[str]) -> None:
    """Print the rates of all formats against the plain list's."""
    with tempfile.TemporaryDirectory() as folder:
        corpora = [make_corpus(Path(folder, str(n), "images"), n, *SIZE_PX) for n in images]
        for corpus in corpora:
            paths = sorted(map(str, corpus.iterdir()))
            for suffix in formats:
                Path(corpus.parent, f"all.{suffix}").write_bytes(FORMATS[suffix](paths))
        runs = {suffix: timed(labelled_from(suffix)) for suffix in formats}
        rates = measure_rates("formats", *corpora, rounds, runs)
    for suffix in formats[1:]:
        compare(f"{suffix} / {formats[0]}", rates[suffix], rates[formats[0]])


class _Proxy:
    """A proxy that counts requests for content, and bytes of responses."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.requests = self.bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        self.requests = self.bytes = 0

    def _accept(self) -> None:
        while True:
            client, _ = self._server.accept()
            server = socket.create_connection(self._target)
            for source, target, count in ((client, server, self._sent), (server, client, self._received)):
                threading.Thread(target=self._pass_on, args=(source, target, count), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, count: Callable[[bytes], None]) -> None:
        try:
            while data := source.recv(1 << 16):
                count(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            target.close()

    def _sent(self, data: bytes) -> None:
        self.requests += data.startswith(b"GET ") and b"alt=media" in data.partition(b"\r\n")[0]

    def _received(self, data: bytes) -> None:
        self.bytes += len(data)


@contextmanager
def counted_bucket() -> Iterator[tuple[GcsEmulator, _Proxy, dict[str, str]]]:
    """Yield an emulator, the proxy in front of it, and the environment that points to the proxy."""
    with GcsEmulator() as emulator:
        os.environ.update(emulator.env)
        proxy = _Proxy(int(emulator.env["STORAGE_EMULATOR_HOST"].rpartition(":")[2]))
        yield emulator, proxy, {**os.environ, "STORAGE_EMULATOR_HOST": proxy.address}


def count_requests(images: int) -> None:
    """Print requests and bytes for an image, of loose objects and of archives."""
    with tempfile.TemporaryDirectory() as folder, counted_bucket() as (emulator, proxy, environment):
        paths = sorted(map(str, make_corpus(Path(folder, "images"), images, *SIZE_PX).iterdir()))
        members = _members(paths)
        for name, data in members.items():
            emulator.put(f"gs://photos/loose/{name}", data)
        sources = {"loose": "gs://photos/loose"}
        for suffix, write in ARCHIVES.items():
            sources[suffix] = f"gs://photos/*.{suffix}"
            for n in range(_ARCHIVES):
                emulator.put(f"gs://photos/{n}.{suffix}", write(paths[n::_ARCHIVES]))
        size = sum(map(len, members.values())) / images
        for name, source in sources.items():
            proxy.reset()
            command = label(source, Path(folder, f"out-{name}"))
            subprocess.run(command, env=environment, check=True, capture_output=True)
            print(
                f"{name}: {proxy.requests / images:.3f} requests and {proxy.bytes / images:,.0f} bytes an "
                f"image ({proxy.requests:,} requests; an image has {size:,.0f} bytes)",
                flush=True,
            )


def main() -> None:
    """Run the measurement that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["formats", "requests"], default="formats")
    parser.add_argument("--images", default="200,1000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--formats", default=",".join(FORMATS))
    args = parser.parse_args()
    few, *more = map(int, args.images.split(","))
    if args.what == "requests":
        count_requests(few)
    else:
        measure_formats((few, *more), args.rounds, ["txt", *args.formats.split(",")])


if __name__ == "__main__":
    main()
