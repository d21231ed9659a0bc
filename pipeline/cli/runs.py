"""Commands that label images, and commands about runs and models."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from labelbeam.pipeline import GO_ON
from labelbeam.pipeline.cli.parser import (
    NOT_OK,
    OK,
    add_options,
    flags_of,
    loading,
    refuse_unknown,
    refuse_unknown_to_beam,
    require_positionals,
)
from labelbeam.pipeline.config import OPTIONS_BY_HEADING, RUN_OPTIONS, load_config
from labelbeam.pipeline.input_names import public_input
from labelbeam.transforms.errors import UserError

_EXIT_STATUS = """\
Exit status: 0 every image has a row, within the failure budget; 1 the run failed or exceeded the budget;
2 the command is wrong; 130 interrupted.
"""


def add_commands(commands: Any) -> None:
    """Add the commands of this module to a parser."""
    for add in (_add_run, _add_doctor, _add_rerun, _add_verify, _add_model, _add_sample):
        add(commands)


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="label a corpus",
        usage="labelbeam run --input URIS --model MODEL --output FOLDER [OPTION …] [BEAM_OPTION …]",
        description="Label a corpus. Flags not listed here go to Beam, such as --runner=DataflowRunner. "
        "Words of a flag may also be joined by dashes.",
        epilog=_EXIT_STATUS,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of these options; flags win")
    add_options(parser, RUN_OPTIONS)
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
    add_options(parser, RUN_OPTIONS)
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
    add_options(parser, [name for name in RUN_OPTIONS if name not in _FIXED_BY_THE_FIRST_RUN])
    parser.set_defaults(command=_rerun, parser=parser)


# Options that a rerun can't change, because all rows of a table have them in common.
_FIXED_BY_THE_FIRST_RUN = (
    *("id_column", "column_types", "secret_params", "output", "replace", "refresh"),
    *("model", "image_size", "resize", "input_range", "channel_mean", "channel_std", "channel_order"),
    *("outputs", "labels", "top_k", "threshold", "calibration", "signature", "output_name"),
)


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="check published tables",
        description="Read published tables and compare them with their manifest, and, with --input, check "
        "that each image of an input has a row of its URI. "
        "Exit status 0 without findings, 1 with findings; one line for each.",
    )
    parser.add_positional("folder", "OUTPUT", "table folder")
    add_options(parser, OPTIONS_BY_HEADING["input"])
    parser.set_defaults(command=_verify, parser=parser)


def _add_model(commands: Any) -> None:
    model = commands.add_parser("model", help="describe or copy a model")
    model.set_defaults(parser=model)
    actions = model.add_subparsers(title="actions", metavar="ACTION")
    inspect = actions.add_parser(
        "inspect",
        help="describe a model's inputs and outputs, and whether labelbeam can use it",
        description="Describe a model's inputs and outputs. Exit status 0 if labelbeam can use it, 1 if not. "
        "With --input, also label 10 of its images, or as many as --limit sets.",
    )
    inspect.add_positional("handle", "MODEL", RUN_OPTIONS["model"].help)
    add_options(
        inspect, {*OPTIONS_BY_HEADING["input"], *OPTIONS_BY_HEADING["model"], "allow_hosts"} - {"model"}
    )
    inspect.set_defaults(command=_inspect, parser=inspect)
    mirror = actions.add_parser(
        "mirror",
        help="copy a model to a folder or bucket",
        description="Copy a model to a place that all workers can load it from, and print the copy's handle.",
    )
    mirror.add_positional("handle", "MODEL", RUN_OPTIONS["model"].help)
    mirror.add_positional("target", "FOLDER", "new or empty folder, local or gs://")
    add_options(mirror)
    mirror.set_defaults(command=_mirror, parser=mirror)


def _add_sample(commands: Any) -> None:
    parser = commands.add_parser("sample", help="label the sample photos with the embedded model")
    parser.add_argument("--output", default="labelbeam-sample", metavar="DIR", help="default: %(default)s")
    add_options(parser)
    parser.set_defaults(command=_sample, parser=parser)


def _run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    refuse_unknown_to_beam(args, rest, load_config(args.config, {}).beam_flags)
    config = load_config(args.config, flags_of(args), rest)
    with loading(args):
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
    refuse_unknown_to_beam(args, rest, load_config(args.config, {}).beam_flags)
    config = load_config(args.config, flags_of(args), rest)
    with loading(args):
        from labelbeam.pipeline.commands.doctor import doctor

    return OK if doctor(config, args.offline, args.verbose) else NOT_OK


def _rerun(args: argparse.Namespace, rest: Sequence[str]) -> int:
    with loading(args):
        from labelbeam.pipeline.commands.rerun import recorded_flags, rerun

    refuse_unknown_to_beam(args, rest, recorded_flags(args.folder) if args.folder else ())
    require_positionals(args)
    with _work_kept():
        return OK if rerun(args.folder, args.only, flags_of(args), rest) else NOT_OK


def _verify(args: argparse.Namespace, rest: Sequence[str]) -> int:
    refuse_unknown(args, rest)
    with loading(args, "Beam"):
        from labelbeam.pipeline.commands.verify import verify
        from labelbeam.pipeline.manifest import published_manifest, recorded_config
        from labelbeam.pipeline.output import folder_of

    flags = flags_of(args)
    if flags and "input" not in flags:
        raise UserError(f"--{next(iter(flags))} is an option of an input. Add --input.")
    findings = verify(args.folder, flags)
    if not findings:
        manifest = published_manifest(folder_of(args.folder))
        rows, files = sum(manifest.rows.values()), len(manifest.files)
        print(f"{args.folder}: all is as its manifest lists, {rows:,} rows in {files:,} files.")
        if flags:
            names = ", ".join(map(public_input, flags["input"]))
            is_all = recorded_config(manifest, flags).read.choice.is_all
            chosen = "" if is_all else " that --sample and --limit choose"
            print(f"Each image of {names}{chosen} has a row.{'' if is_all else _NOT_COMPARED}")
    for finding in findings:
        print(finding)
    if findings:
        print(_MEND)
    return NOT_OK if findings else OK


_NOT_COMPARED = " The others were not compared, because the run did not choose them."
_MEND = (
    "Put whole copies in the place of files that are damaged or missing, or label into another --output. "
    "The same run command labels images that have no row."
)


def _inspect(args: argparse.Namespace, rest: Sequence[str]) -> int:
    refuse_unknown(args, rest)
    with loading(args):
        from labelbeam.pipeline.commands.model import inspect_model

    fits, text = inspect_model(args.handle, flags_of(args))
    print(text)
    return OK if fits else NOT_OK


def _mirror(args: argparse.Namespace, rest: Sequence[str]) -> int:
    refuse_unknown(args, rest)
    with loading(args):
        from labelbeam.pipeline.commands.model import mirror_model

    copy, options = mirror_model(args.handle, args.target)
    print(copy)
    if options:
        # On stderr, because scripts read the copy's path from stdout.
        print(f"Use the copy with: --model {shlex.quote(copy)} {options}", file=sys.stderr)
    return OK


def _sample(args: argparse.Namespace, rest: Sequence[str]) -> int:
    refuse_unknown_to_beam(args, rest, ())
    with loading(args):
        from labelbeam.pipeline.commands.sample import run_sample

    return OK if run_sample(args.output, rest) else NOT_OK
