"""Commands over published tables."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from typing import Any

from labelbeam.pipeline.cli.parser import OK, Parser, add_options, flags_of, loading, refuse_unknown
from labelbeam.pipeline.extras import require_report
from labelbeam.transforms.errors import UserError

_OUTPUT = "table folder, local or gs://; FOLDER@N: its generation N"


def add_commands(commands: Any) -> None:
    """Add the commands of this module to a parser."""
    _add_evaluate(commands)
    _add_report(commands)


def _add_command(
    commands: Any,
    name: str,
    help: str,
    description: str,
    command: Callable[..., int],
    options: Collection[str] = (),
) -> Parser:
    """Add a command over published tables, and return its parser."""
    parser: Parser = commands.add_parser(name, help=help, description=description)
    parser.add_positional("output", "OUTPUT", _OUTPUT)
    parser.add_argument(
        "--show_sql", action="store_true", help="print the SQL, for DuckDB, in place of the result"
    )
    add_options(parser, options)

    def check_and_run(args: argparse.Namespace, rest: Sequence[str]) -> int:
        refuse_unknown(args, rest)
        # After Beam, because tables are read by its filesystems.
        with loading(args, "Beam"):
            require_report(f"labelbeam {name}")
        return command(args)

    parser.set_defaults(command=check_and_run, parser=parser)
    return parser


def _add_truth(parser: Parser) -> None:
    group = parser.add_argument_group("truth")
    group.add_argument(
        "--truth",
        default="",
        metavar="COLUMN",
        help="column with the right class of an image, by name or class id; folder: the name of the image's "
        "folder",
    )
    group.add_argument(
        "--truth_file",
        default="",
        metavar="FILE",
        help="CSV, Parquet or JSON file with the column, and a column id, uri, file or file_name; local or "
        "gs://",
    )
    group.add_argument(
        "--truth_separator",
        default="|",
        metavar="TEXT",
        help="text between several right classes of an image (default: |)",
    )


def _truth_of(args: argparse.Namespace) -> Any:
    from labelbeam.pipeline.results.truth import TruthOptions

    if not args.truth and not args.truth_file:
        raise UserError(
            "No truth is given. Name its column with --truth, or --truth folder, or a file with --truth_file."
        )
    return TruthOptions(args.truth, args.truth_file, args.truth_separator)


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(
        commands,
        "evaluate",
        "compare labels with the truth",
        "Compare the labels of an output with the right classes: top-1, top-5, precision and recall of each "
        "class, confusions, calibration error; of binary models also ROC AUC, of multi-label models average "
        "precision. Intervals are of 95 % confidence.",
        _evaluate,
    )
    _add_truth(parser)
    parser.add_argument("--by", default="", metavar="COLUMN", help="column that divides images into groups")
    parser.add_argument("--json", default="", metavar="FILE", help="file for the whole result")
    parser.add_argument("--parquet", default="", metavar="FILE", help="file for the results of each class")


def _evaluate(args: argparse.Namespace) -> int:
    from labelbeam.pipeline.commands.evaluate import evaluate_output

    evaluate_output(args.output, _truth_of(args), args.by, args.json, args.parquet, args.show_sql)
    return OK


def _add_report(commands: Any) -> None:
    parser = _add_command(
        commands,
        "report",
        "write a page about published tables",
        "Write one HTML file of at most 5 MB, without scripts and requests: run, labels, scores, the least "
        "and the most certain images, image files, failures, and, with a truth, an evaluation.",
        _report,
        # For thumbnails, because a manifest has no secret headers, and another machine may need other hosts.
        options=("user_agent", "http_header", "allow_hosts"),
    )
    parser.add_argument(
        "--page", default="", metavar="FILE", help="HTML file, local or gs:// (default: OUTPUT-report.html)"
    )
    parser.add_argument(
        "--thumbnails",
        default="0",
        metavar="N",
        help="number of small pictures of the images in the page, which are fetched again; by default none, "
        "because pixels then leave their store",
    )
    _add_truth(parser)


def _report(args: argparse.Namespace) -> int:
    from labelbeam.pipeline.commands.report import MOST_THUMBNAILS, report_output

    thumbnails = _whole_number("thumbnails", args.thumbnails, 0, MOST_THUMBNAILS)
    truth = _truth_of(args) if args.truth or args.truth_file else None
    report_output(args.output, args.page, truth, thumbnails, flags_of(args), args.show_sql)
    return OK


def _whole_number(name: str, value: str, least: int, most: int) -> int:
    # By hand, because the errors of argparse name neither the range nor a remedy.
    if value.isdecimal() and least <= int(value) <= most:
        return int(value)
    raise UserError(
        f"--{name}={value!r} is not allowed: it must be a whole number from {least:,} to {most:,}."
    )
