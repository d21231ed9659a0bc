"""A refresh of a corpus from an inventory of its bucket: requests, models loaded, seconds and memory.

python -m benchmarks.inventory [--rows 1000000]
python -m benchmarks.inventory run OPTION …

All rows are published first, without labelling them. The first run has an inventory of which no row changed:
it must make no request and load no model. The second run has one changed row, which shows that both count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Nothing large is imported here, because Linux counts the memory of the process that starts another one as
# the new process's own, if it is more.

BUCKET = "bucket"
_LOADED = "models loaded: "


class ObjectServer(ThreadingHTTPServer):
    """A server that gives one image for every object, and counts requests."""

    def __init__(self, image: bytes, generation: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.image, self.generation, self.requests = image, generation, 0

    @property
    def url(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ObjectServer

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(200)
        self.send_header("X-Goog-Generation", str(self.server.generation))
        self.send_header("Content-Length", str(len(self.server.image)))
        self.end_headers()
        self.wfile.write(self.server.image)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serving(image: bytes, generation: int) -> Iterator[ObjectServer]:
    """Serve an image in place of Cloud Storage."""
    with ObjectServer(image, generation) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def generation_of(row: int) -> int:
    """Return the generation of an object."""
    return 1767225600000000 + row


def write_inventory(path: Path, rows: int, changed: int = 0) -> None:
    """Write an inventory report, whose first rows have changed since they were published."""
    with path.open("w", encoding="utf-8") as f:
        f.write("bucket,name,size,generation\n")
        for row in range(rows):
            f.write(
                f"{BUCKET},photos/{row:08}.jpg,600,{generation_of(row) + (rows if row < changed else 0)}\n"
            )


def publish_inventory(folder: Path, rows: int, model: Path) -> None:
    """Write `inventory.csv`, and publish a made-up prediction for each of its rows into `output`."""
    from benchmarks.published import publish
    from labelbeam.pipeline.config import load_config
    from labelbeam.pipeline.prepare import prepared
    from labelbeam.pipeline.runners.options import pipeline_options
    from labelbeam.transforms.read import list_rows
    from labelbeam.transforms.stage import write_staged
    from labelbeam.transforms.table.rows import (
        PREDICTIONS,
        prediction_row,
        predictions_schema,
        to_record_batch,
    )

    write_inventory(folder / "inventory.csv", rows)
    paths = {"input": folder / "inventory.csv", "output": folder / "output", "model": model}
    config = load_config(None, {name: str(path) for name, path in paths.items()})
    with prepared(config, pipeline_options(())) as plan:
        metadata, batch = plan.staging.row_metadata, []
        for number, ref in enumerate(list_rows(plan.corpus), 1):
            batch.append(prediction_row(_prediction(ref, plan.model.labels), metadata))
            if len(batch) == plan.staging.every_rows or number == rows:
                table = to_record_batch(batch, predictions_schema(metadata))
                write_staged(PREDICTIONS, table, plan.staging.folder)
                batch = []
        publish(plan, rows)


def _prediction(ref, labels):
    from labelbeam.transforms.elements import ImageMetadata, Label, Prediction

    metadata = ImageMetadata(16, 16, "JPEG", 1, 1, 600, ref.id * 2, ref.listed_version)
    return Prediction(ref, (Label(0, labels[0], 0.5),), metadata)


def run(options: list[str]) -> int:
    """Run labelbeam in this process, print the number of models that it loads, and return the status."""
    from labelbeam.pipeline.cli import main as labelbeam
    from labelbeam.transforms.models import saved_model

    load, loaded = saved_model.load, []

    def counted(*args):
        loaded.append(args)
        return load(*args)

    saved_model.load = counted
    status = labelbeam(["run", *options])
    print(f"{_LOADED}{len(loaded)}")
    return status


def measure(folder: Path, server: ObjectServer) -> None:
    """Refresh the table in a process of its own, and print the cost."""
    options = {"input": folder / "inventory.csv", "output": folder / "output", "model": folder / "model"}
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "benchmarks.inventory", "run", "--refresh=changed", *flags]
    server.requests, start = 0, time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        env = {**os.environ, "STORAGE_EMULATOR_HOST": server.url, "TF_CPP_MIN_LOG_LEVEL": "3"}
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read()
    if process.returncode:
        sys.exit(text)
    loaded = text.rpartition(_LOADED)[2].strip()
    counts = next(line for line in text.splitlines() if "kept" in line or "done before" in line)
    print(
        f"{counts}\n  {server.requests} requests, {loaded} models loaded, {seconds:.1f} s, "
        f"{usage.ru_maxrss / 1024:.0f} MB"
    )


def main() -> None:
    """Run the measurements that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--prepare", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare:
        _prepare(Path(args.prepare), args.rows)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "benchmarks.inventory", f"--prepare={name}", f"--rows={args.rows}"]
        subprocess.run(command, check=True)
        print(f"{args.rows:,} rows are published", flush=True)
        with serving((folder / "image.jpg").read_bytes(), generation_of(args.rows)) as server:
            measure(folder, server)
            write_inventory(folder / "inventory.csv", args.rows, changed=1)
            measure(folder, server)


def _prepare(folder: Path, rows: int) -> None:
    from benchmarks.corpus import make_corpus
    from tests.tiny_model import save_tiny_model

    (image,) = make_corpus(folder / "images", 1, 16, 16).iterdir()
    (folder / "image.jpg").write_bytes(image.read_bytes())
    publish_inventory(folder, rows, save_tiny_model(folder / "model", size_px=16))


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        sys.exit(run(sys.argv[2:]))
    main()
