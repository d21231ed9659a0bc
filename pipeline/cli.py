"""The command line.

Exit status: 0 every image accounted for, within the failure budget; 1 not so;
2 a mistake of the user's; 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from labelbeam import __version__
from labelbeam.pipeline import GO_ON
from labelbeam.pipeline.config import Kind, ModelConfig, load_config, options
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.interrupts import ENDING_SIGNALS, handle_ending_signals, interrupts_deferred

OK, NOT_OK, USER_MISTAKE, INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See {self.prog} --help.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status."""
    try:
        args, rest = _parser().parse_known_args(_normalise(sys.argv[1:] if argv is None else argv))
        _quieten(args.verbose)
        handle_ending_signals(signal.default_int_handler)
        return args.command(args, rest)
    except UserError as e:
        return _fail(e, USER_MISTAKE)
    except RunError as e:
        return _fail(e, NOT_OK)
    except KeyboardInterrupt as e:
        if not logging.getLogger().isEnabledFor(logging.INFO):
            logging.disable(logging.CRITICAL)  # threads of Beam that lose their process would log tracebacks
        return _leave(str(e) or f"Interrupted. {GO_ON}", INTERRUPTED)
    except BrokenPipeError:  # who reads the output wants no more of it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_OK


# A flag with dashes between its words, such as --batch-size.
_DASHED = re.compile(r"^--([a-z]\w*(?:-\w+)+)(?==|$)")


def _normalise(arguments: Sequence[str]) -> list[str]:
    """Write flags with underscores, as Beam does, and join values such as `-1,1` to them.

    Values are joined, because argparse takes what begins with a dash for a flag.
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
    return _leave(f"labelbeam: {error}", status)


def _leave(message: str, status: int) -> int:
    print(message, file=sys.stderr, flush=True)
    return status


def entry() -> NoReturn:
    """Run a command as a process, and end what it leaves behind instead of waiting for it."""
    from labelbeam.pipeline.runners.local import end_children

    status = main()
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.excepthook = lambda _: None  # threads that miss a process that ends now
    end_children()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="labelbeam", description="Label image corpora with TensorFlow Hub classifiers.")
    parser.add_argument("--version", action="version", version=f"labelbeam {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
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
        description="Label a corpus. Flags not listed here go to Beam, such as --runner=DataflowRunner.",
        epilog=(__doc__ or "").partition("\n\n")[2],
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="the same settings from a YAML file; flags win")
    _add_options(parser, options())
    parser.set_defaults(command=_run)


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="look at a run before it is started",
        description="Look at a run before it is started, with the flags that it would have, Beam's among "
        "them. Nothing is started, and nothing stays in the output. One line for each finding; exit status 0 "
        "if none is an error, 1 if one is, 2 if the command itself is mistaken.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="the settings of the run; flags win")
    parser.add_argument("--offline", action="store_true", help="leave out what needs a network")
    _add_options(parser, options())
    parser.set_defaults(command=_doctor)


def _add_rerun(commands: Any) -> None:
    parser = commands.add_parser(
        "rerun",
        help="label images again that failed",
        description="Label images again that failed, with the settings of the run that published them. "
        "Flags not listed here go to Beam.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="OUTPUT", help="an output folder")
    parser.add_argument(
        "--only", metavar="REASONS", help="reasons to try again, such as timeout,http_5xx; by default all"
    )
    _add_options(parser, {name: f for name, f in options().items() if name not in _OF_THE_FIRST_RUN})
    parser.set_defaults(command=_rerun)


# What a rerun can't change.
_OF_THE_FIRST_RUN = (
    *("id_column", "column_types", "output", "replace", "refresh"),
    *("model", "image_size", "resize", "input_range", "channel_mean", "channel_std", "channel_order"),
    *("outputs", "labels", "top_k", "threshold", "signature", "output_name"),
)


def _add_options(parser: argparse.ArgumentParser, known: Mapping[str, dataclasses.Field]) -> None:
    parser.add_argument("--verbose", action="store_true", help="show logs and tracebacks")
    for name, f in known.items():
        default = f" (default: {f.default})" if f.default not in ("", None, (), False) else ""
        kind: Kind = f.metadata["kind"]
        allowed = f"; {kind.allowed}" if kind.choices or kind.type is not str else ""
        text = f"{f.metadata['help']}{allowed}{default}".replace("%", "%%")
        switch: dict[str, Any] = {"nargs": "?", "const": True} if kind.type is bool else {}
        metavar = "true" if switch else "VALUE"
        parser.add_argument(f"--{name}", help=text, default=argparse.SUPPRESS, metavar=metavar, **switch)


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="prove that published tables are whole",
        description="Read published tables and prove that they are as their manifest describes them, and, "
        "with --input, that each image of an input has a row of its URI. "
        "Exit status 0 if so, 1 if not; one line for each finding.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="OUTPUT", help="an output folder")
    _add_options(parser, {name: options()[name] for name in ("input", "input_format", "uri_column")})
    parser.set_defaults(command=_verify)


def _add_model(commands: Any) -> None:
    model = commands.add_parser("model", help="look at a model, or copy it to where workers load it from")
    actions = model.add_subparsers(title="actions", required=True, metavar="ACTION")
    inspect = actions.add_parser(
        "inspect",
        help="describe a model's inputs and outputs, and whether it can be used",
        description="Describe a model's inputs and outputs. Exit status 0 if labelbeam can use it, 1 if not.",
        allow_abbrev=False,
    )
    inspect.add_argument("handle", metavar="MODEL", help=options()["model"].metadata["help"])
    known = {n: f for n, f in options().items() if n in ModelConfig.__slots__ and n != "model"}
    _add_options(inspect, known)
    inspect.set_defaults(command=_inspect)
    mirror = actions.add_parser(
        "mirror",
        help="copy a model to a folder or bucket",
        description="Copy a model to where all workers can load it from; prints the copy's handle.",
        allow_abbrev=False,
    )
    mirror.add_argument("handle", metavar="MODEL", help=options()["model"].metadata["help"])
    mirror.add_argument("target", metavar="FOLDER", help="local or gs://; new or empty")
    mirror.add_argument("--verbose", action="store_true", help="show logs and tracebacks")
    mirror.set_defaults(command=_mirror)


def _add_sample(commands: Any) -> None:
    parser = commands.add_parser("sample", help="label the sample photos with the embedded model")
    parser.add_argument("--output", default="labelbeam-sample", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--verbose", action="store_true", help="show logs and tracebacks")
    parser.set_defaults(command=_sample)


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in options() if hasattr(args, name)}


def _run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    with interrupts_deferred():
        from labelbeam.pipeline.launch import run_and_report

    return OK if run_and_report(load_config(args.config, _flags(args), rest)) else NOT_OK


def _doctor(args: argparse.Namespace, rest: Sequence[str]) -> int:
    with interrupts_deferred():
        from labelbeam.pipeline.commands.doctor import doctor

    config = load_config(args.config, _flags(args), rest)
    return OK if doctor(config, args.offline, args.verbose) else NOT_OK


def _rerun(args: argparse.Namespace, rest: Sequence[str]) -> int:
    with interrupts_deferred():
        from labelbeam.pipeline.commands.rerun import rerun

    return OK if rerun(args.folder, args.only, _flags(args), rest) else NOT_OK


def _verify(args: argparse.Namespace, rest: Sequence[str]) -> int:
    with interrupts_deferred():
        from labelbeam.pipeline.commands.verify import verify
        from labelbeam.pipeline.manifest import published_manifest
        from labelbeam.pipeline.output import folder_of

    _refuse(rest, "verify")
    flags = _flags(args)
    if flags and "input" not in flags:
        raise UserError(f"--{next(iter(flags))} is for reading an input. Add --input.")
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
    "What has no row is labelled by the same run command."
)


def _inspect(args: argparse.Namespace, rest: Sequence[str]) -> int:
    with interrupts_deferred():
        from labelbeam.pipeline.commands.model import inspect_model

    _refuse(rest, "model inspect")
    fits, text = inspect_model(args.handle, _flags(args))
    print(text)
    return OK if fits else NOT_OK


def _mirror(args: argparse.Namespace, rest: Sequence[str]) -> int:
    with interrupts_deferred():
        from labelbeam.pipeline.commands.model import mirror_model

    _refuse(rest, "model mirror")
    print(mirror_model(args.handle, args.target))
    return OK


def _refuse(rest: Sequence[str], command: str) -> None:
    if rest:
        raise UserError(f"Unknown argument {rest[0]}. See labelbeam {command} --help.")


def _sample(args: argparse.Namespace, rest: Sequence[str]) -> int:
    with interrupts_deferred():
        from labelbeam.pipeline.commands.sample import run_sample

    return OK if run_sample(args.output, rest) else NOT_OK


def _quieten(verbose: bool) -> None:
    """Keep start-up notices of TensorFlow and Beam away, here and in worker processes."""
    if not verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(levelname)s %(message)s")
