"""Notes: counts about the input that are no rows, such as files left out of a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import apache_beam as beam

from labelbeam.transforms.sources.secrets import hide_secrets

# Files of a folder that are not images, by suffix.
LEFT_OUT: Final = "left_out"
# Files with images inside that are not read to their ends, by URI.
UNREAD: Final = "unread"
# Values of a list that are not of their column's type, by column.
UNPARSED: Final = "unparsed"
# End of the name, among these, of a key that a list has only in later rows.
NO_COLUMN: Final = " (no column)"

OTHER: Final = "(other)"
# Names of a kind in the manifest; the most frequent ones, because the manifest is read by people.
_MOST_NAMES = 50
# Names of a kind in memory. Counts are exact up to this number of different names.
_MOST_NAMES_HELD = 1000
_MOST_EXAMPLES = 3
_EXAMPLE_CHARS = 100


def describe_unparsed(name: str, count: int) -> str:
    """Describe values that are not in the tables, without a final stop."""
    values = "1 value is" if count == 1 else f"{count:,} values are"
    if name.endswith(NO_COLUMN):
        key = name.removesuffix(NO_COLUMN)
        return f"{key}: {values} in no table, because the first rows of the list have no such key"
    return f"{name}: {values} not of the column's type, and null in the tables"


def describe_unread(uris: Collection[str]) -> str:
    """Describe files whose rest is not read."""
    files = "1 file" if len(uris) == 1 else f"{len(uris):,} files"
    named = next(iter(uris)) if len(uris) == 1 else f"such as {next(iter(uris))}"
    return (
        f"{files} could not be read to the end, {named}, so an unknown number of images has no row. Put a "
        "whole copy in its place, and run the same command again."
    )


class _Tally(NamedTuple):
    total: int = 0
    examples: tuple[str, ...] = ()

    def plus(self, total: int, examples: tuple[str, ...]) -> _Tally:
        # The smallest examples, because bundles are merged in any order and a rerun must give the same ones.
        return _Tally(self.total + total, tuple(sorted({*self.examples, *examples})[:_MOST_EXAMPLES]))


class Notes:
    """Counts by kind and name, each with a few examples; bounded in size, because inputs choose the names."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, _Tally]] = defaultdict(dict)

    def add(self, kind: str, name: str, example: str | None = None) -> None:
        """Count one occurrence; the secrets of an example are hidden."""
        # Here and not in the formats, because no format can then forget it.
        examples = () if example is None else (hide_secrets(example)[:_EXAMPLE_CHARS],)
        self._add(kind, name, _Tally(1, examples))

    def update(self, other: Notes) -> None:
        """Add the counts of other notes."""
        for kind, names in other._kinds.items():
            for name, tally in names.items():
                self._add(kind, name, tally)

    def _add(self, kind: str, name: str, tally: _Tally) -> None:
        names = self._kinds[kind]
        # New names beyond the bound are summed up, because a column of free text has as many names as rows.
        if name not in names and len(names) >= _MOST_NAMES_HELD:
            name = OTHER
        names[name] = names.get(name, _Tally()).plus(*tally)

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return the notes as JSON values: by kind and name a count, with examples where there are any."""
        return {kind: dict(_most_frequent(names)) for kind, names in sorted(self._kinds.items())}


def _most_frequent(names: dict[str, _Tally]) -> Iterator[tuple[str, Any]]:
    ranked = sorted(names.items(), key=lambda item: (item[0] == OTHER, -item[1].total, item[0]))
    rest = _Tally()
    for name, tally in ranked[:_MOST_NAMES]:
        yield name, _as_json(tally)
    for _, tally in ranked[_MOST_NAMES:]:
        rest = rest.plus(*tally)
    if rest.total:
        yield OTHER, _as_json(rest)


def _as_json(tally: _Tally) -> Any:
    return {"count": tally.total, "examples": list(tally.examples)} if tally.examples else tally.total


@dataclass
class SumNotes(beam.PTransform):
    """The step that merges the notes of all bundles. Input: `Notes`. Output: one `Notes.to_json()`."""

    def expand(self, notes: beam.PCollection[Notes]) -> beam.PCollection[dict]:
        return notes | "Merge" >> beam.CombineGlobally(_merge) | "ToJson" >> beam.Map(Notes.to_json)


def _merge(many: Iterable[Notes]) -> Notes:
    # Into new notes, because Beam forbids changes of the elements that it hands over.
    merged = Notes()
    for notes in many:
        merged.update(notes)
    return merged
