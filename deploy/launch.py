"""Entry point of Dataflow's launcher: `labelbeam run` with the template's parameters."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

from labelbeam.pipeline.cli import entry

_INPUT = "--input="


def arguments_of(parameters: Sequence[str]) -> Iterator[str]:
    """Yield a template's parameters as arguments of the command, a list of inputs as several options."""
    for parameter in parameters:
        value = parameter.removeprefix(_INPUT)
        # A list in JSON, because a parameter can't be given twice, and commas are parts of names.
        if value != parameter and value.startswith("["):
            yield from (f"{_INPUT}{name}" for name in json.loads(value))
        else:
            yield parameter


if __name__ == "__main__":
    # Dataflow passes the template's parameters as flags alone, without a command.
    sys.argv[1:] = ["run", *arguments_of(sys.argv[1:])]
    entry()
