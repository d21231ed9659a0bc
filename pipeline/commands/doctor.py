"""The doctor: checks of a planned run, before time and money are spent on it."""

from __future__ import annotations

import warnings
from collections import Counter

from labelbeam.pipeline.checks import data, google, options, workers
from labelbeam.pipeline.checks.findings import OFFLINE, Case, Finding, Level, examine
from labelbeam.pipeline.config import RunConfig, require_options
from labelbeam.pipeline.copies import name_copies
from labelbeam.pipeline.runners.options import pipeline_options
from labelbeam.transforms.sources.secrets import hide_in_message

# The order matters, because later checks use what earlier ones store in the case.
CHECKS = (
    options.OPTIONS,
    options.RUNNER,
    google.CREDENTIALS,
    google.PROJECT,
    google.BUCKETS,
    data.OUTPUT,
    data.INPUT,
    data.MODEL,
    data.TABLE,
    data.PATHS,
    data.IMAGES,
    google.SOURCES,
    workers.MACHINES,
    workers.CONTAINER,
)


def doctor(config: RunConfig, offline: bool = False, verbose: bool = False) -> bool:
    """Check a planned run, print the findings, and return whether none is an error.

    Raises:
      UserError: Neither labelbeam nor Beam has a flag.
    """
    case = Case(config, pipeline_options(config.beam_flags), offline)
    # After Beam's options, because unknown flags are reported first.
    require_options(config)
    levels: Counter[Level] = Counter()
    offline_checks = []
    with warnings.catch_warnings():
        if not verbose:
            # google.auth warns about credentials without a quota project, which are fine here.
            warnings.simplefilter("ignore")
        for check in CHECKS:
            for finding in examine(check, case) if check.applies(case) else ():
                levels[finding.level] += 1
                if finding is OFFLINE:
                    offline_checks.append(check.name)
                else:
                    # Flushed, because a check may take minutes and the report is often piped.
                    print(format_finding(check.name, finding), flush=True)
    if offline_checks:
        verb = "needs" if len(offline_checks) == 1 else "need"
        print(f"{Level.SKIPPED:<8} {', '.join(offline_checks)}: {verb} a network, and --offline is set.")
    print(format_totals(levels))
    return not levels[Level.ERROR]


def format_finding(name: str, finding: Finding) -> str:
    """Format a finding as a line of the report, and its details as lines below."""
    line = f"{finding.level:<8} {name:<12} {name_copies(finding.text)} {finding.remedy}".rstrip()
    # Hidden here, because findings quote own columns of lists, and errors of libraries.
    return hide_in_message("\n".join([line, *(f"{'':<21} {detail}" for detail in finding.details)]))


def format_totals(levels: Counter[Level]) -> str:
    """Format the last line of the report."""
    plural = {level: "" if levels[level] == 1 else "s" for level in Level}
    errors = f"{levels[Level.ERROR]} error{plural[Level.ERROR]}"
    warned = f"{levels[Level.WARNING]} warning{plural[Level.WARNING]}"
    return f"{errors}, {warned}, {levels[Level.OK]} ok, {levels[Level.SKIPPED]} skipped."
