"""The doctor: looks at a run before it is started, and before money is spent."""

from __future__ import annotations

import warnings
from collections import Counter

from labelbeam.pipeline.checks import account, data, image, options, permissions, places, workers
from labelbeam.pipeline.checks.findings import OFFLINE, Case, Finding, Level, examine
from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.runners.options import pipeline_options

# In this order: each may build on what those before it found.
CHECKS = (
    *options.CHECKS,
    *account.CHECKS,
    *places.CHECKS,
    *data.CHECKS,
    *places.CHECKS_OF_IMAGES,
    *permissions.CHECKS,
    *workers.CHECKS,
    *image.CHECKS,
)


def doctor(config: RunConfig, offline: bool = False, verbose: bool = False) -> bool:
    """Looks at a run, prints what it finds, and gives whether nothing would break it.

    Args:
      config: What the run would be told.
      offline: Leave out what needs a network.
      verbose: Whether libraries may say something, too.

    Raises:
      UserError: A flag is not known to Beam, nor to us.
    """
    case = Case(config, pipeline_options(config.beam_flags), offline)
    levels: Counter[Level] = Counter()
    offline_checks = []
    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")  # Google's library has opinions on credentials
        for check in CHECKS:
            for finding in examine(check, case) if check.applies(case) else ():
                levels[finding.level] += 1
                if finding is OFFLINE:
                    offline_checks.append(check.name)
                else:
                    print(told(check.name, finding), flush=True)
    if offline_checks:
        print(f"{Level.SKIPPED:<8} {', '.join(offline_checks)}: need a network, and --offline was said.")
    print(summed_up(levels))
    return not levels[Level.ERROR]


def told(name: str, finding: Finding) -> str:
    """A finding as the report has it."""
    line = f"{finding.level:<8} {name:<12} {finding.what} {finding.remedy}".rstrip()
    return "\n".join([line, *(f"{'':<21} {detail}" for detail in finding.details)])


def summed_up(levels: Counter[Level]) -> str:
    """The last line of the report."""
    plural = {level: "" if levels[level] == 1 else "s" for level in Level}
    errors = f"{levels[Level.ERROR]} error{plural[Level.ERROR]}"
    warned = f"{levels[Level.WARNING]} warning{plural[Level.WARNING]}"
    return f"{errors}, {warned}, {levels[Level.OK]} ok, {levels[Level.SKIPPED]} left out."
