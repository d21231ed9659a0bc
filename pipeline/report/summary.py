"""The summary of a finished run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from labelbeam.transforms.budget import FailureBudget
from labelbeam.transforms.count import (
    DUPLICATE,
    FAILED,
    KEPT,
    LABELLED,
    LISTED,
    NOT_CHOSEN,
    OTHER,
    OTHER_URI,
    REUSED,
    UNCHECKED,
)
from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.files import join_path
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.notes import describe_unparsed, describe_unread
from labelbeam.transforms.table.folder import TableFolder
from labelbeam.transforms.table.manifest import TABLES, Manifest

# Entries of a list that are printed.
_TOP = 5
# Totals that most runs do not have, and that the first line only has above 0.
_REMARKS = {
    KEPT: "were done before",
    NOT_CHOSEN: "were not chosen by --sample and --limit",
    OTHER: "more are in the tables",
    OTHER_URI: "were done under another URI and labelled again",
    UNCHECKED: "could not be checked for changes",
    REUSED: "took the labels of another image of the same bytes",
}
# Characters of a failure's line, because messages of servers may fill a screen.
_LONGEST_EXAMPLE = 200


def summarise(manifest: Manifest, output: str, seconds: float) -> str:
    """Describe how a run went, from its manifest."""
    counts = manifest.counts
    # Named, because the lists count all rows of the tables, and the first line only those of this run.
    scope = " in the tables" if sum(manifest.rows.values()) > counts[LABELLED] + counts[FAILED] else ""
    totals = [
        f"Labelled {counts[LABELLED]:,} of {_number(counts[LISTED], 'image')} in {seconds:,.1f} s"
        f"{_rate(counts, seconds)}",
        f"{counts[FAILED]:,} failed, {counts[DUPLICATE]:,} listed twice",
    ]
    totals += [f"{counts[kind]:,} {text}" for kind, text in _REMARKS.items() if counts.get(kind)]
    lines = ["; ".join(totals) + "."]
    if not counts[LISTED]:
        lines.append("Warning: the input has no rows. Check its content.")
    if manifest.left_out:
        lines.append(f"Left out of the input: {_by_name(manifest.left_out)}.")
    for column, values in (manifest.unparsed or {}).items():
        lines.append(f"{describe_unparsed(column, values['count'])}, such as {values['examples'][0]!r}.")
    if EMBEDDING in manifest.labelled_with.outputs:
        length = manifest.labelled_with.outputs[EMBEDDING]
        lines.append(
            f"Each row has an embedding of length {length:,} in the column {EMBEDDING!r}, and no label."
        )
    lines += _counted(f"Top labels{scope}", [(top.label, top.images) for top in manifest.top_labels[:_TOP]])
    lines += _missing_names(manifest)
    lines += _counted(f"Failures by reason{scope}", list(_failures(manifest)))
    doubts = [*manifest.model.get("doubts", ())]
    doubts += [describe_unread(manifest.unread)] if manifest.unread else []
    lines += ["", *(f"Warning: {doubt}" for doubt in doubts)] if doubts else []
    lines += ["", f"Results (generation {manifest.generation})"]
    for table in TABLES:
        lines.append(f"  {join_path(output, table)}  {_files(manifest.files_of(table))}")
    return "\n".join([*lines, f"  {TableFolder(output).manifest}"])


def _missing_names(manifest: Manifest) -> Iterator[str]:
    if manifest.top_labels and all(top.label == f"class {top.class_id}" for top in manifest.top_labels):
        yield "Labels are numbers, because there is no label map. Run again with --replace and --labels FILE."
        if manifest.model.get("outputs") == "logits":
            yield "If the model's outputs are features, run again with --replace and --outputs embedding."


def images_per_sec(counts: Mapping[str, int], seconds: float) -> float | None:
    """Return a run's rate; None if nothing was labelled, because it would be the rate of failures."""
    return (counts[LABELLED] + counts[FAILED]) / max(seconds, 1e-9) if counts[LABELLED] else None


def _rate(counts: Mapping[str, int], seconds: float) -> str:
    rate = images_per_sec(counts, seconds)
    return "" if rate is None else f" ({rate:,.1f} images/s, start-up included)"


def _number(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _failures(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """Yield each reason with an example, and its number of failures."""
    examples = manifest.failure_examples or {}
    width = max(map(len, manifest.failures_by_reason), default=0)
    for reason, n in manifest.failures_by_reason.items():
        if example := examples.get(reason):
            text = example.message
            # Only if the message lacks the address, because most messages name the address themselves.
            if example.uri not in text:
                text = f"{example.uri}: {text}"
            line = f"{reason:<{width}}  {text}"
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


def verdict(manifest: Manifest, budget: FailureBudget, is_rerun: bool = False) -> str | None:
    """Return why a finished run counts as failed; None if it succeeded."""
    # Before the budget, because rates of wrong counts mean nothing.
    if not manifest.balanced:
        return (
            f"The run does not balance: {manifest.counts}, and rows in the tables: {manifest.rows}. "
            "Run the same command again, and report this as a bug unless files of the output were deleted."
        )
    reasons, hosts = manifest.failures_by_reason, manifest.failures_by_host
    excess = budget.excess(sum(manifest.rows.values()), reasons, hosts)
    # Not in a rerun, because the other rows are then labels of the very run that is repeated.
    if excess and not is_rerun and (other := manifest.counts[OTHER]):
        # Such as failures of addresses that were corrected in the list.
        excess += (
            f" {_number(other, 'row')} of the tables {'is' if other == 1 else 'are'} not of this input; "
            "--replace starts the tables over without them."
        )
    return excess
