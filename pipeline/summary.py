"""The summary: what a person wants to know when a run has ended."""

from __future__ import annotations

from typing import Any

from apache_beam.io.filesystems import FileSystems

from transforms.count import DUPLICATE, FAILED, LABELLED, LISTED
from transforms.rows import FAILURES, PREDICTIONS

_TOP = 5


def summarise(manifest: dict[str, Any], output: str, seconds: float) -> str:
    """Tells how a run went, from its manifest."""
    counts = manifest["counts"]
    done = counts[LABELLED] + counts[FAILED]
    lines = [
        f"Labelled {counts[LABELLED]:,} of {counts[LISTED]:,} images in {seconds:,.1f} s"
        f" ({done / max(seconds, 1e-9):,.1f} images/s, start-up included);"
        f" {counts[FAILED]:,} failed, {counts[DUPLICATE]:,} listed twice."
    ]
    lines += _counted("Top labels", [(t["label"], t["images"]) for t in manifest["top_labels"][:_TOP]])
    lines += _counted("Failures by reason", list(manifest["failures_by_reason"].items()))
    lines += ["", "Results"]
    for table in (PREDICTIONS, FAILURES):
        files = [f for f in manifest["files"] if f["table"] == table]
        lines.append(f"  {FileSystems.join(output, table)}  {_files(files)}")
    return "\n".join([*lines, f"  {FileSystems.join(output, 'manifest.json')}"])


def _counted(title: str, counts: list[tuple[str, int]]) -> list[str]:
    return ["", title, *(f"  {n:>9,}  {name}" for name, n in counts)] if counts else []


def _files(files: list[dict[str, Any]]) -> str:
    rows, size = sum(f["rows"] for f in files), sum(f["size_bytes"] for f in files)
    plural = "" if len(files) == 1 else "s"
    return f"{rows:,} rows in {len(files):,} Parquet file{plural}, {size / 1e6:,.2f} MB"


def next_steps(output: str) -> str:
    """What to try next with an output folder."""
    predictions = FileSystems.join(output, PREDICTIONS)
    return "\n".join(
        [
            "",
            "Look at them from Python:",
            f"  pyarrow.dataset.dataset({predictions!r}).head(5).to_pylist()",
            "or with DuckDB:",
            f"  SELECT label, count(*) FROM '{predictions}/*.parquet' GROUP BY label ORDER BY 2 DESC",
        ]
    )


def verdict(manifest: dict[str, Any], max_failure_rate: float) -> str | None:
    """What is wrong with a finished run; None if all is well."""
    counts = manifest["counts"]
    if not manifest["balanced"]:
        written = sum(f["rows"] for f in manifest["files"])
        return f"The run does not balance: {counts}, and {written} rows written. Please report this."
    images = counts[LISTED] - counts[DUPLICATE]
    rate = counts[FAILED] / images if images else 0.0
    if rate > max_failure_rate:
        worst = max(manifest["failures_by_reason"].items(), key=lambda item: item[1])
        return (
            f"{rate:.1%} of the images failed, more than max_failure_rate={max_failure_rate:.1%} allows; "
            f"most often {worst[0]} ({worst[1]:,})."
        )
    return None
