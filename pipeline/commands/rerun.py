"""Trying again what failed: a run over rows of the failures table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.pipeline.launch import run_and_report
from labelbeam.pipeline.manifest import published_manifest, recorded_config
from labelbeam.pipeline.output import folder_of
from labelbeam.pipeline.plan import known_types
from labelbeam.transforms.errors import FAULTS_OF_THE_INPUT, Reason, UserError
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.table.manifest import Manifest


def rerun(output: str, only: str | None, flags: Mapping[str, Any], beam_flags: Sequence[str]) -> bool:
    """Label images again that failed, with the settings of the run that published them.

    Args:
      output: An output folder.
      only: The reasons to try again, separated by commas; by default all.
      flags: Options that are to be others this time. With an input, its rows are labelled, failed ids
        under the URIs that they have there.
      beam_flags: Pipeline options, as Beam takes them; they follow those of that run.

    Returns:
      Whether all went well.

    Raises:
      UserError: There is no such reason, or nothing is published there.
    """
    folder = folder_of(output)
    reasons = _OF_IMAGES if only is None else _reasons(only)
    manifest = published_manifest(folder)
    failed = manifest.failures_by_reason
    if "input" not in flags and not reasons & failed.keys():
        there = ", ".join(f"{count:,} {reason}" for reason, count in failed.items()) or "none"
        print(f"Nothing to try again in {output!r}. Failures there: {there}.")
        return True
    config = recorded_config(manifest, {**flags, "output": folder}, beam_flags)
    return run_and_report(config, _corpus_of(config, manifest, reasons, of_input="input" in flags))


def _corpus_of(config: RunConfig, manifest: Manifest, reasons: frozenset[str], of_input: bool) -> Corpus:
    if not of_input:
        folder = folder_of(config.write.output)
        return Corpus(folder, "failures", columns=manifest.labelled_with.column_types, reasons=reasons)
    # The list may have corrected URIs; those in the table are the ones that failed.
    listed = find_corpus(config.read, known_types(config, manifest))
    return dataclasses.replace(listed, reasons=reasons)


# Reasons that another try may do away with, the input being as it is.
_OF_IMAGES = frozenset(reason.value for reason in Reason if reason not in FAULTS_OF_THE_INPUT)


def _reasons(only: str) -> frozenset[str]:
    reasons = frozenset(only.split(","))
    for reason in sorted(reasons - _OF_IMAGES):
        raise UserError(
            f"only={reason!r} is not allowed: it must be some of {', '.join(sorted(_OF_IMAGES))}."
        )
    return reasons
