"""What tests of the doctor share."""

from __future__ import annotations

from labelbeam.pipeline.checks.findings import Case, Finding, examine
from labelbeam.pipeline.commands.doctor import CHECKS
from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.runners.options import pipeline_options


def case_of(*beam_flags: str, offline: bool = False, **options: object) -> Case:
    """A run that is not to be; what is not given is nowhere."""
    root = "gs://nowhere/" if "--runner=DataflowRunner" in beam_flags else ""
    nowhere = {"input": f"{root}nowhere.txt", "output": f"{root}nowhere", "model": "nowhere/model"}
    flags = {name: str(value) for name, value in {**nowhere, **options}.items()}
    config = load_config(None, flags, beam_flags)
    return Case(config, pipeline_options(config.beam_flags), offline)


def find(name: str, case: Case) -> list[Finding]:
    """What the check of a name finds; nothing if it does not apply."""
    (check,) = (check for check in CHECKS if check.name == name)
    return examine(check, case) if check.applies(case) else []


def find_one(name: str, case: Case) -> tuple[str, str]:
    """The level and the text of the one thing that a check finds."""
    (finding,) = find(name, case)
    return finding.level.value, f"{finding.what} {finding.remedy}"


def levels_of(findings: list[Finding]) -> list[str]:
    """How bad things are."""
    return [finding.level.value for finding in findings]
