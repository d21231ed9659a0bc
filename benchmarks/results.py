"""Time and memory of the commands over results, on a synthetic table of one million rows or more.

python -m benchmarks.results [--rows N] [--folder DIR] [COMMAND …]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import duckdb

from labelbeam.pipeline.results.database import literal
from labelbeam.transforms.models.labels import imagenet_labels
from tests.tables import Settings, publish_files

_CLASSES = imagenet_labels()
_SETTINGS = Settings(_CLASSES, columns={"truth": "string", "camera": "string"})
# Selected images, so many that they do not fit into DuckDB's memory with their labels.
_MANY = 1_000_000
_ROWS_OF_A_FILE = 2_500_000
# Scores fall off by a random factor, so that the sums of five are below 1; four of five labels are right.
_PREDICTIONS = """
COPY (
  WITH ids AS (
    SELECT md5(n::VARCHAR) AS id, (hash(n * 7 + 1) % 1000000)::BIGINT AS a,
      (hash(n * 13 + 5) % 1000003)::BIGINT AS b, (hash(n * 31 + {seed}) % 1000)::BIGINT AS c
    FROM range({start}, {stop}) AS ids(n)
  ), classes AS (
    SELECT *, a % 1000 AS truth_id, CASE WHEN c % 10 < 8 THEN truth_id ELSE (a + c) % 1000 END AS best,
      (0.3 + 0.69 * b / 1000003)::FLOAT AS score
    FROM ids
  )
  SELECT id, 'gs://bucket/' || id || '.jpg' AS uri, names[best + 1] AS label, score,
    [{{'class_id': ((best + k * k * (1 + (b % 97))) % 1000)::INTEGER,
       'label': names[1 + (best + k * k * (1 + (b % 97))) % 1000],
       'score': (score * (1 - score) ** k)::FLOAT}} FOR k IN [0, 1, 2, 3, 4]] AS labels,
    640::INTEGER AS width_px, 480::INTEGER AS height_px, 'JPEG' AS format, 1::TINYINT AS orientation,
    1::INTEGER AS frames, 20000 + b % 400000 AS size_bytes, id || id AS sha256,
    NULL::VARCHAR AS version,
    'model-1' AS model_fingerprint, 'pre-1' AS preprocessing_fingerprint, '{run}' AS run_id,
    names[truth_id + 1] AS truth, 'camera ' || (a % 7)::VARCHAR AS camera
  FROM classes, (SELECT {names} AS names)
) TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""
_FAILURES = """
COPY (
  SELECT md5(n::VARCHAR) AS id, 'http://h' || (n % 50)::VARCHAR || '.example/' || n::VARCHAR || '.jpg' AS uri,
    'fetch' AS stage, ['timeout', 'not_found', 'http_5xx'][1 + n % 3] AS reason, 'no response' AS message,
    5::INTEGER AS attempts, 'h' || (n % 50)::VARCHAR || '.example' AS host, 'model-1' AS model_fingerprint,
    'pre-1' AS preprocessing_fingerprint, '{run}' AS run_id, NULL::VARCHAR AS truth, NULL::VARCHAR AS camera
  FROM range({start}, {stop}) AS ids(n)
) TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""


def make_table(output: Path, rows: int, seed: int) -> None:
    """Publish a table of as many predictions and one failure for a hundred of them."""
    for table in ("predictions", "failures"):
        (output / table).mkdir(parents=True)
    names = literal(_CLASSES)
    with duckdb.connect() as connection:
        for n, start in enumerate(range(0, rows, _ROWS_OF_A_FILE)):
            path = output / f"predictions/{_SETTINGS.run_id}-0000-{n:05d}.parquet"
            stop = min(rows, start + _ROWS_OF_A_FILE)
            values = {"seed": seed, "names": names, "run": _SETTINGS.run_id, "path": path}
            connection.execute(_PREDICTIONS.format(start=start, stop=stop, **values))
        path = output / f"failures/{_SETTINGS.run_id}-0000-00000.parquet"
        values = {"run": _SETTINGS.run_id, "path": path}
        connection.execute(_FAILURES.format(start=rows, stop=rows + rows // 100, **values))
    publish_files(output, _SETTINGS)


def commands_over(a: Path, b: Path, folder: Path) -> dict[str, list[str]]:
    """Return the arguments of each command."""
    truth = ["--truth=truth"]
    return {
        "evaluate": ["evaluate", str(a), *truth, "--by=camera"],
        "report": ["report", str(a), *truth, f"--page={folder / 'report.html'}"],
        "calibrate": ["calibrate", str(a), *truth, "--risk=0.25", f"--calibration={folder}/calibration.json"],
        "apply": ["apply", str(b), f"--calibration={folder}/calibration.json"],
        "select": ["select", str(a), "--by=margin", "--number=10000", "--format=csv", f"--to={folder}/s.csv"],
        "select_balanced": [
            *("select", str(a), "--by=entropy", f"--number={_MANY}", "--balanced"),
            *("--format=labelstudio", f"--to={folder}/tasks"),
        ],
        "select_disagreement": [
            *("select", str(a), "--by=disagreement", f"--other={b}", f"--number={_MANY}"),
            *("--format=jsonl", f"--to={folder}/s.jsonl"),
        ],
        "export_csv": ["export", str(a), "--format=csv", f"--to={folder}/t.csv"],
        "export_jsonl": ["export", str(a), "--format=jsonl", f"--to={folder}/t.jsonl"],
        "diff": ["diff", str(a), str(b), *truth, f"--json={folder / 'diff.json'}"],
    }


def main() -> None:
    """Run each command in a fresh process, and print its time and its peak memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("commands", nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        for name, seed in (("a", 1), ("b", 2)):
            if not (folder / name).exists():
                make_table(folder / name, args.rows, seed)
        commands = commands_over(folder / "a", folder / "b", Path(temporary))
        for name in args.commands or commands:
            seconds, peak_mb = _measure(commands[name])
            print(f"{name}: {args.rows:,} rows, {seconds:.1f} s, {peak_mb:,.0f} MB at peak", flush=True)


def _measure(arguments: list[str]) -> tuple[float, float]:
    start = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "labelbeam", *arguments],
        dict(os.environ),
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    # Not subprocess, because only `wait4` returns the peak memory of this child alone.
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"labelbeam {' '.join(arguments)} failed.")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
