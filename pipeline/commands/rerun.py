"""The command `rerun`: a run over rows of the failures table."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.input_names import input_flags
from labelbeam.pipeline.launch import run_and_report
from labelbeam.pipeline.manifest import published_manifest, recorded_config
from labelbeam.pipeline.output import folder_of
from labelbeam.pipeline.plan import find_input
from labelbeam.pipeline.report.metrics import failures_measured, write_metrics
from labelbeam.pipeline.report.record import Stopwatch, make_attempt
from labelbeam.transforms.errors import FAULTS_OF_THE_INPUT, Reason, UserError
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.failures import LeftOut, find_left_out
from labelbeam.transforms.table.folder import read_manifest
from labelbeam.transforms.table.manifest import Manifest


def rerun(output: str, only: str | None, flags: Mapping[str, Any], beam_flags: Sequence[str]) -> bool:
    """Label failed images again, as the run that published them, and return whether all went well.

    Args:
      output: A table folder.
      only: Reasons of failures to retry, separated by commas; by default all.
      flags: Options that replace those of the run. With an input, its rows are labelled, failed ids
        under their URIs in this input.
      beam_flags: Beam's pipeline options, which are appended to those of the run.

    Raises:
      UserError: A reason does not exist, or the folder has no manifest.
    """
    watch = Stopwatch()
    folder = folder_of(output)
    reasons = _OF_IMAGES if only is None else _reasons(only)
    manifest = published_manifest(folder)
    # The recorded settings, because rows with other settings may not stand in the same table.
    config = recorded_config(manifest, {**flags, "output": folder}, beam_flags)
    failed = manifest.failures_by_reason
    if "input" not in flags and not reasons & failed.keys():
        counts = ", ".join(f"{count:,} {reason}" for reason, count in failed.items()) or "none"
        print(f"Nothing to try again in {output!r}. Failures there: {counts}.")
        # Written here, too, because metrics that grow old mean a command that no longer runs.
        write_metrics(config, make_attempt(config, watch), succeeded=True)
        return True
    with failures_measured(config, watch):
        corpus = _corpus_of(config, manifest, reasons, of_input="input" in flags)
        if corpus.only_failed:
            _report_left_out(corpus, sum(failed.get(reason, 0) for reason in reasons), output, config)
    return run_and_report(config, corpus)


def recorded_flags(output: str) -> tuple[str, ...]:
    """Return Beam's flags of the run that published a table folder; none without a manifest."""
    manifest = read_manifest(folder_of(output))
    return recorded_config(manifest, {}).beam_flags if manifest else ()


def _corpus_of(config: RunConfig, manifest: Manifest, reasons: frozenset[str], of_input: bool) -> Corpus:
    if not of_input:
        folder = folder_of(config.write.output)
        columns, names = manifest.labelled_with.column_types, config.read.secret_params
        boxes = config.read.boxes
        return Corpus(folder, "failures", columns=columns, reasons=reasons, secret_params=names, boxes=boxes)
    # Read from the input, because it may have corrected URIs, while the table has those that failed.
    return dataclasses.replace(find_input(config), reasons=reasons)


# Descriptions of failures that can't be tried again without the input.
_LEFT_OUT = {
    LeftOut.SECRETS: "without the secrets of their addresses, which are in no table",
    LeftOut.INSIDE: "by themselves, because they are inside files",
}


def _report_left_out(corpus: Corpus, failures: int, output: str, config: RunConfig) -> None:
    """Report failures that can't be tried again without the input.

    Raises:
      UserError: No other failures are left.
    """
    lost: Counter[LeftOut] = Counter()
    examples: dict[LeftOut, str] = {}
    for uri, why in find_left_out(corpus):
        lost[why] += 1
        examples.setdefault(why, uri)
    messages = [
        f"{number:,} of {failures:,} failed images can't be fetched again {_LEFT_OUT[why]}, such as "
        f"{examples[why]!r:.300}. Give the input: "
        f"labelbeam rerun {shlex.quote(output)}{input_flags(config.read.inputs)}"
        for why, number in lost.items()
    ]
    if messages and lost.total() >= failures:
        raise UserError(messages[0])
    for message in messages:
        print(f"labelbeam: warning: {message}", file=sys.stderr, flush=True)


# Reasons that a retry of the same input may remove.
_OF_IMAGES = frozenset(reason.value for reason in Reason if reason not in FAULTS_OF_THE_INPUT)


def _reasons(only: str) -> frozenset[str]:
    reasons = frozenset(only.split(","))
    for reason in sorted(reasons - _OF_IMAGES):
        raise UserError(f"--only={reason!r} is not allowed: reasons are {', '.join(sorted(_OF_IMAGES))}.")
    return reasons
