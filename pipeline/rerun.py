"""Trying again what failed: a run over rows of the failures table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import make_config
from pipeline.launch import run_and_report
from pipeline.manifest import columns_of
from pipeline.output import folder_of
from transforms.errors import Reason, UserError
from transforms.layout import Layout, read_manifest
from transforms.read import Corpus

# Failures of the input, not of an image: there is nothing to fetch.
_FINAL = (Reason.BAD_ROW, Reason.AMBIGUOUS_ID)


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
    values = {name: value for name, value in manifest["config"].items() if value not in (None, [], {})}
    recorded_beam_flags = values.pop("beam_flags", ())
    config = make_config(
        values,
        f"{Layout(folder).manifest}: ",
        {**flags, "output": folder},
        (*recorded_beam_flags, *beam_flags),
    )
    return run_and_report(config, Corpus(folder, "failures", columns=columns_of(manifest), reasons=reasons))


def published_manifest(folder: str) -> dict[str, Any]:
    """The manifest of an output folder.

    Raises:
      UserError: There is none.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder!r} holds no published results: there is no {Layout(folder).manifest}.")
    return manifest


def _reasons(only: str) -> frozenset[str]:
    reasons = frozenset(only.split(","))
    known = [reason.value for reason in Reason if reason not in _FINAL]
    for reason in sorted(reasons - set(known)):
        raise UserError(f"only={reason!r} is not allowed: it must be some of {', '.join(known)}.")
    return reasons
