"""Arguments of commands: the parser, shared options, and refusals of arguments that a command lacks."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from labelbeam.pipeline.config import OPTIONS_BY_HEADING, RUN_OPTIONS, Headers, Inputs, did_you_mean
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.interrupts import interrupts_deferred

OK, NOT_OK, USER_MISTAKE, INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are `UserError`, with near matches."""

    def __init__(self, **settings: Any) -> None:
        # Without abbreviations, because argparse would take a flag of Beam for the beginning of one of ours.
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            hint = did_you_mean(choice[1], re.findall(r"\w+", choice[2]))
            message = f"Unknown command {choice[1]!r}. {hint}".strip().rstrip(".")
        raise UserError(f"{message}{'' if message.endswith('?') else '.'} See {self.prog} --help.")

    def add_positional(self, name: str, metavar: str, text: str) -> None:
        """Add a positional argument, which `require_positionals` demands."""
        # Not by argparse, because an unknown flag, which may be the cause of the lack, is reported first.
        self.add_argument(name, metavar=metavar, help=text).required = False

    @property
    def flags(self) -> list[str]:
        """The parser's flags without their dashes."""
        return [flag.lstrip("-") for flag in self._option_string_actions]


# A flag with dashes between its words, such as --batch-size.
_DASHED = re.compile(r"^--([a-z]\w*(?:-\w+)+)(?==|$)")


def normalise(arguments: Sequence[str]) -> list[str]:
    """Write flags with underscores, as Beam does, and join values such as `-1,1` to them.

    Values are joined, because argparse takes a value that begins with a dash for a flag.
    """
    joined: list[str] = []
    for argument in arguments:
        argument = _DASHED.sub(lambda flag: f"--{flag[1].replace('-', '_')}", argument)
        after_a_flag = bool(joined) and joined[-1].startswith("--") and "=" not in joined[-1]
        if after_a_flag and re.match(r"-\.?\d", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def add_options(parser: argparse.ArgumentParser, names: Collection[str] = ()) -> None:
    """Add --verbose, and options of a run under the headings of their sections."""
    parser.add_argument("--verbose", action="store_true", help="show logs and tracebacks")
    for heading, options in OPTIONS_BY_HEADING.items():
        if listed := [name for name in options if name in names]:
            group = parser.add_argument_group(heading)
            for name in listed:
                _add_option(group, name)


def _add_option(group: Any, name: str) -> None:
    option = RUN_OPTIONS[name]
    default = f" (default: {option.default})" if option.default not in ("", None, (), False) else ""
    allowed = f"; {option.allowed}" if option.type is not str else ""
    # Doubled, because argparse formats help texts with %.
    text = f"{option.help}{allowed}{default}".replace("%", "%%")
    settings: dict[str, Any] = {"metavar": "VALUE"}
    if option.type is bool:
        settings = {"metavar": "true", "nargs": "?", "const": True}
    elif option.type in (Headers, Inputs):
        settings["action"] = "append"
    # No default here, because an option that is absent must not replace the value of a file.
    group.add_argument(f"--{name}", help=text, default=argparse.SUPPRESS, **settings)


def flags_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a run that the command line sets."""
    return {name: getattr(args, name) for name in RUN_OPTIONS if hasattr(args, name)}


@contextmanager
def loading(args: argparse.Namespace, modules: str = "Beam and TensorFlow") -> Iterator[None]:
    """Print a line on a terminal while modules are imported, because the imports take seconds."""
    if args.verbose or sys.stderr.isatty():
        print(f"Loading {modules}…", file=sys.stderr, flush=True)
    # Deferred, because an interrupt inside an import leaves half of a module behind.
    with interrupts_deferred():
        yield


def refuse_unknown(args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Refuse arguments that a command does not have, and after them the lack of one that it needs."""
    _refuse_misplaced(args, rest)
    if rest:
        hint = did_you_mean(rest[0].partition("=")[0].lstrip("-"), args.parser.flags, "--")
        raise UserError(f"Unknown argument {rest[0]}. {hint}See {args.parser.prog} --help.")
    require_positionals(args)


def _refuse_misplaced(args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Refuse options of `run` that another command lacks, flags with one dash, and words without a flag."""
    flags, program = args.parser.flags, args.parser.prog
    words = []
    for before, argument in zip(("", *rest), rest, strict=False):
        name = argument.partition("=")[0].lstrip("-")
        if argument.startswith("--"):
            if name in (*RUN_OPTIONS, "config") and name not in flags:
                why = (
                    ", because a rerun keeps the settings of the run"
                    if args.parser.prog.endswith(" rerun")
                    else ""
                )
                raise UserError(f"{program} has no option --{name}{why}. Remove it, or use labelbeam run.")
        elif argument.startswith("-"):
            # The first ones by their first letter, because other programs have letters for these.
            by_letter = [flag for flag in ("input", "output", "model", "config", "verbose") if flag in flags]
            near = [flag for flag in by_letter if flag[0] == name]
            hint = f"Did you mean --{near[0]}? " if near else did_you_mean(name, flags, "--")
            raise UserError(f"{argument} is no flag: flags have two dashes. {hint}See {program} --help.")
        elif not before.startswith("--") or "=" in before:
            words.append(argument)
    if words:
        more = f" and {len(words) - 1:,} more are no flags" if words[1:] else " is no flag"
        raise UserError(f"{words[0]!r}{more}. {_remedy_of_words(args, words)}")


def _remedy_of_words(args: argparse.Namespace, words: Sequence[str]) -> str:
    if "input" not in args.parser.flags or not os.path.exists(words[0]):
        return f"See {args.parser.prog} --help."
    if not words[1:] and not hasattr(args, "input"):
        return f"Write --input {shlex.quote(words[0])}."
    # Most likely files of a glob that the shell has expanded.
    folder = os.path.dirname(words[0]) or "."
    return (
        f"Write --input {shlex.quote(folder)}, put a glob in quotes, or write --input before each of several "
        "inputs."
    )


def require_positionals(args: argparse.Namespace) -> None:
    """Refuse the lack of a positional argument."""
    for action in args.parser._actions:
        if not action.option_strings and getattr(args, action.dest, None) is None:
            raise UserError(f"{action.metavar} is missing. See {args.parser.prog} --help.")


def refuse_unknown_to_beam(args: argparse.Namespace, rest: Sequence[str], others: Sequence[str]) -> None:
    """Refuse flags that neither a command nor Beam has, given the flags that Beam gets from elsewhere."""
    _refuse_misplaced(args, rest)
    if rest:  # else without Beam, because its import takes seconds
        with loading(args):
            from labelbeam.pipeline.runners.options import pipeline_options

        pipeline_options((*others, *rest), args.parser.flags, args.parser.prog)
