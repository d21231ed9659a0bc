"""Checks of input, output and model, and a trial run on a few images."""

from __future__ import annotations

import contextlib
import os
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from labelbeam.pipeline.calibration import calibration_of
from labelbeam.pipeline.checks.findings import (
    RESPONSE_SEC,
    Case,
    Check,
    Finding,
    error,
    ok,
    try_connection,
    warning,
)
from labelbeam.pipeline.checks.trial import describe_result, label_rows
from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.pipeline.input_names import is_in_bigquery, is_on_web, is_path, is_query, public_input
from labelbeam.pipeline.manifest import labelled_with
from labelbeam.pipeline.output import check_writable, folder_of, is_at_work, look_into, refuse_others
from labelbeam.pipeline.plan import (
    column_types_of,
    limits_of,
    optimisation_of,
    partitioning_of,
    row_metadata_of,
)
from labelbeam.pipeline.prepare import prepare_model
from labelbeam.pipeline.report.model import describe_head, describe_photos, describe_scaling
from labelbeam.pipeline.runners.options import environment_of, is_portable, is_submitted_elsewhere
from labelbeam.transforms.elements import AnyImage, Failure, ref_of
from labelbeam.transforms.files import is_local
from labelbeam.transforms.inputs.columns import output_name
from labelbeam.transforms.models.cache import is_here
from labelbeam.transforms.models.classifier import Classifier
from labelbeam.transforms.models.devices import choose_batch_size
from labelbeam.transforms.models.optimise import Optimisation
from labelbeam.transforms.models.presets import find_preset
from labelbeam.transforms.models.runtime import has_gpu
from labelbeam.transforms.sample import first_chosen
from labelbeam.transforms.sources.addresses import is_gcs

# Number of images that are labelled, and of rows that are shown.
_IMAGES, _ROWS_SHOWN = 10, 3
# Limit of listed files, because listing a large bucket takes hours.
_MOST_FILES = 10_000
# Rows among which --sample and --limit choose here, because a list may have billions.
_MOST_ROWS = 1_000_000
# Time limits for the model's download and for the trial run.
_DOWNLOAD_SEC, _IMAGES_SEC = 600.0, 60.0


def _check_output(case: Case) -> Iterator[Finding]:
    output = folder_of(case.config.write.output)
    contents = look_into(output)
    check_writable(output)
    case.contents = contents
    if is_at_work(output):
        text = f"another run is writing to {output}."
        yield warning(text, "Wait until it ends, or set another --output.")
    elif manifest := contents.manifest:
        counts = ", ".join(f"{count:,} {table}" for table, count in manifest.rows.items())
        yield ok(f"{output} is writable and holds {counts}, labelled with {manifest.model.get('handle')}.")
    elif staged := sum(contents.staged_rows.values()):
        yield ok(f"{output} is writable and holds {staged:,} rows of an unfinished run.")
    else:
        yield ok(f"{output} is writable and empty.")


def _check_input(case: Case) -> Iterator[Finding]:
    read = case.config.read
    manifest = case.contents.manifest if case.contents else None
    name = ", ".join(map(public_input, read.inputs))
    corpus = find_corpus(read, column_types_of(case.config, manifest), lambda: limits_of(case.config))
    if any(map(is_query, read.inputs)):
        case.corpus = corpus
        columns = ", ".join(column for column, _ in corpus.columns) or "no others than the URI's"
        yield ok(
            f"{name} is a valid query, which is not run here, with the columns {columns}.", *corpus.remarks
        )
        return
    listed = corpus.with_most_files(_MOST_FILES)
    max_bytes = limits_of(case.config).max_bytes
    case.rows = first_chosen(listed, read.choice, _IMAGES, max_bytes, _MOST_ROWS)
    if not case.rows:
        among = "" if read.choice.is_all else f" that --sample and --limit choose, among {_MOST_ROWS:,} rows"
        # With the remarks, because rows of an inventory that are left out are no images.
        yield error(f"{name} lists no images{among}.", "Check --input and --input_format.", *corpus.remarks)
        return
    case.corpus = corpus
    rows = [_format_row(row, corpus.row_columns) for row in case.rows[:_ROWS_SHOWN]]
    yield ok(f"{name} is readable as {corpus.formats}; its first rows:", *rows, *corpus.remarks)
    partitioning_of(case.config, corpus)


def _is_remote(name: str) -> bool:
    return is_on_web(name) or is_in_bigquery(name) or not is_local(name)


def _format_row(row: AnyImage | Failure, columns: tuple[tuple[str, pa.DataType], ...]) -> str:
    if isinstance(row, Failure):
        return f"{row.reason}: {row.message}"
    ref = ref_of(row)
    pairs = zip(columns, ref.columns, strict=True)
    # By the names in the tables, because some columns of the input are renamed there.
    shown = "".join(f", {output_name(name)}={_format_value(value, kind)}" for (name, kind), value in pairs)
    return f"{ref.uri}{shown}"


def _format_value(value: Any, kind: pa.DataType) -> str:
    # Only text in quotes, because Python's form of a date names a class.
    if isinstance(value, str):
        return repr(value)
    # By Arrow, because dates may be numbers here. Python has no years beyond 9999.
    with contextlib.suppress(ValueError, OverflowError):
        value = pa.scalar(value, kind).as_py()
    return "null" if value is None else str(value)


def _handle(case: Case) -> str:
    preset = find_preset(case.config.model.model)
    return preset.handle if preset else case.config.model.model


def _check_model(case: Case) -> Iterator[Finding]:
    if why := _connection_error(_handle(case)):
        remedy = "Check the network, or set --model to a copy that labelbeam model mirror made."
        yield error(f"the model's server cannot be reached: {why}.", remedy)
        return
    spec = prepare_model(case.config, case.options)
    how = optimisation_of(case.config)
    misfit = how.unfit(has_gpu())
    batch_size = choose_batch_size(None, spec.resize.size_px, has_gpu())
    classifier = Classifier(spec, case.config.predict.top_k, batch_size, Optimisation() if misfit else how)
    case.spec, case.classifier = spec, classifier
    outputs = f"{len(spec.labels):,} classes" if spec.labels else f"embeddings of length {spec.length:,}"
    summary = f"{spec.resize.size_px} px, {outputs}, fingerprint {spec.model_fingerprint}"
    details = [f"range: {describe_scaling(spec)}", f"outputs: {describe_head(spec)}"]
    if spec.photos_known:
        details.append(f"photos: {describe_photos(spec)}")
    yield ok(f"{case.config.model.model} loads: {summary}.", *details)
    for doubt in spec.doubts:
        yield warning(doubt, "")
    if misfit:
        remedy = "Workers compare it with the plain model before they label."
        yield warning(f"the faster model cannot run on this machine: {misfit}", remedy)


def _connection_error(handle: str) -> str:
    """Return why a model's server cannot be reached; empty if it can, or if no server is needed."""
    address = urlsplit(handle)
    # A direct connection proves nothing, because the model then comes by a proxy or from TF Hub's cache.
    has_other_way = urllib.request.getproxies() or os.environ.get("TFHUB_CACHE_DIR")
    if not address.scheme.startswith("http") or is_here(handle) or has_other_way:
        return ""
    port = address.port or (80 if address.scheme == "http" else 443)
    why = try_connection(address.hostname or "", port)
    # Without user info, which is secret.
    return why and f"{address.netloc.rpartition('@')[2]}: {why}"


def _check_table(case: Case) -> Iterator[Finding]:
    assert case.corpus and case.spec and case.contents
    calibration = calibration_of(case.config.predict, case.spec)
    rows = row_metadata_of(case.config, case.spec, case.corpus, calibration)
    settings = labelled_with(case.spec, rows, case.config)
    output, replace = folder_of(case.config.write.output), case.config.write.replace
    refuse_others(output, case.contents, replace, settings)
    # Reached with --replace only, because `refuse_others` raises otherwise.
    if any(others != settings for others in case.contents.labelled_with):
        text = "--replace deletes the rows in the output, which have other settings."
        yield warning(text, "Set another --output to keep them.")
    elif case.contents.labelled_with:
        yield ok("the rows in the output have the same settings, so the run continues from them.")
    else:
        yield ok("the run starts a new table.")


def _have_workers_other_disks(case: Case) -> bool:
    """Return whether workers certainly or probably see other files than this process."""
    if not is_portable(case.options):
        return case.on_dataflow
    environment = environment_of(case.options)
    return environment != "LOOPBACK" and (environment != "PROCESS" or is_submitted_elsewhere(case.options))


def _check_paths(case: Case) -> Iterator[Finding]:
    findings = list(_unreachable_paths(case))
    yield from findings
    # Not ok with a local input or output on Dataflow, because the check `options` has reported an error.
    if not findings and not (case.on_dataflow and _has_local_paths(case.config)):
        yield ok("workers can reach all paths.")


def _has_local_paths(config: RunConfig) -> bool:
    return any(is_local(path) for _, path in _named_paths(config))


def _named_paths(config: RunConfig) -> list[tuple[str, str]]:
    """Return the options that name files and folders, with their values."""
    inputs = [("input", name) for name in config.read.inputs if is_path(name)]
    return [*inputs, ("output", config.write.output)]


def _unreachable_paths(case: Case) -> Iterator[Finding]:
    # Machines of a cluster may mount the same disk, but Dataflow's workers cannot. Input and output are not
    # reported on Dataflow, because the check `options` already rejects them.
    report, mount = (error, "") if case.on_dataflow else (warning, " Or mount this disk there, at this path.")
    config, handle = case.config, _handle(case)
    for option, uri in _named_paths(config):
        if is_local(uri) and not case.on_dataflow:
            remedy = f"Use a path in a bucket: gs://….{mount}"
            yield warning(f"--{option}={uri!r} is on this machine, and workers are not.", remedy)
    if not urlsplit(handle).scheme:
        remedy = "Copy it to a bucket with labelbeam model mirror."
        yield warning(f"--model={handle!r} must exist on the workers' disks or in their image.", remedy)
    local = [row.uri for row in case.fetched_images() if is_local_uri(row.uri)]
    # A folder of images is not reported twice, because it is the input itself.
    if local and case.corpus and case.corpus.has_files:
        remedy = f"Copy them to a bucket, and list them there.{mount}"
        yield report(f"images of the input are on this machine, such as {local[0]}.", remedy)


def _lacks_output(case: Case) -> str:
    output = case.config.write.output
    return "a path in a bucket" if case.on_dataflow and is_local(output) else case.lacks_bucket(output)


def _lacks_table(case: Case) -> str:
    needed = {"the input": case.corpus, "the model": case.spec, "the output": case.contents}
    return " and ".join(name for name, value in needed.items() if value is None)


def _are_images_elsewhere(case: Case) -> bool:
    return any(not is_local_uri(row.uri) for row in case.fetched_images())


def is_local_uri(uri: str) -> bool:
    """Return whether an image is a file on this machine."""
    return uri.startswith("file://") or "://" not in uri


def _lacks_images(case: Case) -> str:
    return "rows of the input" if not case.rows else "" if case.classifier else "the model"


def _check_images(case: Case) -> Iterator[Finding]:
    assert case.classifier
    # Shorter than in a run, because a person waits for the report.
    results = label_rows(case.rows, case.classifier, case.config, RESPONSE_SEC)
    results.sort(key=lambda result: isinstance(result, Failure))  # labelled images first
    details = [describe_result(result, case.classifier) for result in results]
    failures = [result for result in results if isinstance(result, Failure)]
    reasons = Counter(failure.reason for failure in failures)
    labelled = len(results) - len(failures)
    text = f"{labelled} of the first {len(results)} images were labelled"
    if len(results) == 1:
        text = f"the only image was {'' if labelled else 'not '}labelled"
    if not failures:
        yield ok(f"{text}.", *details)
        return
    text += f"; failed: {', '.join(f'{reason} ({n})' for reason, n in reasons.most_common())}."
    remedy = "A run writes such images to failures/, and may stop (--max_failure_rate)."
    yield warning(text, remedy, *details) if labelled else error(text, "Fix the input first.", *details)


OUTPUT = Check(
    "output", _check_output, is_remote=lambda case: is_gcs(case.config.write.output), lacks=_lacks_output
)
INPUT = Check(
    "input",
    _check_input,
    is_remote=lambda case: any(map(_is_remote, case.config.read.inputs)),
    lacks=lambda case: " and ".join(filter(None, map(case.lacks_bucket, case.config.read.inputs))),
)
MODEL = Check(
    "model",
    _check_model,
    is_remote=lambda case: not is_here(_handle(case)),
    lacks=lambda case: case.lacks_bucket(case.config.model.model),
    limit_sec=_DOWNLOAD_SEC,
)
TABLE = Check("table", _check_table, lacks=_lacks_table)
PATHS = Check("paths", _check_paths, _have_workers_other_disks)
IMAGES = Check(
    "images", _check_images, is_remote=_are_images_elsewhere, lacks=_lacks_images, limit_sec=_IMAGES_SEC
)
