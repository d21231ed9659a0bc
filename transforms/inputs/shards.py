"""Shards: the common part of formats of files with images inside."""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import quote_from_bytes

import pyarrow as pa

from labelbeam.transforms.attempts import failure_of
from labelbeam.transforms.elements import FILE_ID_CHARS, Failure, ImageRef, InlineImage, id_of_member, ref_of
from labelbeam.transforms.errors import ImageError, Reason, UserError
from labelbeam.transforms.files import is_local
from labelbeam.transforms.images.formats import IMAGE_SUFFIXES
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import ListFile, check_planned
from labelbeam.transforms.inputs.first_bytes import START_BYTES
from labelbeam.transforms.inputs.formats import Location, ReadOptions, Shard
from labelbeam.transforms.inputs.images import uri_of_path, why_left_out
from labelbeam.transforms.inputs.lists import find_files, look_at_first
from labelbeam.transforms.inputs.streams import RestError, Stream, open_stream
from labelbeam.transforms.notes import LEFT_OUT, UNREAD, Notes
from labelbeam.transforms.sources.addresses import is_gcs

# Types of the rows of a shard: an image, its reference alone if it needs no bytes, or a failure.
Row = InlineImage | ImageRef | Failure

# Name, in the notes, of links, whose images are other members.
LINK: Final = "(link)"

# Names of columns in a remark.
_NAMES_SHOWN = 10

# Characters of a member's name that are percent-encoded: those that no text or URI may have, and # and %,
# because the last # of the URI must be the one in front of the name.
_ENCODED = re.compile(r"[#%\x00-\x1f\x7f\ud800-\udfff]")


@dataclass
class Reading:
    """The reading of one shard: what its format needs to make rows.

    Attributes:
      uri: URI of the file.
      corpus: The corpus.
      notes: Counts of members and values that are left out.
      max_bytes: Largest image.
      is_done: Whether the image of an id needs no bytes.
      version: Version of the file.
      last: URI of the last row, for messages.
    """

    uri: str
    corpus: Corpus
    notes: Notes
    max_bytes: int
    is_done: Callable[[str], bool]
    version: str | None = None
    last: str | None = None
    _names: set[str] = field(default_factory=set)

    def is_image(self, name: str) -> bool:
        """Return whether a member is an image by its name; others are counted as left out."""
        left_out = why_left_out(name.rpartition("/")[2], IMAGE_SUFFIXES)
        if left_out:
            self.notes.add(LEFT_OUT, left_out)
        return not left_out

    def name_image(self, name: str) -> ImageRef | Failure:
        """Return the reference of the next image; a failure if its name has occurred before."""
        ref = self.ref(name)
        # By the half of the id that differs, because whole names of a million members take more memory.
        if (member_id := ref.id[FILE_ID_CHARS:]) not in self._names:
            self._names.add(member_id)
            return ref
        # Under an id of its own, because the first image of the name has a row already.
        number = len(self._names)
        twin = dataclasses.replace(ref, id=id_of_member(self.uri, f"{name}\0{number}"))
        self._names.add(twin.id[FILE_ID_CHARS:])
        fault = "is a name that occurs again in the file, and only the first image of the name is labelled"
        return self.failure(twin, ImageError(Reason.AMBIGUOUS_ID, f"{name!r:.300} {fault}"))

    def ref(self, name: str) -> ImageRef:
        """Return the reference of an image, without columns."""
        return ImageRef(id_of_member(self.uri, name), f"{self.uri}#{encode_name(name)}", self.nothing)

    @property
    def nothing(self) -> tuple[None, ...]:
        """Values of a row without columns."""
        return (None,) * len(self.corpus.columns)

    def image(self, ref: ImageRef, data: bytes) -> InlineImage:
        """Return an image with its bytes."""
        return InlineImage(ref, data, self.version)

    def failure(self, ref: ImageRef, error: ImageError) -> Failure:
        """Return the row of an image that can't be read."""
        return failure_of(ref, "read", error)

    def too_large(self, size_bytes: int) -> ImageError:
        """Return the error for an image of too many bytes."""
        most = f"max_image_mb={self.max_bytes / 1e6:g}"
        return ImageError(Reason.TOO_LARGE_BYTES, f"{size_bytes / 1e6:,.1f} MB is more than {most} allows")

    def rest(self, shard: Shard, error: RestError) -> Failure:
        """Return the row that stands for the images behind the last one that could be read."""
        rest = f"The images behind {self.last} are not" if self.last else "None of its images is"
        return self.gap(f"part {shard.start}", f"{describe_rest(shard.file.path, error)} {rest} read.", error)

    def gap(self, place: str, message: str, error: ImageError) -> Failure:
        """Return the row that stands for the images of a place, whose number is not known."""
        # No image has this name. By place, because several parts of a file may be damaged.
        ref = ImageRef(id_of_member(self.uri, f"\0{place}"), self.uri, self.nothing)
        self.notes.add(UNREAD, self.uri)
        return self.failure(ref, ImageError(error.reason, message))


def encode_name(name: str) -> str:
    """Return the name of a member as the fragment of a URI."""
    return _ENCODED.sub(lambda m: quote_from_bytes(m[0].encode("utf-8", "surrogateescape"), safe=""), name)


def describe_rest(path: str, error: RestError) -> str:
    """Return a sentence with the file's name and the error."""
    fault = str(error).removesuffix(".")
    return f"{fault}." if fault.startswith(path) else f"{path}: {fault}."


class Sight(NamedTuple):
    """The content of the first file that shows what decides about columns.

    Attributes:
      path: The file.
      content: The content.
      further: Names of columns at the beginnings of all further files, by path.
    """

    path: str
    content: Any
    further: Mapping[str, Collection[str]]

    def remarks(self, names: Collection[str], what: str) -> tuple[str, ...]:
        """Return a remark about the first file with columns that this one lacks, if there is one.

        Args:
          names: Names that this file has.
          what: Noun for the columns.
        """
        for path, others in self.further.items():
            if more := sorted(set(others).difference(names)):
                text = ", ".join(more[:_NAMES_SHOWN])
                return (
                    f"{path} has {what} that {self.path} lacks, and that are left out of the tables: "
                    f"{text}. To keep them, label such files in a run with an --output of its own.",
                )
        return ()


def look_for_columns(
    files: Iterable[ListFile],
    look: Callable[[ListFile], Any],
    glance: Callable[[ListFile], Collection[str]],
) -> Sight | None:
    """Look into files, until one shows what decides about columns.

    Args:
      files: The files. Those that are empty are passed over.
      look: Returns the content of a file; false if there is nothing to see.
      glance: Returns the names of columns at the beginning of a file, from few bytes, because it is called on
        `STARTS_LOOKED_AT` files.

    Returns:
      The content of the first file, or of the first one in which a glance found something; None if there is
      nothing to see in any of them.
    """
    some = tuple(file for file in files if file.size_bytes)
    further = look_at_first(glance, some[1:])
    for file in (*some[:1], *(file for file in some[1:] if further.get(file.path))):
        if content := look(file):
            return Sight(file.path, content, further)
    return None


def is_no(kind: str, start: bytes) -> str:
    """Return why a file is not of a kind, as `ShardFiles.explain` does."""
    fault = f"is no {kind}: it begins with {start[:20]!r}" if start else "is empty"
    return f"{fault}. Put a whole copy in its place, or set --input_format"


def describe_choice(noun: str, name: str) -> str:
    """Return a sentence about the images' column or feature, if it was chosen for the user."""
    return f"The {noun} {name!r} holds the images, by its name and type; --image_feature names another."


class ShardFiles(abc.ABC):
    """A format of files with images inside; `explain` and `read_images` at least differ between formats.

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
        """Describe the files of a location, after a look at their first bytes."""
        if not is_local(location.path) and not is_gcs(location.path):
            raise UserError(
                f"input={location.name!r}: files with images inside are read from local disks and gs://. "
                "Copy it there."
            )
        # With empty ones, because an empty archive is damaged.
        files, remarks = find_files(location, with_empty=True)
        for path, start in look_at_first(self._read_start, files).items():
            if why := self.explain(start):
                raise UserError(f"{path} {why}.")
        corpus = Corpus(location.pattern, self.name, files=files, holds_images=True, remarks=remarks)
        try:
            return self.describe(corpus, options, known_types)
        except RestError as e:  # a connection that breaks now
            raise UserError(describe_rest(location.name, e)) from e

    def split(self, corpus: Corpus) -> Iterator[Shard]:
        """Yield each file as one shard."""
        yield from map(Shard, corpus.files)

    def members(self, shard: Shard) -> Iterable[str]:
        """Return no names, because only formats that split files need them."""
        return ()

    def read(
        self, shard: Shard, corpus: Corpus, notes: Notes, max_bytes: int, is_done: Callable[[str], bool]
    ) -> Iterator[Row]:
        """Read the images of a shard, as `ShardFormat.read` describes."""
        reading = Reading(uri_of_path(shard.file.path), corpus, notes, max_bytes, is_done)
        error = None
        try:
            for row in self.read_images(shard, reading):
                yield row
                # Behind the row, because rows of a sample that is not whole are not yielded.
                reading.last = ref_of(row).uri
        except RestError as e:
            error = e
        # Before the failure, because a file that was replaced meanwhile looks damaged.
        check_planned(shard.file)
        if error:
            yield reading.rest(shard, error)

    def open(self, file: ListFile) -> AbstractContextManager[Stream]:
        """Open a file, decompressed."""
        return open_stream(file)

    def _read_start(self, file: ListFile) -> bytes:
        try:
            with self.open(file) as stream:
                return stream.read_some(START_BYTES)
        except RestError as e:
            raise UserError(describe_rest(file.path, e)) from e

    @abc.abstractmethod
    def explain(self, start: bytes) -> str | None:
        """Explain why a file cannot be read in this format.

        Args:
          start: First bytes of the file, decompressed.

        Returns:
          A sentence without subject and final stop, to follow the file's name; None if the file can be read.
        """

    def describe(
        self, corpus: Corpus, options: ReadOptions, known_types: Mapping[str, pa.DataType]
    ) -> Corpus:
        """Return the corpus with its columns."""
        return corpus

    @abc.abstractmethod
    def read_images(self, shard: Shard, reading: Reading) -> Iterator[Row]:
        """Read the images of a shard.

        Raises:
          RestError: The rest can't be read. Images up to there have been yielded.
        """
