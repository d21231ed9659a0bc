"""Trying again what failed: a run over rows of the failures table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.launch import run_and_report
from pipeline.manifest import columns_of, published_manifest, recorded_config
from pipeline.output import folder_of
from transforms.errors import FAULTS_OF_THE_INPUT, Reason, UserError
from transforms.read import Corpus


def rerun(output: str, only: str, flags: Mapping[str, Any], beam_flags: Sequence[str]) -> bool:
    """Labels images again that failed, with the settings of the run that published them.

    Args:
      output: An output folder.
      only: The reasons to try again, separated by commas.
      flags: Options that are to be others this time.
      beam_flags: Pipeline options, as Beam takes them; they follow those of that run.

    Returns:
      Whether all went well.

    Raises:
      UserError: There is no such reason, or nothing is published there.
    """
    folder = folder_of(output)
    reasons = _reasons(only)
    manifest = published_manifest(folder)
    config = recorded_config(manifest, {**flags, "output": folder}, beam_flags)
    return run_and_report(config, Corpus(folder, "failures", columns=columns_of(manifest), reasons=reasons))


def _reasons(only: str) -> frozenset[str]:
    reasons = frozenset(only.split(","))
    known = [reason.value for reason in Reason if reason not in FAULTS_OF_THE_INPUT]
    for reason in sorted(reasons - set(known)):
        raise UserError(f"only={reason!r} is not allowed: it must be some of {', '.join(known)}.")
    return reasons
