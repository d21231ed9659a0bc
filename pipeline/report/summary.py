"""The summary: what a person wants to know when a run has ended."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping

from labelbeam.transforms.budget import FailureBudget
from labelbeam.transforms.count import (
    DUPLICATE,
    FAILED,
    KEPT,
    LABELLED,
    LISTED,
    OTHER,
    OTHER_URI,
    REUSED,
    UNCHECKED,
)
from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.files import join_path
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.table.folder import Layout
from labelbeam.transforms.table.manifest import TABLES, Manifest
from labelbeam.transforms.table.rows import FAILURES, PREDICTIONS

_TOP = 5
_LONGEST_EXAMPLE = 200


def summarise(manifest: Manifest, output: str, seconds: float) -> str:
    """Describe how a run went, from its manifest."""
    counts = manifest.counts
    whole = " in the tables" if sum(manifest.rows.values()) > counts[LABELLED] + counts[FAILED] else ""
    said = [
        f"Labelled {counts[LABELLED]:,} of {_number(counts[LISTED], 'image')} in {seconds:,.1f} s"
        f"{_rate(counts, seconds)}",
        f"{counts[FAILED]:,} failed, {counts[DUPLICATE]:,} listed twice",
    ]
    if counts[KEPT]:
        said.append(f"{counts[KEPT]:,} were done before")
    if counts[OTHER]:
        said.append(f"{counts[OTHER]:,} more are in the tables")
    if counts[OTHER_URI]:
        said.append(f"{counts[OTHER_URI]:,} were done under another URI and labelled again")
    if counts[UNCHECKED]:
        said.append(f"{counts[UNCHECKED]:,} could not be checked for changes")
    if counts[REUSED]:
        said.append(f"{counts[REUSED]:,} took the labels of another image of the same bytes")
    lines = ["; ".join(said) + "."]
    if manifest.left_out:
        lines.append(f"Left out of the folder: {_by_name(manifest.left_out)}.")
    for column, noted in (manifest.unparsed or {}).items():
        lines.append(
            f"{column}: {noted['count']:,} {'value is' if noted['count'] == 1 else 'values are'} not of the "
            f"column's type, and null in the tables, such as {noted['examples'][0]!r}."
        )
    lines += _counted(f"Top labels{whole}", [(top.label, top.images) for top in manifest.top_labels[:_TOP]])
    lines += _counted(f"Failures by reason{whole}", list(_failures(manifest)))
    doubts = manifest.model.get("doubts", ())
    lines += ["", *(f"Warning: {doubt}" for doubt in doubts)] if doubts else []
    lines += ["", f"Results (generation {manifest.generation})"]
    for table in TABLES:
        lines.append(f"  {join_path(output, table)}  {_files(manifest.files_of(table))}")
    return "\n".join([*lines, f"  {Layout(output).manifest}"])


def _rate(counts: Mapping[str, int], seconds: float) -> str:
    """Describe the rate of a run; a run that labelled nothing has none that means something."""
    if not counts[LABELLED]:
        return ""
    rate = (counts[LABELLED] + counts[FAILED]) / max(seconds, 1e-9)
    return f" ({rate:,.1f} images/s, start-up included)"


def _number(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _failures(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """Yield each reason with an example, and its number of failures."""
    examples = manifest.failure_examples or {}
    width = max(map(len, manifest.failures_by_reason), default=0)
    for reason, n in manifest.failures_by_reason.items():
        if example := examples.get(reason):
            # Messages of storage begin with the address as it is.
            text = example.message.removeprefix(f"{example.uri}: ")
            line = f"{reason:<{width}}  {example.uri}: {text}"
            yield line if len(line) <= _LONGEST_EXAMPLE else f"{line[:_LONGEST_EXAMPLE]}...", n
        else:
            yield reason, n


def _counted(title: str, counts: list[tuple[str, int]]) -> list[str]:
    return ["", title, *(f"  {n:>9,}  {name}" for name, n in counts)] if counts else []


def _by_name(counts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{n:,} {name}" for name, n in itertools.islice(counts.items(), _TOP))
    return shown + (", ..." if len(counts) > _TOP else "")


def _files(files: list[TableFile]) -> str:
    rows, size = sum(file.rows for file in files), sum(file.size_bytes for file in files)
    return f"{_number(rows, 'row')} in {_number(len(files), 'Parquet file')}, {size / 1e6:,.2f} MB"


def next_steps(manifest: Manifest, output: str) -> str:
    """Return commands to try next with an output folder."""
    predictions, output = join_path(output, PREDICTIONS), shlex.quote(output)
    files = f"'{predictions}/**/*.parquet'"
    labelled = EMBEDDING not in manifest.labelled_with.outputs
    by_label = f"SELECT label, count(*) FROM {files} GROUP BY label ORDER BY 2 DESC"
    lines = [
        "",
        "Look at them from Python:",
        f"  import pyarrow.dataset; pyarrow.dataset.dataset({predictions!r}).head(5).to_pylist()",
        "or with DuckDB:",
        f"  {by_label if labelled else f'SELECT uri, {EMBEDDING} FROM {files} LIMIT 5'}",
    ]
    if manifest.failures_by_reason:
        failures = predictions.removesuffix(PREDICTIONS) + FAILURES
        lines += ["Look at the failures:", f"  SELECT reason, uri, message FROM '{failures}/**/*.parquet'"]
    lines += ["Prove that they are whole:", f"  labelbeam verify {output}"]
    again = [r for r in manifest.failures_by_reason if r in ("timeout", "unreachable", "http_5xx")]
    if again:
        lines += ["Try again what may have passed:", f"  labelbeam rerun {output} --only {','.join(again)}"]
    return "\n".join(lines)


def verdict(manifest: Manifest, budget: FailureBudget) -> str | None:
    """What is wrong with a finished run; None if all is well."""
    if not manifest.balanced:
        return (
            f"The run does not balance: {manifest.counts}, and rows in the tables: {manifest.rows}. "
            "Run the same command again. If nobody has deleted files of the output, please report this."
        )
    reasons, hosts = manifest.failures_by_reason, manifest.failures_by_host
    return budget.excess(sum(manifest.rows.values()), reasons, hosts)
