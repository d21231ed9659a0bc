"""The command line.

Exit status: 0 every image has a row, within the failure budget; 1 the run failed or exceeded the budget;
2 the command is wrong; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from labelbeam import __version__
from labelbeam.pipeline import GO_ON
from labelbeam.pipeline.config import OPTIONS_BY_HEADING, RUN_OPTIONS, Headers, did_you_mean, load_config
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.interrupts import ENDING_SIGNALS, handle_ending_signals, interrupts_deferred
from labelbeam.transforms.sources.secrets import hide_in_message

OK, NOT_OK, USER_MISTAKE, INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    def __init__(self, **settings: Any) -> None:
        # Without abbreviations, because argparse would take a flag of Beam for the beginning of one of ours.
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            hint = did_you_mean(choice[1], re.findall(r"\w+", choice[2]))
            message = f"Unknown command {choice[1]!r}. {hint}".strip().rstrip(".")
        raise UserError(f"{message}{'' if message.endswith('?') else '.'} See {self.prog} --help.")

    def add_positional(self, name: str, metavar: str, text: str) -> None:
        """Add a positional argument, which `_require_positionals` demands."""
        # Not by argparse, because an unknown flag, which may be the cause of the lack, is reported first.
        self.add_argument(name, metavar=metavar, help=text).required = False

    @property
    def flags(self) -> list[str]:
        """The parser's flags without their dashes."""
        return [flag.lstrip("-") for flag in self._option_string_actions]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status."""
    try:
        # Unknown flags are kept and not refused, because Beam may have them.
        args, rest = _parser().parse_known_args(_normalise(sys.argv[1:] if argv is None else argv))
        _quieten(args.verbose)
        # Only now, because `labelbeam.__main__` handles signals until the modules are imported.
        handle_ending_signals(signal.default_int_handler)
        return args.command(args, rest)
    except UserError as e:
        return _fail(e, USER_MISTAKE)
    except RunError as e:
        return _fail(e, NOT_OK)
    except KeyboardInterrupt as e:
        if not logging.getLogger().isEnabledFor(logging.INFO):
            logging.disable(logging.CRITICAL)  # threads of Beam that lose their process would log tracebacks
        return _leave(str(e) or "Interrupted.", INTERRUPTED)
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        # Replaced, because Python flushes standard output at its end and would print another error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_OK


# A flag with dashes between its words, such as --batch-size.
_DASHED = re.compile(r"^--([a-z]\w*(?:-\w+)+)(?==|$)")


def _normalise(arguments: Sequence[str]) -> list[str]:
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


def _fail(error: Exception, status: int) -> int:
    if logging.getLogger().isEnabledFor(logging.INFO):
        logging.exception("labelbeam failed")
    # Hidden, because errors quote lines of lists and options, which may have secrets.
    return _leave(hide_in_message(f"labelbeam: {error}"), status)


def _leave(message: str, status: int) -> int:
    print(message, file=sys.stderr, flush=True)
    return status


def entry() -> NoReturn:
    """Run a command as a process, and kill threads and children that it leaves behind."""
    from labelbeam.pipeline.runners.local import end_children

    status = main()
    # Ignored from here on, because a second Ctrl-C would leave children behind.
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Threads of Beam and the children die with this process, because waiting for them could take minutes;
    # their tracebacks about lost connections are of no use.
    threading.excepthook = lambda _: None
    end_children()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="labelbeam", description="Label image corpora with TensorFlow Hub classifiers.")
    parser.add_argument("--version", action="version", version=f"labelbeam {__version__}")
    # Without a command, the only thing to do is to report an unknown flag, else the lack of a command.
    parser.set_defaults(command=_refuse_unknown, parser=parser, verbose=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_run(commands)
    _add_doctor(commands)
    _add_rerun(commands)
    _add_verify(commands)
    _add_model(commands)
    _add_sample(commands)
    return parser


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="label a corpus",
        usage="labelbeam run --input URIS --model MODEL --output FOLDER [OPTION …] [BEAM_OPTION …]",
        description="Label a corpus. Flags not listed here go to Beam, such as --runner=DataflowRunner. "
        "Words of a flag may also be joined by dashes.",
        epilog=(__doc__ or "").partition("\n\n")[2],
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of these options; flags win")
    _add_options(parser, RUN_OPTIONS)
    parser.set_defaults(command=_run, parser=parser)


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="check a run before it is started",
        usage="labelbeam doctor [--offline] [OPTION …] [BEAM_OPTION …]",
        description="Check a run before it is started, with the flags of the run. Nothing is started, and "
        "nothing stays in the output. One line for each finding. Exit status 0 without errors, 1 with "
        "errors, 2 if the command itself is wrong.",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of the run's options; flags win")
    parser.add_argument("--offline", action="store_true", help="skip checks that need a network")
    _add_options(parser, RUN_OPTIONS)
    parser.set_defaults(command=_doctor, parser=parser)


def _add_rerun(commands: Any) -> None:
    parser = commands.add_parser(
        "rerun",
        help="retry failed images",
        usage="labelbeam rerun OUTPUT [--only REASONS] [--input URIS] [OPTION …] [BEAM_OPTION …]",
        description="Retry failed images, with the settings of the run that published them. With --input, "
        "label the rows of an input. Flags not listed here go to Beam.",
    )
    parser.add_positional("folder", "OUTPUT", "table folder")
    parser.add_argument(
        "--only", metavar="REASONS", help="reasons to retry, such as timeout,http_5xx; by default all"
    )
    _add_options(parser, [name for name in RUN_OPTIONS if name not in _FIXED_BY_THE_FIRST_RUN])
    parser.set_defaults(command=_rerun, parser=parser)


# Options that a rerun can't change, because all rows of a table have them in common.
_FIXED_BY_THE_FIRST_RUN = (
    *("id_column", "column_types", "secret_params", "output", "replace", "refresh"),
    *("model", "image_size", "resize", "input_range", "channel_mean", "channel_std", "channel_order"),
    *("outputs", "labels", "top_k", "threshold", "signature", "output_name"),
)


def _add_options(parser: argparse.ArgumentParser, names: Collection[str] = ()) -> None:
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
    elif option.type == Headers:
        settings["action"] = "append"
    # No default here, because an option that is absent must not replace the value of a file.
    group.add_argument(f"--{name}", help=text, default=argparse.SUPPRESS, **settings)


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="check published tables",
        description="Read published tables and compare them with their manifest, and, with --input, check "
        "that each image of an input has a row of its URI. "
        "Exit status 0 without findings, 1 with findings; one line for each.",
    )
    parser.add_positional("folder", "OUTPUT", "table folder")
    _add_options(parser, OPTIONS_BY_HEADING["input"])
    parser.set_defaults(command=_verify, parser=parser)


def _add_model(commands: Any) -> None:
    model = commands.add_parser("model", help="describe or copy a model")
    model.set_defaults(parser=model)
    actions = model.add_subparsers(title="actions", metavar="ACTION")
    inspect = actions.add_parser(
        "inspect",
        help="describe a model's inputs and outputs, and whether labelbeam can use it",
        description="Describe a model's inputs and outputs. Exit status 0 if labelbeam can use it, 1 if not.",
    )
    inspect.add_positional("handle", "MODEL", RUN_OPTIONS["model"].help)
    _add_options(inspect, OPTIONS_BY_HEADING["model"].keys() - {"model"})
    inspect.set_defaults(command=_inspect, parser=inspect)
    mirror = actions.add_parser(
        "mirror",
        help="copy a model to a folder or bucket",
        description="Copy a model to a place that all workers can load it from, and print the copy's handle.",
    )
    mirror.add_positional("handle", "MODEL", RUN_OPTIONS["model"].help)
    mirror.add_positional("target", "FOLDER", "new or empty folder, local or gs://")
    _add_options(mirror)
    mirror.set_defaults(command=_mirror, parser=mirror)


def _add_sample(commands: Any) -> None:
    parser = commands.add_parser("sample", help="label the sample photos with the embedded model")
    parser.add_argument("--output", default="labelbeam-sample", metavar="DIR", help="default: %(default)s")
    _add_options(parser)
    parser.set_defaults(command=_sample, parser=parser)


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in RUN_OPTIONS if hasattr(args, name)}


@contextmanager
def _loading(args: argparse.Namespace, modules: str = "Beam and TensorFlow") -> Iterator[None]:
    """Print a line on a terminal while modules are imported, because the imports take seconds."""
    if args.verbose or sys.stderr.isatty():
        print(f"Loading {modules}…", file=sys.stderr, flush=True)
    # Deferred, because an interrupt inside an import leaves half of a module behind.
    with interrupts_deferred():
        yield


def _run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    _refuse_unknown_to_beam(args, rest, load_config(args.config, {}).beam_flags)
    config = load_config(args.config, _flags(args), rest)
    with _loading(args):
        from labelbeam.pipeline.launch import run_and_report

    with _work_kept():
        return OK if run_and_report(config) else NOT_OK


@contextmanager
def _work_kept() -> Iterator[None]:
    """Add to an interrupt that the same command continues, which is true of runs alone."""
    try:
        yield
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(str(e) or f"Interrupted. {GO_ON}") from e


def _doctor(args: argparse.Namespace, rest: Sequence[str]) -> int:
    _refuse_unknown_to_beam(args, rest, load_config(args.config, {}).beam_flags)
    config = load_config(args.config, _flags(args), rest)
    with _loading(args):
        from labelbeam.pipeline.commands.doctor import doctor

    return OK if doctor(config, args.offline, args.verbose) else NOT_OK


def _rerun(args: argparse.Namespace, rest: Sequence[str]) -> int:
    with _loading(args):
        from labelbeam.pipeline.commands.rerun import recorded_flags, rerun

    _refuse_unknown_to_beam(args, rest, recorded_flags(args.folder) if args.folder else ())
    _require_positionals(args)
    with _work_kept():
        return OK if rerun(args.folder, args.only, _flags(args), rest) else NOT_OK


def _verify(args: argparse.Namespace, rest: Sequence[str]) -> int:
    _refuse_unknown(args, rest)
    with _loading(args, "Beam"):
        from labelbeam.pipeline.commands.verify import verify
        from labelbeam.pipeline.manifest import published_manifest
        from labelbeam.pipeline.output import folder_of

    flags = _flags(args)
    if flags and "input" not in flags:
        raise UserError(f"--{next(iter(flags))} is an option of an input. Add --input.")
    findings = verify(args.folder, flags)
    if not findings:
        manifest = published_manifest(folder_of(args.folder))
        rows, files = sum(manifest.rows.values()), len(manifest.files)
        print(f"{args.folder}: all is as its manifest lists, {rows:,} rows in {files:,} files.")
        if flags:
            print(f"Each image of {flags['input']} has a row.")
    for finding in findings:
        print(finding)
    if findings:
        print(_MEND)
    return NOT_OK if findings else OK


_MEND = (
    "Put whole copies in the place of files that are damaged or missing, or label into another --output. "
    "The same run command labels images that have no row."
)


def _inspect(args: argparse.Namespace, rest: Sequence[str]) -> int:
    _refuse_unknown(args, rest)
    with _loading(args):
        from labelbeam.pipeline.commands.model import inspect_model

    fits, text = inspect_model(args.handle, _flags(args))
    print(text)
    return OK if fits else NOT_OK


def _mirror(args: argparse.Namespace, rest: Sequence[str]) -> int:
    _refuse_unknown(args, rest)
    with _loading(args):
        from labelbeam.pipeline.commands.model import mirror_model

    copy, options = mirror_model(args.handle, args.target)
    print(copy)
    if options:
        # On stderr, because scripts read the copy's path from stdout.
        print(f"Use the copy with: --model {shlex.quote(copy)} {options}", file=sys.stderr)
    return OK


def _refuse_unknown(args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Refuse arguments that a command does not have, and after them the lack of one that it needs."""
    _refuse_misplaced(args, rest)
    if rest:
        hint = did_you_mean(rest[0].partition("=")[0].lstrip("-"), args.parser.flags, "--")
        raise UserError(f"Unknown argument {rest[0]}. {hint}See {args.parser.prog} --help.")
    _require_positionals(args)


def _refuse_misplaced(args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Refuse options of `run` that another command lacks, flags with one dash, and words without a flag."""
    flags, program = args.parser.flags, args.parser.prog
    words = []
    for before, argument in zip(("", *rest), rest, strict=False):
        name = argument.partition("=")[0].lstrip("-")
        if argument.startswith("--"):
            if name in (*RUN_OPTIONS, "config") and name not in flags:
                why = ", because a rerun keeps the settings of the run" if args.command is _rerun else ""
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
    return f"--input takes one value. Write --input {shlex.quote(folder)}, or put a glob in quotes."


def _require_positionals(args: argparse.Namespace) -> None:
    for action in args.parser._actions:
        if not action.option_strings and getattr(args, action.dest, None) is None:
            raise UserError(f"{action.metavar} is missing. See {args.parser.prog} --help.")


def _refuse_unknown_to_beam(args: argparse.Namespace, rest: Sequence[str], others: Sequence[str]) -> None:
    """Refuse flags that neither a command nor Beam has, given the flags that Beam gets from elsewhere."""
    _refuse_misplaced(args, rest)
    if rest:  # else without Beam, because its import takes seconds
        with _loading(args):
            from labelbeam.pipeline.runners.options import pipeline_options

        pipeline_options((*others, *rest), args.parser.flags, args.parser.prog)


def _sample(args: argparse.Namespace, rest: Sequence[str]) -> int:
    _refuse_unknown_to_beam(args, rest, ())
    with _loading(args):
        from labelbeam.pipeline.commands.sample import run_sample

    return OK if run_sample(args.output, rest) else NOT_OK


def _quieten(verbose: bool) -> None:
    """Keep start-up notices of TensorFlow and Beam away, here and in worker processes."""
    # Also if notices are to be shown, because the probe of a model silences TensorFlow otherwise.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if verbose else "3")
    if not verbose:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, handlers=[handler])


class _Formatter(logging.Formatter):
    """Hides secrets in logs, tracebacks included, because errors of libraries quote addresses."""

    def format(self, record: logging.LogRecord) -> str:
        return hide_in_message(super().format(record))
