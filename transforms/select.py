"""Selecting: from all references, each id once and no id that is done."""

from __future__ import annotations

import itertools
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from labelbeam.transforms.attempts import failure_of
from labelbeam.transforms.boxes import group_by_image, join_boxes, number_boxes
from labelbeam.transforms.buckets import GATHERED_ROWS, bucket_of, bucket_of_image
from labelbeam.transforms.coders import decode_row, encode_row
from labelbeam.transforms.count import DUPLICATE, KEPT, OTHER, OTHER_URI
from labelbeam.transforms.elements import (
    URI_DIGEST_BYTES,
    BoxedImage,
    DoneIds,
    Failure,
    ImageRef,
    digest_of_uri,
    ref_of,
)
from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.outcomes import Outcomes, par_do, to_output

Row = ImageRef | Failure

# Most references that travel as one element to the workers that label them.
UNIT_ROWS = 512
# References from which a pack leaves at the end of a bucket: few, because the images of a small corpus must
# spread over workers, too.
_LEAST_ROWS = 16


class SelectOutcomes(NamedTuple):
    """The outputs of `SelectUnlabelled`.

    Attributes:
      ok: `ImageRef`, each id once; `BoxedImage` where rows are boxes.
      failures: `Failure`, for rows that can't be read and ids of several URIs.
      counts: `(kind, rows)`: `duplicate` rows, `kept` ids that are done, `other` ids that are done and not in
        the input, `other_uri` ids that are done under another URI.
    """

    ok: beam.PCollection
    failures: beam.PCollection
    counts: beam.PCollection


def id_of(row: Row) -> str:
    """Return the id of a row."""
    return ref_of(row).id


def select_unlabelled(bucket: Iterable[Row | DoneIds]) -> tuple[list[Row], Counter[str]]:
    """Merge rows of the same id, and remove ids that are done.

    A done id with a version is selected with that version as its `known_version`, unless the list has the
    same version. A done id with another URI is selected without, because its labels are labels of another
    image.

    Args:
      bucket: Rows of the input and done ids, in any order.

    Returns:
      References to label and failures, and the rows by kind, as in `SelectOutcomes`.
    """
    counts: Counter[str] = Counter()
    # All rows of the bucket are merged before done ids are looked up, because a bucket has no order. Two rows
    # are kept of each id, because a list may have one id a million times.
    extremes: dict[str, tuple[Row, Row]] = {}
    parts: list[DoneIds] = []
    for row in bucket:
        if isinstance(row, DoneIds):
            parts.append(row)
        elif (image_id := id_of(row)) in extremes:
            first, last = extremes[image_id]
            extremes[image_id] = min(first, row, key=_rank), max(last, row, key=_rank_from_behind)
            counts[DUPLICATE] += 1
        else:
            extremes[image_id] = row, row
    # Published parts first, because staged rows are newer and must win.
    finished = sorted((part for part in parts if not part.retry), key=lambda part: not part.published)
    done, uris = merge_done(finished), merge_uris(finished)
    judged = (select_row(_merge(first, last), done, uris, counts) for first, last in extremes.values())
    selected = [row for row in judged if row]
    # Ids that are retried count as well, because their rows stay in the tables if the input lacks them.
    counts[OTHER] = len({image_id for part in parts for image_id in part.ids} - extremes.keys())
    return selected, counts


def select_row(
    row: Row, done: Mapping[str, str | None], uris: Mapping[str, bytes], counts: Counter[str]
) -> Row | None:
    """Return a row if it needs a label, with the known version of its image; else count it as kept.

    Args:
      row: The row, the only one of its id.
      done: Version of each done id, as of `merge_done`.
      uris: Digests of the URIs of done ids, as of `merge_uris`.
      counts: Counts of rows by kind, as in `SelectOutcomes`.
    """
    image_id = id_of(row)
    if image_id not in done:
        return row
    if _is_of_another_uri(row, uris.get(image_id)):
        counts[OTHER_URI] += 1
        return row
    if isinstance(row, ImageRef) and done[image_id] not in (None, row.listed_version):
        return replace(row, known_version=done[image_id])
    counts[KEPT] += 1
    return None


# The smallest and the largest URI stand for all rows of an id, because the choice must not depend on the
# order, which a shuffle does not keep. Rows that cannot be read come last from either end, because any other
# row is better.
def _rank(row: Row) -> tuple[bool, str, tuple[str, str], str, str]:
    ref = ref_of(row)
    return isinstance(row, Failure), ref.uri, _listed(ref), repr(ref.columns), ref.address


def _rank_from_behind(row: Row) -> tuple[bool, str, tuple[str, str], str, str]:
    failed, uri, listed, columns, address = _rank(row)
    return not failed, uri, listed, columns, address


def _listed(ref: ImageRef) -> tuple[str, str]:
    return ref.listed_version or "", ref.listed_digest or ""


def _merge(first: Row, last: Row) -> Row:
    if isinstance(first, Failure) or isinstance(last, Failure):
        return first  # of several rows that cannot be read, one stands for all
    if first.uri == last.uri:
        # Without a version if the rows differ in it, because only a request shows the present one.
        is_one = _listed(first) == _listed(last)
        return first if is_one else replace(first, listed_version=None, listed_digest=None)
    message = f"id {first.id!r} stands for several URIs, such as {first.uri!r} and {last.uri!r}"
    return failure_of(first, "select", ImageError(Reason.AMBIGUOUS_ID, message))


def _is_of_another_uri(row: Row, digest: bytes | None) -> bool:
    """Return whether a row contradicts the URI digest of the id's row in the table, if there is one."""
    if isinstance(row, Failure):
        # The failure replaces the table's row, because that row would label only one of the id's URIs.
        return row.reason == Reason.AMBIGUOUS_ID
    return digest not in (None, digest_of_uri(row.uri))


def merge_done(parts: Iterable[DoneIds]) -> dict[str, str | None]:
    """Return the version of each done id, from the last part that has the id."""
    return {
        image_id: version
        for part in parts
        for image_id, version in zip(part.ids, part.versions or itertools.repeat(None), strict=False)
    }


def merge_uris(parts: Iterable[DoneIds]) -> dict[str, bytes]:
    """Return the URI digest of each done id, from the last part that has the id; published parts come first.

    Ids with staged rows of several URIs get an empty digest, which no URI has, because the order of the runs
    decides which of the rows is published. Their images are labelled again.
    """
    merged: dict[str, bytes] = {}
    staged: set[str] = set()
    for part in parts:
        for n, image_id in enumerate(part.ids if part.uris else ()):
            digest = part.uris[n * URI_DIGEST_BYTES : (n + 1) * URI_DIGEST_BYTES]
            is_unsure = image_id in staged and merged[image_id] != digest
            merged[image_id] = b"" if is_unsure else digest
            if not part.published:
                staged.add(image_id)
    return merged


@dataclass
class SelectUnlabelled(beam.PTransform):
    """The step that selects references to label.

    Input: `Outcomes` of `ReadImageRefs` and `DoneIds` of `ReadDoneIds`. Output: `ImageRef`.
    Failures: `select`, and failures of the input, each once.
    Guarantees: an id leaves once, from one of the outputs, or is counted as kept; fusion is broken here, and
    a runner can move every `UNIT_ROWS` references to another worker.

    Attributes:
      has_boxes: Whether rows are boxes of images. Then the output is `BoxedImage`, with all boxes of an image
        that need labels.
    """

    has_boxes: bool = False

    def expand(self, inputs: tuple[Outcomes, beam.PCollection]) -> SelectOutcomes:
        listed, done = inputs
        # A join by shuffle, not a side input of done ids, because the ids of a billion rows fit in no
        # worker's memory. The shuffle also deals references anew, because a list's lines start on few
        # workers.
        bucket = bucket_of_image if self.has_boxes else bucket_of
        packed = tuple(
            rows | f"Pack{name}" >> beam.ParDo(PackRows(bucket)).with_output_types(tuple[int, bytes])
            for name, rows in (("Refs", listed.ok), ("BadRows", listed.failures), ("Done", done))
        )
        buckets = packed | "Meet" >> beam.Flatten() | "GroupByBucket" >> beam.GroupByKey()
        selected = par_do("Select", buckets, _SelectFn(self.has_boxes), bytes, Failure, tuple[str, int])
        # A second shuffle, because a runner can neither split an element nor continue one that a lost worker
        # had: of a billion images, a bucket holds 244,000, which take hours.
        units = selected.pop("ok") | "Spread" >> beam.Reshuffle()
        unpack_unit, kind = (_unpack_boxes, BoxedImage) if self.has_boxes else (unpack, ImageRef)
        refs = units | "Unpack" >> beam.FlatMap(unpack_unit).with_output_types(kind)
        return SelectOutcomes(refs, **selected)


class PackRows(beam.DoFn):
    """A DoFn that packs gathered rows by bucket, because packs are a tenth of the elements and bytes."""

    def __init__(self, bucket: Callable[[str], int]) -> None:
        self._bucket = bucket

    def start_bundle(self) -> None:
        self._rows: dict[int, list[bytes]] = defaultdict(list)
        self._gathered = 0

    def process(self, row: Row | DoneIds) -> Iterator[tuple[int, bytes]]:
        image_id = row.ids[0] if isinstance(row, DoneIds) else id_of(row)
        self._rows[self._bucket(image_id)].append(encode_row(row))
        self._gathered += 1
        if self._gathered >= GATHERED_ROWS:
            yield from self._pack()

    def finish_bundle(self) -> Iterator:
        yield from map(GlobalWindows.windowed_value, self._pack())

    def _pack(self) -> Iterator[tuple[int, bytes]]:
        for bucket, rows in self._rows.items():
            yield bucket, pack(rows)
        self.start_bundle()


_LIST_CODER = beam.coders.IterableCoder(beam.coders.BytesCoder())
# Least effort, because it is enough: URIs of one corpus resemble each other.
_ZLIB_LEVEL = 1


def pack(rows: list[bytes]) -> bytes:
    """Pack encoded rows."""
    return zlib.compress(_LIST_CODER.encode(rows), _ZLIB_LEVEL)


def unpack(packed: bytes) -> Iterator[Row | DoneIds]:
    """Return the rows of a pack."""
    return map(decode_row, _LIST_CODER.decode(zlib.decompress(packed)))


def _unpack_boxes(packed: bytes) -> Iterator[BoxedImage]:
    return join_boxes(row for row in unpack(packed) if isinstance(row, ImageRef))


class _SelectFn(beam.DoFn):
    """A DoFn that selects from a bucket, and yields references in packs; boxes of an image share one."""

    def __init__(self, has_boxes: bool) -> None:
        self._has_boxes = has_boxes

    def start_bundle(self) -> None:
        # Kept from bucket to bucket, because in a small corpus a bucket has a few rows, and a pack of each
        # would cost more than the rows.
        self._refs: list[bytes] = []

    def process(self, bucket: tuple[int, Iterable[bytes]]) -> Iterator:
        listed = itertools.chain.from_iterable(map(unpack, bucket[1]))
        rows, counts = select_unlabelled(number_boxes(listed) if self._has_boxes else listed)
        yield from map(to_output, counts.items())
        yield from (to_output(row) for row in rows if isinstance(row, Failure))
        refs = (row for row in rows if isinstance(row, ImageRef))
        for image in group_by_image(refs) if self._has_boxes else zip(refs, strict=True):
            self._refs.extend(map(encode_row, image))
            if len(self._refs) >= UNIT_ROWS:
                yield to_output(self._pack())
        if len(self._refs) >= _LEAST_ROWS:
            yield to_output(self._pack())

    def finish_bundle(self) -> Iterator:
        if self._refs:
            yield to_output(self._pack(), is_last=True)

    def _pack(self) -> bytes:
        packed = pack(self._refs)
        self._refs = []
        return packed
