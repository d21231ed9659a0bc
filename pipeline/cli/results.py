"""Commands over published tables."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from labelbeam.pipeline.cli.parser import OK, Parser, add_options, loading, refuse_unknown
from labelbeam.pipeline.extras import require_report
from labelbeam.transforms.errors import UserError

_OUTPUT = "table folder, local or gs://; FOLDER@N: its generation N"


def add_commands(commands: Any) -> None:
    """Add the commands of this module to a parser."""
    _add_evaluate(commands)


def _add_command(
    commands: Any, name: str, help: str, description: str, command: Callable[..., int]
) -> Parser:
    """Add a command over published tables, and return its parser."""
    parser: Parser = commands.add_parser(name, help=help, description=description)
    parser.add_positional("output", "OUTPUT", _OUTPUT)
    parser.add_argument(
        "--show_sql", action="store_true", help="print the SQL, for DuckDB, in place of the result"
    )
    add_options(parser)

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
