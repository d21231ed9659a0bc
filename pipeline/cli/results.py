"""Commands over published tables."""

from __future__ import annotations

import argparse
import math
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
    _add_calibrate(commands)
    _add_apply(commands)
    _add_select(commands)
    _add_export(commands)
    _add_diff(commands)


def _add_command(
    commands: Any,
    name: str,
    help: str,
    description: str,
    command: Callable[..., int],
    options: Collection[str] = (),
    outputs: Sequence[str] = ("OUTPUT",),
) -> Parser:
    """Add a command over published tables, and return its parser."""
    parser: Parser = commands.add_parser(name, help=help, description=description)
    for output in outputs:
        parser.add_positional(output.lower(), output, _OUTPUT)
    parser.add_argument(
        "--show_sql", action="store_true", help="print the SQL, for DuckDB, in place of the result"
    )
    add_options(parser, options)

    def check_and_run(args: argparse.Namespace, rest: Sequence[str]) -> int:
        refuse_unknown(args, rest)
        # After Beam, because tables are read by its filesystems.
        with loading(args, "Beam"):
            require_report(f"labelbeam {name}")
            _refuse_places_of_tables(args, [getattr(args, output.lower()) for output in outputs])
        return command(args)

    parser.set_defaults(command=check_and_run, parser=parser)
    return parser


# Options with files that commands write.
_WRITTEN = ("json", "parquet", "page", "to", "calibration")


def _refuse_places_of_tables(args: argparse.Namespace, outputs: Sequence[str]) -> None:
    """Refuse to write a file among those of the tables, before the work."""
    from labelbeam.pipeline.results.database import split_generation
    from labelbeam.pipeline.results.targets import check_target

    for option in _WRITTEN:
        if path := getattr(args, option, ""):
            for output in outputs:
                check_target(f"--{option}", path, split_generation(output)[0])


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


def _add_calibrate(commands: Any) -> None:
    parser = _add_command(
        commands,
        "calibrate",
        "make scores mean probabilities, and thresholds for a wanted risk",
        "Make a calibration file from images of known classes: a temperature for the scores, and thresholds "
        "below which no label is decided. Half of the images make it, the other half judges it.",
        _calibrate,
    )
    _add_truth(parser)
    group = parser.add_argument_group("calibration")
    group.add_argument("--calibration", default="", metavar="FILE", help="file to write, local or gs://")
    group.add_argument("--risk", metavar="SHARE", help="largest share of wrong labels among decided ones")
    group.add_argument(
        "--precision", metavar="SHARE", help="smallest share of right labels among decided ones; 1 - risk"
    )


def _calibrate(args: argparse.Namespace) -> int:
    from labelbeam.pipeline.commands.calibrate import calibrate_output

    risk = _wanted_risk(args)
    calibrate_output(args.output, _truth_of(args), risk, _calibration_of(args), args.show_sql)
    return OK


def _wanted_risk(args: argparse.Namespace) -> float | None:
    if args.risk is not None and args.precision is not None:
        raise UserError("--risk and --precision mean the same. Give one of them.")
    name, raw = ("risk", args.risk) if args.precision is None else ("precision", args.precision)
    if raw is None:
        return None
    try:
        share = float(raw)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise UserError(f"--{name}={raw!r} is not allowed: it must be a number above 0 and below 1.")
    # Rounded, because 1 - 0.95 is 0.050000000000000044.
    return share if name == "risk" else round(1 - share, 12)


def _calibration_of(args: argparse.Namespace) -> str:
    if not args.calibration:
        raise UserError(f"--calibration is missing: the calibration file. See {args.parser.prog} --help.")
    return args.calibration


def _add_apply(commands: Any) -> None:
    parser = commands.add_parser(
        "apply",
        help="add the decisions of a calibration to published tables",
        description="Publish a generation of the tables whose predictions have the columns decision and "
        "calibrated_score of a calibration file. No image is labelled again.",
    )
    parser.add_positional("output", "OUTPUT", "table folder, local or gs://")
    parser.add_argument("--calibration", default="", metavar="FILE", help="calibration file, local or gs://")
    add_options(parser)
    parser.set_defaults(command=_apply, parser=parser)


def _apply(args: argparse.Namespace, rest: Sequence[str]) -> int:
    refuse_unknown(args, rest)
    with loading(args, "Beam"):
        from labelbeam.pipeline.commands.apply import apply_calibration, describe_applied

    print(describe_applied(args.output, apply_calibration(args.output, _calibration_of(args))))
    return OK


def _add_select(commands: Any) -> None:
    parser = _add_command(
        commands,
        "select",
        "list the images that people should look at",
        "Select labelled images, and write them by rank: the least certain ones, those whose labels differ "
        "in two outputs, or a random sample. A larger number begins with the images of a smaller one.",
        _select,
    )
    parser.add_argument(
        "--by",
        default="",
        metavar="CRITERION",
        help="margin: least difference between the two best scores, or to the threshold of a multi-label "
        "model; entropy: highest entropy of the scores; score: lowest best score; random; disagreement: best "
        "label differs in --other, with the highest scores first",
    )
    parser.add_argument("--number", metavar="N", help="largest number of images")
    parser.add_argument("--per_class", metavar="N", help="largest number of images of each best label")
    parser.add_argument(
        "--balanced",
        action="store_true",
        help="equal numbers of images of each best label, as far as they go",
    )
    parser.add_argument(
        "--other", default="", metavar="OUTPUT", help="table folder that disagreement compares with"
    )
    parser.add_argument(
        "--to",
        default="",
        metavar="PATH",
        help="file, or folder for labelstudio and fiftyone; local or gs://",
    )
    parser.add_argument(
        "--format", default="", metavar="FORMAT", help="uris, csv, jsonl, labelstudio or fiftyone"
    )


def _select(args: argparse.Namespace) -> int:
    from labelbeam.pipeline.commands.select import select_images
    from labelbeam.pipeline.results.select import SelectOptions

    number, per_class = (
        None if (value := getattr(args, name)) is None else _whole_number(name, value, 1, 10**12)
        for name in ("number", "per_class")
    )
    options = SelectOptions(args.by, number, per_class, args.balanced, args.other)
    select_images(args.output, options, args.to, args.format, args.show_sql)
    return OK


def _add_export(commands: Any) -> None:
    parser = _add_command(
        commands,
        "export",
        "write a table as CSV, JSON lines or a Delta table",
        "Write a published table as CSV (nested values as JSON) or JSON lines, or add a Delta log to its "
        "folder, which lists the same Parquet files: version n of the Delta table is generation n.",
        _export,
    )
    parser.add_argument("--format", default="", metavar="FORMAT", help="csv, jsonl or delta")
    parser.add_argument(
        "--to",
        default="",
        metavar="FILE",
        help="file for csv and jsonl, local or gs://; compressed if its name ends in .gz or .zst",
    )
    parser.add_argument(
        "--table",
        default="predictions",
        metavar="TABLE",
        help="predictions or failures (default: predictions)",
    )


def _export(args: argparse.Namespace) -> int:
    from labelbeam.pipeline.commands.export import export_table

    export_table(args.output, args.format, args.to, args.table, args.show_sql)
    return OK


def _add_diff(commands: Any) -> None:
    parser = _add_command(
        commands,
        "diff",
        "compare the labels of two outputs",
        "Compare two outputs, or two generations of one: settings, images in one of them alone, labels that "
        "changed, shifts of scores, failures that came and went, the most changed images; with a truth also "
        "which of them is right. Intervals are of 95 % confidence.",
        _diff,
        outputs=("A", "B"),
    )
    _add_truth(parser)
    parser.add_argument("--json", default="", metavar="FILE", help="file for the whole result")
    parser.add_argument("--page", default="", metavar="FILE", help="HTML file that opens without a network")


def _diff(args: argparse.Namespace) -> int:
    from labelbeam.pipeline.commands.diff import diff_outputs

    truth = _truth_of(args) if args.truth or args.truth_file else None
    diff_outputs(args.a, args.b, truth, args.json, args.page, args.show_sql)
    return OK
