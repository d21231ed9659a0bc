"""The summary of a finished run, and commands to try next."""

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
from labelbeam.transforms.errors import Reason, may_heal
from labelbeam.transforms.files import join_path
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.sources.secrets import lacks_secrets
from labelbeam.transforms.table.folder import TableFolder
from labelbeam.transforms.table.manifest import TABLES, Manifest
from labelbeam.transforms.table.rows import FAILURES, PREDICTIONS

# Entries of a list that are printed.
_TOP = 5
# Totals that most runs do not have, and that the first line only has above 0.
_REMARKS = {
    KEPT: "were done before",
    OTHER: "more are in the tables",
    OTHER_URI: "were done under another URI and labelled again",
    UNCHECKED: "could not be checked for changes",
    REUSED: "took the labels of another image of the same bytes",
}
# Characters of a failure's line, because messages of servers may fill a screen.
_LONGEST_EXAMPLE = 200

# Without `truncated`, because most images of that reason are damaged files.
_AGAIN = {reason for reason in Reason if may_heal(reason)} - {Reason.TRUNCATED}


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
    totals += [f"{counts[kind]:,} {text}" for kind, text in _REMARKS.items() if counts[kind]]
    lines = ["; ".join(totals) + "."]
    if not counts[LISTED]:
        lines.append("Warning: the input has no rows. Check its content.")
    if manifest.left_out:
        lines.append(f"Left out of the folder: {_by_name(manifest.left_out)}.")
    for column, values in (manifest.unparsed or {}).items():
        verb = "value is" if values["count"] == 1 else "values are"
        lines.append(
            f"{column}: {values['count']:,} {verb} not of the column's type, and null in the tables, such as "
            f"{values['examples'][0]!r}."
        )
    if EMBEDDING in manifest.labelled_with.outputs:
        length = manifest.labelled_with.outputs[EMBEDDING]
        lines.append(
            f"Each row has an embedding of length {length:,} in the column {EMBEDDING!r}, and no label."
        )
    lines += _counted(f"Top labels{scope}", [(top.label, top.images) for top in manifest.top_labels[:_TOP]])
    lines += _missing_names(manifest)
    lines += _counted(f"Failures by reason{scope}", list(_failures(manifest)))
    doubts = manifest.model.get("doubts", ())
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


def _rate(counts: Mapping[str, int], seconds: float) -> str:
    """Describe a run's rate; empty if nothing was labelled, because it would be that of failures."""
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


def next_steps(manifest: Manifest, output: str) -> str:
    """Return commands to try next with an output folder."""
    predictions, output = join_path(output, PREDICTIONS), shlex.quote(output)
    files = f"'{predictions}/**/*.parquet'"
    embedding = manifest.labelled_with.outputs.get(EMBEDDING)
    by_label = f"SELECT label, count(*) FROM {files} GROUP BY label ORDER BY 2 DESC"
    lines = [
        "",
        f"Look at the rows from Python (give the table's folder, because {output}/ holds other files, too):",
        f"  import pyarrow.dataset; pyarrow.dataset.dataset({predictions!r}).head(5).to_pylist()",
        f"  import pandas; pandas.read_parquet({predictions!r})",
        "or with DuckDB:",
        f"  {_most_similar(files, embedding) if embedding else by_label}",
    ]
    if manifest.failures_by_reason:
        failures = predictions.removesuffix(PREDICTIONS) + FAILURES
        lines += ["Look at the failures:", f"  SELECT reason, uri, message FROM '{failures}/**/*.parquet'"]
    lines += ["Prove that the tables are whole:", f"  labelbeam verify {output}"]
    # These alone, because they may pass without a change of the input or the options.
    again = [r for r in manifest.failures_by_reason if r in _AGAIN]
    if again:
        lines += [
            "Retry failures that may be temporary:",
            f"  labelbeam rerun {output} --only {','.join(again)}{_input_of_secrets(manifest)}",
        ]
    return "\n".join(lines)


def _input_of_secrets(manifest: Manifest) -> str:
    """Return the option that a rerun needs where failed images have secrets in their addresses."""
    names = manifest.config.get("secret_params") or ()
    examples = (manifest.failure_examples or {}).values()
    is_needed = any(lacks_secrets(example.uri, names) for example in examples)
    return f" --input {shlex.quote(manifest.config['input'])}" if is_needed else ""


def _most_similar(files: str, length: int) -> str:
    """Return a query for the images that are most similar to the first one."""
    # Cast to arrays, because Parquet has lists only, and DuckDB's similarity takes arrays of one length only.
    return (
        f"WITH images AS (SELECT uri, {EMBEDDING}::FLOAT[{length}] AS vector FROM {files}), "
        "first AS (FROM images LIMIT 1) "
        "SELECT images.uri, array_cosine_similarity(images.vector, first.vector) AS similarity "
        "FROM images, first ORDER BY similarity DESC LIMIT 5"
    )


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
