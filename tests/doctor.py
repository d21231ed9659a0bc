"""Helpers for tests of the doctor."""

from __future__ import annotations

from labelbeam.pipeline.checks.findings import Case, Finding, examine
from labelbeam.pipeline.commands.doctor import CHECKS
from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.runners.options import pipeline_options


def case_of(*beam_flags: str, offline: bool = False, **options: object) -> Case:
    """Return a planned run; input, output and model do not exist unless given."""
    root = "gs://nowhere/" if "--runner=DataflowRunner" in beam_flags else ""
    nowhere = {"input": f"{root}nowhere.txt", "output": f"{root}nowhere", "model": "nowhere/model"}
    flags = {
        name: list(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in {**nowhere, **options}.items()
    }
    config = load_config(None, flags, beam_flags)
    return Case(config, pipeline_options(config.beam_flags), offline)


def find(name: str, case: Case) -> list[Finding]:
    """Return the findings of a check; none if it does not apply."""
    (check,) = (check for check in CHECKS if check.name == name)
    return examine(check, case) if check.applies(case) else []


def find_one(name: str, case: Case) -> tuple[str, str]:
    """Return level and text of the only finding of a check."""
    (finding,) = find(name, case)
    return finding.level.value, f"{finding.text} {finding.remedy}"


def levels_of(findings: list[Finding]) -> list[str]:
    """Return the levels of findings."""
    return [finding.level.value for finding in findings]
