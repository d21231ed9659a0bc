"""The command `calibrate`: a calibration file from images of known classes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from labelbeam.pipeline.calibration import read_calibration
from labelbeam.pipeline.commands.evaluate import describe_match
from labelbeam.pipeline.results.calibrate import CalibrationResult, calibrate, labels_needed
from labelbeam.pipeline.results.database import open_database, split_generation
from labelbeam.pipeline.results.targets import new_file
from labelbeam.pipeline.results.text import align, counted, values_of
from labelbeam.pipeline.results.truth import TruthOptions
from labelbeam.transforms.calibration import Calibration
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import exists, file_errors_as
from labelbeam.transforms.table.documents import write_document

# Classes that a line lists.
_MOST_LISTED = 10
# Fewer images have intervals that are too wide to compare two errors.
_FEW_IMAGES = 500
# Temperatures closer to 1 change no score by more than 0.003.
_HARDLY = 0.01


def calibrate_output(
    output: str, truth: TruthOptions, wanted_risk: float | None, path: str, show_sql: bool
) -> None:
    """Make a calibration from the labels of an output, write its file, and describe it.

    Args:
      output: Table folder.
      truth: Origin of the truth.
      wanted_risk: Largest wanted share of wrong decisions; None to decide all labels.
      path: The calibration file.
      show_sql: Whether the SQL is printed in place of the result, and no file is written.

    Raises:
      UserError: There are no tables, there is no truth, or the file can't be written.
    """
    _refuse_other_file(path)
    with open_database(show_sql) as db:
        result = calibrate(db, db.attach(output), output, truth, wanted_risk)
    if show_sql:
        return
    with new_file(path) as part:
        Path(part).write_bytes(write_document(result.calibration))
    print("\n".join(describe_calibration(result)))
    # Without the generation that `output` may name, because only the current one can be changed.
    folder, _ = split_generation(output)
    print(f"\nWritten to {path}, fingerprint {result.calibration.fingerprint}. Use it with")
    print(f"  labelbeam apply {shlex.quote(folder)} --calibration {shlex.quote(path)}")
    print(f"or in a new output, with labelbeam run --calibration {shlex.quote(path)}")


def _refuse_other_file(path: str) -> None:
    with file_errors_as(UserError, f"--calibration={path!r} cannot be written", "Check its name."):
        is_there = exists(path)
    if is_there:
        try:
            read_calibration(path)
        except UserError as e:
            raise UserError(
                f"--calibration={path!r} exists and is no calibration file. Give another name, or delete it."
            ) from e


def describe_calibration(result: CalibrationResult) -> Iterator[str]:
    """Yield the lines that describe a calibration."""
    calibration, judgement = result.calibration, result.calibration.judgement
    yield from describe_match(result.match)
    if result.left_out:
        yield (
            f"Left out, because memory is bounded: {counted(result.left_out, 'image')}. The others are a "
            "fixed sample."
        )
    others = counted(judgement.images, "other")
    yield f"Made from {counted(calibration.images, 'image')}, and judged on {others}."
    yield f"Temperature {calibration.temperature:g}: {_describe_temperature(calibration.temperature)}."
    yield ""
    rows = [
        ("calibration error of raw scores", *values_of(judgement.error_before)),
        ("calibration error of calibrated scores", *values_of(judgement.error_after)),
        ("share of labels that are decided", *values_of(judgement.coverage)),
        ("share of wrong ones among these", *values_of(judgement.risk)),
    ]
    yield from align(("on the other images", "value", "95 % from", "to"), rows)
    yield ""
    yield from _describe_thresholds(calibration)
    yield from (f"Warning: {warning}" for warning in _warnings(calibration))


def _describe_temperature(temperature: float) -> str:
    if abs(temperature - 1) < _HARDLY:
        return "raw scores hardly change"
    return f"raw scores are mostly {'above' if temperature > 1 else 'below'} the share of right labels"


def _describe_thresholds(calibration: Calibration) -> Iterator[str]:
    risk, default = calibration.wanted_risk, calibration.default_threshold
    if risk is None:
        yield "All labels are decided, because neither --precision nor --risk is given."
        return
    own = [one for one in calibration.thresholds if one.threshold is not None]
    shared = "none" if default is None else f"{default:.3f}"
    least = counted(2 * labels_needed(risk), "label")
    yield (
        f"Classes with a threshold of their own (of {least} or more): {len(own):,}; threshold of "
        f"all others: {shared}."
    )
    others = calibration.basis.classes - len(calibration.thresholds)
    if others and not calibration.default_labels:
        yield f"Classes that are never decided, because no label of these images is one of them: {others:,}."


def _warnings(calibration: Calibration) -> Iterator[str]:
    risk, judgement = calibration.wanted_risk, calibration.judgement
    if judgement.images < _FEW_IMAGES:
        images = counted(judgement.images, "image")
        yield f"this calibration is judged on {images} alone, so that the intervals are wide."
    if judgement.error_after.low > judgement.error_before.value:
        yield (
            "on the other images, calibrated scores are further from the share of right labels than raw "
            "ones: a temperature does not fit this model."
        )
    if risk is None:
        return
    never = [one.label for one in calibration.thresholds if one.threshold is None]
    if never:
        more = f" and {len(never) - _MOST_LISTED:,} more" if len(never) > _MOST_LISTED else ""
        yield (
            f"no score of these classes has at most {risk:g} wrong labels, so that they are never decided: "
            f"{', '.join(map(repr, never[:_MOST_LISTED]))}{more}."
        )
    if calibration.default_threshold is None and calibration.default_labels:
        labels = counted(calibration.default_labels, "label")
        yield (
            f"no score of all other classes together ({labels}) has at most {risk:g} wrong "
            "labels, so that these classes are never decided. More images with a truth, or a higher risk, "
            "may help."
        )
    if judgement.risk and judgement.risk.low > risk:
        yield f"on the other images the risk is above the wanted {risk:g}, and not by chance."
