"""The command `select`: the images that people should look at."""

from __future__ import annotations

from collections.abc import Iterator

from labelbeam.pipeline.results.database import open_database
from labelbeam.pipeline.results.formats import FORMATS, Selected
from labelbeam.pipeline.results.select import DISAGREEMENT, Selection, SelectOptions, select
from labelbeam.pipeline.results.targets import require_target
from labelbeam.pipeline.results.text import counted
from labelbeam.transforms.errors import UserError


def select_images(output: str, options: SelectOptions, to: str, form: str, show_sql: bool) -> None:
    """Select images of an output, write them, and print their number and the criterion's range.

    Args:
      output: Table folder.
      options: Which images are selected.
      to: File or folder for the selection.
      form: Format of the selection.
      show_sql: Whether the SQL is printed in place of the result.

    Raises:
      UserError: There are no tables, options contradict each other, or nothing can be written there.
    """
    if form not in FORMATS:
        raise UserError(f"format={form!r} is not allowed: give --format {', '.join(FORMATS)}.")
    require_target(to)
    with open_database(show_sql) as db:
        manifest = db.attach(output)
        selection = select(db, manifest, options)
        notes = FORMATS[form](Selected.of(db, manifest, to))
    if not show_sql:
        print("\n".join([*describe_selection(selection, options, to), *notes]))


def describe_selection(selection: Selection, options: SelectOptions, to: str) -> Iterator[str]:
    """Yield the lines that describe a selection."""
    how = "whose labels differ" if options.by == DISAGREEMENT else f"by {options.by}"
    values = "" if selection.first is None else f" from {selection.first:.4f} to {selection.last:.4f},"
    images, classes = counted(selection.images, "image"), counted(selection.classes, "class", "classes")
    yield f"{selection.selected:,} of {images} {how},{values} of {classes}: {to}"
    yield from (f"Warning: {warning}" for warning in selection.warnings)
