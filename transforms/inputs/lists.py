"""Lists: the common part of formats with one row a line."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple, TypeVar

import pyarrow as pa

from labelbeam.transforms.attempts import failure_of
from labelbeam.transforms.elements import Failure, ImageRef
from labelbeam.transforms.errors import ImageError, Reason, UserError
from labelbeam.transforms.files import escape_glob
from labelbeam.transforms.inputs.compression import FORMATS as COMPRESSIONS
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import (
    MAX_LINE_BYTES,
    Line,
    ListFile,
    LongLine,
    Piece,
    map_files,
    match_files,
    read_piece,
    read_start,
    split_files,
)
from labelbeam.transforms.inputs.first_bytes import START_BYTES, without_mark
from labelbeam.transforms.inputs.formats import Location, ReadOptions
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.sources.secrets import hide_secrets

# Lists of a corpus. Their names, sizes and times are part of the job, which Dataflow limits to 10 MB.
MOST_FILES: Final = 50_000
# Lists whose first bytes are read before a run starts. Workers compare the headers of all.
STARTS_LOOKED_AT: Final = 1000

T = TypeVar("T")


class ListFormat(abc.ABC):
    """A format of lists; `explain` and `parse` at least differ between formats.

    Attributes:
      name: Name in the table of formats.
      suffixes: As in `InputFormat`.
      has_columns: As in `InputFormat`.
    """

    name: str
    suffixes: tuple[str, ...]
    has_columns = False

    def find(
        self, location: Location, options: ReadOptions, known_types: Mapping[str, pa.DataType]
    ) -> Corpus:
        """Describe the lists of a location, after a look at their first bytes."""
        files, remarks = find_files(location)
        starts = look_at_first(lambda file: read_start(file.path, START_BYTES), files)
        for path, start in starts.items():
            why = self.explain(start)
            if why is None and options.input_format == "auto":
                why = self.doubt(start)
            if why:
                raise UserError(f"{path} {why}.")
        corpus = Corpus(location.pattern, self.name, files=files, remarks=remarks)
        return self.describe(corpus, starts, options, known_types)

    def split(self, corpus: Corpus) -> Iterator[Piece]:
        """Split large files into pieces."""
        return split_files(corpus.files)

    def read(self, piece: Piece, corpus: Corpus, notes: Notes) -> Iterator[ImageRef | Failure]:
        """Read the rows of a piece."""
        for line in self.lines_of(piece, corpus):
            yield from self.parse_line(line, corpus, notes)

    def lines_of(self, piece: Piece, corpus: Corpus) -> Iterator[Line]:
        """Return the lines of a piece that are rows."""
        lines = read_piece(piece)
        # Only the piece at the beginning of a file has the header.
        return lines if piece.start else self.check_start(lines, piece.file.path, corpus)

    def recognises(self, start: bytes) -> bool:
        """Return whether the content of a file is surely of this format.

        Lines and CSV are told apart by their names alone, because a list of one URI a line is a CSV, too.
        """
        return False

    @abc.abstractmethod
    def explain(self, start: bytes) -> str | None:
        """Explain why a file cannot be read in this format.

        Args:
          start: First bytes of the file, up to `START_BYTES`, decompressed.

        Returns:
          A sentence without subject and final stop, to follow the file's name; None if the file can be read.
        """

    def doubt(self, start: bytes) -> str | None:
        """Explain why a file is rather of another format, unless the user declared this one; as `explain`."""
        return None

    def describe(
        self,
        corpus: Corpus,
        starts: Mapping[str, bytes],
        options: ReadOptions,
        known_types: Mapping[str, pa.DataType],
    ) -> Corpus:
        """Return the corpus with its columns, by the first bytes of its files."""
        return corpus

    def check_start(self, lines: Iterator[Line], path: str, corpus: Corpus) -> Iterator[Line]:
        """Return the lines of a file that are rows: all of them, the first without a byte order mark.

        Raises:
          RunError: The file begins otherwise than planned.
        """
        first = next(lines, b"")
        yield without_mark(first) if isinstance(first, bytes) else first
        yield from lines

    @abc.abstractmethod
    def parse(self, line: str, corpus: Corpus, notes: Notes) -> ImageRef | None:
        """Parse one line.

        Returns:
          The image; None if the line stands for something else, which is counted in the notes.

        Raises:
          ImageError: `bad_row`: the line cannot be read.
        """

    def readable_id(self, line: bytes, corpus: Corpus) -> str | None:
        """Return the id of a line that cannot be read otherwise; None if the id cannot be read either.

        A row under its own id is the one that a corrected line replaces, and that readers of the table look
        for.
        """
        return None

    def parse_line(self, line: Line, corpus: Corpus, notes: Notes) -> Iterator[ImageRef | Failure]:
        """Parse a line; one that cannot be read fails under an id and URI made from the line.

        Yields:
          One row; none for a line that is empty or stands for no image.
        """
        if isinstance(line, LongLine):
            row_id = self.readable_id(line.head, corpus)
            fault = f"has {line.size_bytes:,} bytes; the most are {MAX_LINE_BYTES:,}"
            yield row_failure(line.head, corpus, bad_row(line.head, fault), row_id, f"line {line.sha256}")
            return
        if not line.strip():
            return
        try:
            row = self.parse(line.decode("utf-8"), corpus, notes)
        except (UnicodeDecodeError, ImageError) as e:
            error = e if isinstance(e, ImageError) else bad_row(line, f"is not UTF-8: {e}")
            yield row_failure(line, corpus, error, self.readable_id(line, corpus))
        else:
            if row:
                yield row


def row_failure(
    line: bytes, corpus: Corpus, error: ImageError, row_id: str | None = None, identity: str = ""
) -> Failure:
    """Return the failure of a row that can't be read, whose URI is its line.

    Args:
      line: The line, or the row as text.
      corpus: The corpus.
      error: The fault.
      row_id: Id of the row, if it can be read; else the id is made from the line.
      identity: Text that the id is made from, if `line` is only the beginning of the row.
    """
    text = line.decode("utf-8", "backslashreplace")
    public = hide_secrets(text, corpus.secret_params)
    # Of the bytes, because different bytes may have one text; without secrets, because a list that is signed
    # anew replaces the row. With a prefix, because a line that is a URI must not get the id of that URI's
    # image.
    source = identity.encode() if identity else b"line " + (line if public == text else public.encode())
    line_id = row_id or hashlib.sha256(source).hexdigest()[:32]
    nothing = (None,) * len(corpus.columns)
    failure = failure_of(ImageRef(line_id, public, nothing, signed=text), "read", error)
    # Cut last, because a secret could not be recognised by its beginning.
    return dataclasses.replace(failure, ref=ImageRef(line_id, public[:1000], nothing))


def list_suffixes(*suffixes: str) -> tuple[str, ...]:
    """Return endings of file names, alone and with each compression's ending behind them."""
    return tuple(f"{s}{packed}" for s in suffixes for packed in ("", *(one.suffix for one in COMPRESSIONS)))


def bad_row(line: str | bytes, fault: str) -> ImageError:
    """Return the error for a line that cannot be read."""
    return ImageError(Reason.BAD_ROW, f"The line {line[:200]!r} {fault}")


def matches_nothing(location: Location) -> UserError:
    """Return the error for an input without files."""
    remedy = "; give --input several times for several inputs" if "," in location.name else ""
    return UserError(f"input={location.name!r} matches nothing. Check the name{remedy}.")


class FoundFiles(NamedTuple):
    """Files of a location, and sentences about those that are left out."""

    files: tuple[ListFile, ...]
    remarks: tuple[str, ...] = ()


def find_files(location: Location, with_empty: bool = False) -> FoundFiles:
    """Find the files of a location, one at least, and no more than a job can be planned with.

    Args:
      location: The location. Of a glob, hidden files are left out, unless all are hidden.
      with_empty: Whether a glob's empty files are taken. They are in any case if no other files are there.
    """
    files = match_files(location.pattern, MOST_FILES + 1)
    if not files:
        raise matches_nothing(location)
    if len(files) > MOST_FILES:
        raise UserError(
            f"input={location.name!r} matches more than {MOST_FILES:,} files, the most that a job can be "
            "planned with. Join them into fewer files."
        )
    if location.pattern == escape_glob(location.path):
        return FoundFiles(files)
    kept = tuple(file for file in files if not is_hidden(file.path) and (with_empty or file.size_bytes))
    if not kept or len(kept) == len(files):
        return FoundFiles(files)
    kinds = "hidden" if with_empty else "empty or hidden"
    example = min(set(files) - set(kept)).path
    number = len(files) - len(kept)
    remark = f"Left out of {location.name} are {kinds} files, {number:,} in all, such as {example}."
    return FoundFiles(kept, (remark,))


def is_hidden(path: str) -> bool:
    """Return whether a name shows that a file is no list, such as `_SUCCESS` and `.part-0.crc`."""
    name = path.rpartition("/")[2]
    # Not all names with an underscore, because `_new.csv` is rather a list than a mark.
    return name.startswith(".") or (name.startswith("_") and "." not in name)


def look_at_first(look: Callable[[ListFile], T], files: tuple[ListFile, ...]) -> dict[str, T]:
    """Return the results of a function by path; of very many files, those of the first."""
    looked_at = files[:STARTS_LOOKED_AT]
    return dict(zip([file.path for file in looked_at], map_files(look, looked_at), strict=True))
