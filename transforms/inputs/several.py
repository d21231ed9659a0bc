"""Several inputs, which are read as one corpus."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from labelbeam.transforms.elements import Failure, ImageRef
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs.columns import output_columns, output_name
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.formats import CorpusFormat, format_of
from labelbeam.transforms.inputs.known_columns import KnownColumns
from labelbeam.transforms.inputs.lists import MOST_FILES
from labelbeam.transforms.notes import Notes


class _Several:
    def split(self, corpus: Corpus) -> Iterator[tuple[int, Any]]:
        """Yield the pieces of each input, with the number of the input."""
        for n, part in enumerate(corpus.parts):
            yield from ((n, piece) for piece in format_of(part).split(part))

    def read(
        self, piece: tuple[int, Any], corpus: Corpus, notes: Notes, *more: Any
    ) -> Iterator[ImageRef | Failure]:
        """Read the rows of a piece; further arguments are those of a `ShardFormat`."""
        n, inner = piece
        part = corpus.parts[n]
        return format_of(part).read(inner, part, notes, *more)


def join_corpora(parts: Sequence[Corpus], names: Sequence[str]) -> Corpus:
    """Return one corpus of several.

    Args:
      parts: The corpora.
      names: Names of their inputs, for messages.

    Raises:
      UserError: The corpora have different columns, or only some of them hold images.
    """
    first = parts[0]
    for part, name in zip(parts, names, strict=True):
        if part.holds_images != first.holds_images:
            lists, shards = (name, names[0]) if first.holds_images else (names[0], name)
            raise UserError(
                f"input={shards!r} holds images, and input={lists!r} lists them: one run can't read both. "
                "Run them one after the other, into the same --output."
            )
        if fault := _difference(first, part):
            raise UserError(
                f"input={name!r} and input={names[0]!r} have different columns: {fault}. Inputs of one run "
                "must have the same columns and types. Run them one after the other, each into its own "
                "--output, or declare types of CSV columns with --column_types."
            )
    lists_in_all = sum(len(part.files) for part in parts)
    if lists_in_all > MOST_FILES:
        raise UserError(
            f"The inputs are {lists_in_all:,} lists, more than a job can be planned with ({MOST_FILES:,}). "
            "Join them into fewer files."
        )
    if first.holds_images:
        return _join_shards(parts, names)
    return Corpus(
        pattern="",
        format="several",
        id_column=first.id_column,
        columns=first.columns,
        secret_params=first.secret_params,
        holds_images=first.holds_images,
        known=first.known if all(part.known == first.known for part in parts) else KnownColumns(),
        remarks=_remarks(parts, names),
        parts=tuple(_in_order(part, first) for part in parts),
        boxes=first.boxes,
    )


def _join_shards(parts: Sequence[Corpus], names: Sequence[str]) -> Corpus:
    """Return the files of several inputs as those of one glob, because readers deal with files alone."""
    first = parts[0]
    for part, name in zip(parts, names, strict=True):
        other = dataclasses.replace(part, pattern=first.pattern, files=first.files, remarks=first.remarks)
        if other != first:
            raise UserError(
                f"input={name!r} is read as {part.format}, and input={names[0]!r} as {first.format} or with "
                "other columns. Run them one after the other, into the same --output."
            )
    # Each once, because an image has one id in all inputs.
    files = dict.fromkeys(file for part in parts for file in part.files)
    return dataclasses.replace(
        first, pattern=", ".join(names), files=tuple(files), remarks=_remarks(parts, names)
    )


def _remarks(parts: Sequence[Corpus], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"{name}: {remark}" for part, name in zip(parts, names, strict=True) for remark in part.remarks
    )


def _in_order(part: Corpus, first: Corpus) -> Corpus:
    """Return a corpus with its columns in the order of another one, because rows hold values without names.

    Columns of one output name can have different names in the inputs, such as `label` and `input_label`.
    """
    columns = {output_name(name): (name, kind) for name, kind in part.columns}
    return dataclasses.replace(part, columns=tuple(columns[output_name(name)] for name, _ in first.columns))


def _difference(first: Corpus, other: Corpus) -> str:
    """Describe how the columns of two corpora differ; empty if they are the same, in any order."""
    theirs, ours = dict(output_columns(other)), dict(output_columns(first))
    for name in (*ours, *theirs):
        if (kind := theirs.get(name)) != ours.get(name):
            return f"{name!r} is {_kind(kind)} in the former and {_kind(ours.get(name))} in the latter"
    return ""


def _kind(kind: pa.DataType | None) -> str:
    return "missing" if kind is None else str(kind)


FORMAT: Final[CorpusFormat] = _Several()
