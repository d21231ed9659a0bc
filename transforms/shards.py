"""Reading files with images inside: each in one pass, but for images that are done."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import apache_beam as beam

from labelbeam.transforms.boxes import expand_boxes, inline_boxes
from labelbeam.transforms.buckets import bucket_of_file
from labelbeam.transforms.choose import ALL, Choice, FindBound, bound_of, draw_of
from labelbeam.transforms.coders import encode_row
from labelbeam.transforms.count import KEPT, LISTED, NOT_CHOSEN, OTHER, UNCHECKED
from labelbeam.transforms.elements import (
    FILE_ID_CHARS,
    URI_DIGEST_BYTES,
    BoxedImage,
    DoneIds,
    Failure,
    ImageRef,
    InlineImage,
    digest_of_member,
    digest_of_uri,
    id_of_uri,
    image_id_of,
    ref_of,
)
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.formats import Shard, ShardFormat, shard_format
from labelbeam.transforms.inputs.images import uri_of_path
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.outcomes import NotingFn, par_do, to_output
from labelbeam.transforms.select import PackRows, merge_done, merge_uris, pack, select_row, unpack

K = TypeVar("K")


class ShardOutcomes(NamedTuple):
    """The outputs of `ReadShards`.

    Attributes:
      ok: `InlineImage`, one per image without a row; `BoxedImage`, with the boxes without a row.
      failures: `Failure`, one per image that can't be read, and one per file that is damaged.
      counts: `(kind, rows)`, as of `CountRows`: `listed`, `not_chosen`, `kept`, `unchecked` and `other`,
        which is counted down for each image that is found.
      notes: `Notes` about the input.
      stale_ids: Ids of failures that stood for the rest of a file when an earlier run read the file.
    """

    ok: beam.PCollection
    failures: beam.PCollection
    counts: beam.PCollection
    notes: beam.PCollection
    stale_ids: beam.PCollection


class Work(NamedTuple):
    """A shard to read, and the packed ids that the tables have of it."""

    shard: Shard
    packed: bytes


class Done(NamedTuple):
    """Rows that the tables have of the images inside one file.

    Attributes:
      versions: Digest of each finished image, by id; None if images are not compared.
      retry: Ids of rows that are replaced.
      uris: Digests of the URIs of finished boxes, by id; empty without boxes.
    """

    versions: dict[str, str | None]
    retry: set[str]
    uris: dict[str, bytes]

    def is_done(self, image_id: str) -> bool:
        """Return whether an image needs no bytes."""
        return self.versions.get(image_id, "") is None

    def has(self, image_id: str) -> bool:
        """Return whether the tables have a row of an image."""
        return image_id in self.versions or image_id in self.retry


@dataclass
class ReadShards(beam.PTransform):
    """The step that reads the images inside files.

    Input: `DoneIds` of `ReadDoneIds`, by file. Output: `InlineImage`, or `BoxedImage`. Failures: `read`.
    Guarantees: a file, or each of the parts that its format allows, is read in one pass and on one worker. A
    worker holds the finished ids of one file, or of one part, at a time.

    Attributes:
      corpus: The corpus.
      max_bytes: Largest image.
      choice: Images to label. With a limit, each file is read twice.
    """

    corpus: Corpus
    max_bytes: int
    choice: Choice = Choice()  # noqa: RUF009  (frozen)

    def expand(self, done: beam.PCollection[DoneIds]) -> ShardOutcomes:
        shards = (
            done.pipeline
            | "Once" >> beam.Create([None], reshuffle=False)
            | "Split" >> beam.ParDo(_SplitFn(self.corpus)).with_output_types(tuple[int, Any])
        )
        pack_done = beam.ParDo(PackRows(bucket_of_file)).with_output_types(tuple[int, bytes])
        # Not by one shuffle as in `SelectUnlabelled`, because shards are few.
        buckets = {"shards": shards, "done": done | "PackDone" >> pack_done} | beam.CoGroupByKey()
        # Failures of the rest of a file are stale only if whole files are read, because parts of a file of
        # which no image is chosen are passed over, and damage to them isn't found again.
        matcher = _MatchFn(self.corpus, finds_stale_ids=self.choice.is_all)
        matched = par_do("Match", buckets, matcher, Work, tuple[str, int], str)
        # A second shuffle, because the shards of a bucket would otherwise be read by one worker, one after
        # another, and fused with the model.
        spread = matched["ok"] | "Spread" >> beam.Reshuffle()
        reader = _ReadFn(self.corpus, self.max_bytes)
        outputs = (BoxedImage if self.corpus.boxes else InlineImage, Failure, tuple[str, int], Notes)
        read = par_do("Read", spread, reader, *outputs, side_input=self._bound(shards))
        counts = (matched["counts"], read.pop("counts")) | "Counts" >> beam.Flatten()
        return ShardOutcomes(counts=counts, stale_ids=matched["stale_ids"], **read)

    def _bound(self, shards: beam.PCollection[tuple[int, Shard]]) -> int | beam.pvalue.AsSingleton:
        if self.choice.limit is None:
            return bound_of(self.choice.share)
        ids = (
            shards
            | "SpreadShards" >> beam.Reshuffle()
            | "ListIds" >> beam.FlatMap(_list_ids, self.corpus.without_files()).with_output_types(str)
        )
        return beam.pvalue.AsSingleton(ids | "FindBound" >> FindBound(self.choice))


def _list_ids(numbered: tuple[int, Shard], corpus: Corpus) -> Iterator[str]:
    for row in shard_format(corpus).read(numbered[1], corpus, Notes(), 0, lambda _: True):
        yield ref_of(row).id


class _SplitFn(beam.DoFn):
    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def process(self, _: None) -> Iterator[tuple[int, Shard]]:
        for shard in shard_format(self._corpus).split(self._corpus):
            yield bucket_of_file(_file_id(shard)), shard


def _file_id(shard: Shard) -> str:
    """Return the beginning of the ids of all images of a shard's file."""
    return id_of_uri(uri_of_path(shard.file.path))[:FILE_ID_CHARS]


class _MatchFn(beam.DoFn):
    """A DoFn that brings finished ids to the shards of their file.

    Failures of the rest of a file are no finished ids, because the file is read anew: what stands for the
    rest now depends on where it is damaged, and on its parts.
    """

    def __init__(self, corpus: Corpus, finds_stale_ids: bool) -> None:
        self._corpus = corpus.without_files()
        self._finds_stale_ids = finds_stale_ids

    def process(self, bucket: tuple[int, dict[str, Iterable[Any]]]) -> Iterator:
        # Each once, because several inputs may have one file.
        shards = dict.fromkeys(bucket[1]["shards"])
        files = {digest_of_uri(uri_of_path(shard.file.path)) for shard in shards if self._finds_stale_ids}
        parts: dict[str, list[DoneIds]] = defaultdict(list)
        everything: set[str] = set()
        stale_ids: set[str] = set()
        for packed in bucket[1]["done"]:
            for part in unpack(packed):
                assert isinstance(part, DoneIds)
                everything.update(part.ids)
                stale = _ids_of_uris(part, files)
                stale_ids |= stale
                for file_id, its_part in _grouped(part, lambda row_id: row_id[:FILE_ID_CHARS], stale).items():
                    parts[file_id].append(its_part)
        yield from map(to_output, stale_ids)
        # Counted down again by each image that is found, because only a reader of the file finds them.
        yield to_output((OTHER, len(everything - stale_ids)))
        by_file: dict[str, list[Shard]] = defaultdict(list)
        for shard in shards:
            by_file[_file_id(shard)].append(shard)
        form = shard_format(self._corpus)
        for file_id, its_shards in by_file.items():
            yield from map(to_output, deal(its_shards, parts[file_id], file_id, form))


def _ids_of_uris(part: DoneIds, digests: Collection[bytes]) -> set[str]:
    """Return the ids whose rows have one of some URIs, by their digests."""
    size = URI_DIGEST_BYTES
    uris = (part.uris[start : start + size] for start in range(0, len(part.uris), size))
    return {image_id for image_id, uri in zip(part.ids, uris, strict=False) if uri in digests}


def deal(
    shards: Sequence[Shard], parts: Sequence[DoneIds], file_id: str, form: ShardFormat
) -> Iterator[Work]:
    """Deal the finished ids of a file to its shards.

    Each id leaves with the shard that has the image, because a large file has thousands of shards, and all
    its ids with each of them would be more than the images. Ids of no shard leave with each of them: those of
    failures of the rest of a shard, and of images that are not in the file any more.

    Args:
      shards: The shards.
      parts: The ids, also of boxes.
      file_id: Beginning of the ids.
      form: Format of the file.
    """
    ids = {image_id_of(row_id) for part in parts for row_id in part.ids} if len(shards) > 1 else set()
    places = {
        image_id: n
        for n, shard in enumerate(shards if ids else ())
        for name in form.members(shard)
        if (image_id := file_id + digest_of_member(name)) in ids
    }
    rows: dict[int | None, list[bytes]] = defaultdict(list)
    for part in parts:
        for place, its_part in _grouped(part, lambda row_id: places.get(image_id_of(row_id))).items():
            rows[place].append(encode_row(its_part))
    for n, shard in enumerate(shards):
        yield Work(shard, pack(rows[None] + rows[n]))


def _grouped(part: DoneIds, key: Callable[[str], K], left_out: Collection[str] = ()) -> dict[K, DoneIds]:
    """Group ids by a key."""
    numbers: dict[K, list[int]] = defaultdict(list)
    for n, image_id in enumerate(part.ids):
        if image_id not in left_out:
            numbers[key(image_id)].append(n)
    return {
        group: dataclasses.replace(
            part,
            ids=tuple(part.ids[n] for n in its),
            versions=tuple(part.versions[n] for n in its) if part.versions else (),
            uris=b"".join(part.uris[URI_DIGEST_BYTES * n : URI_DIGEST_BYTES * (n + 1)] for n in its),
        )
        for group, its in numbers.items()
    }


def done_of(packed: bytes) -> Done:
    """Return the finished ids of a file."""
    parts = [part for part in unpack(packed) if isinstance(part, DoneIds)]
    # Published parts first, because staged rows are newer and must win.
    finished = sorted((part for part in parts if not part.retry), key=lambda part: not part.published)
    retry = {image_id for part in parts if part.retry for image_id in part.ids}
    return Done(merge_done(finished), retry, merge_uris(finished))


def read_shard(
    shard: Shard,
    corpus: Corpus,
    notes: Notes,
    max_bytes: int,
    done: Done,
    counts: Counter[str],
    bound: int = ALL,
) -> Iterator[InlineImage | BoxedImage | Failure]:
    """Read the images of a shard that need labels, or boxes of them, and count all of them.

    Images whose draws are not below the bound are not chosen.
    """

    def needs_no_bytes(image_id: str) -> bool:
        # Boxes of an image are read with its bytes, so that it is unknown before whether all are done.
        is_done = corpus.boxes is None and done.is_done(image_id)
        return is_done or (bound < ALL and draw_of(image_id) >= bound)

    uri = uri_of_path(shard.file.path)
    for row in shard_format(corpus).read(shard, corpus, notes, max_bytes, needs_no_bytes):
        ref = ref_of(row)
        # The failure that stands for the rest of a damaged file is always chosen, because the damage would go
        # unnoticed otherwise.
        if bound < ALL and draw_of(ref.id) >= bound and ref.uri != uri:
            counts.update((LISTED, NOT_CHOSEN))
        elif corpus.boxes:
            yield from _select_boxes(row, corpus, notes, done, counts)
        elif selected := _select(row, done, counts):
            yield selected


def _select_boxes(
    image: InlineImage | ImageRef | Failure, corpus: Corpus, notes: Notes, done: Done, counts: Counter[str]
) -> Iterator[BoxedImage | Failure]:
    """Select the boxes of an image that need labels, and count all of them."""
    wanted: list[ImageRef] = []
    for row in _boxes_of(image, corpus, notes):
        counts[LISTED] += 1
        counts[OTHER] -= done.has(ref_of(row).id)
        selected = select_row(row, done.versions, done.uris, counts)
        if isinstance(selected, ImageRef):
            wanted.append(selected)
        elif selected:
            yield selected
        elif isinstance(row, Failure) and done.versions[row.ref.id]:
            counts[UNCHECKED] += 1
    if wanted:
        assert isinstance(image, InlineImage)
        yield inline_boxes(image, wanted)


def _select(
    row: InlineImage | ImageRef | Failure, done: Done, counts: Counter[str]
) -> InlineImage | Failure | None:
    """Return an image or failure if it needs a row, and count it."""
    ref = ref_of(row)
    counts[LISTED] += 1
    counts[OTHER] -= done.has(ref.id)
    version = done.versions.get(ref.id)
    if isinstance(row, ImageRef):
        counts[KEPT] += 1
        return None
    if version is None:
        return row
    if isinstance(row, InlineImage):
        return dataclasses.replace(row, ref=dataclasses.replace(ref, known_version=version))
    # Labels are kept, because damage to the file doesn't make them wrong.
    counts.update((KEPT, UNCHECKED))
    return None


class _ReadFn(NotingFn):
    def __init__(self, corpus: Corpus, max_bytes: int) -> None:
        # Without the files, because a job's size is limited and `_SplitFn` carries them already.
        self._corpus = corpus.without_files()
        self._max_bytes = max_bytes

    def process(self, work: Work, bound: int) -> Iterator:
        counts: Counter[str] = Counter()
        done = done_of(work.packed)
        rows = read_shard(work.shard, self._corpus, self.notes, self._max_bytes, done, counts, bound)
        yield from map(to_output, rows)
        yield from map(to_output, counts.items())


def list_members(corpus: Corpus) -> Iterator[ImageRef | Failure]:
    """List the images of a corpus, or their boxes, in one process, without their bytes."""
    if corpus.boxes is None:
        for row in _read_all(corpus, 0, lambda _: True):
            assert not isinstance(row, InlineImage)
            yield row
        return
    # With their bytes, because boxes are read with them.
    for image in _read_all(corpus, sys.maxsize, lambda _: False):
        yield from _boxes_of(image, corpus, Notes())


def read_members(corpus: Corpus, max_bytes: int) -> Iterator[InlineImage | BoxedImage | Failure]:
    """Read the images of a corpus, or each of their boxes, in one process."""
    for row in _read_all(corpus, max_bytes, lambda _: False):
        assert not isinstance(row, ImageRef)
        if corpus.boxes is None:
            yield row
            continue
        for box in _boxes_of(row, corpus, Notes()):
            if isinstance(box, Failure):
                yield box
            elif isinstance(row, InlineImage):
                yield inline_boxes(row, [box])


def _boxes_of(
    image: InlineImage | ImageRef | Failure, corpus: Corpus, notes: Notes
) -> Iterator[ImageRef | Failure]:
    return expand_boxes(image.ref if isinstance(image, InlineImage) else image, corpus, notes)


def _read_all(
    corpus: Corpus, max_bytes: int, is_done: Callable[[str], bool]
) -> Iterator[InlineImage | ImageRef | Failure]:
    form, notes = shard_format(corpus), Notes()
    for shard in form.split(corpus):
        yield from form.read(shard, corpus, notes, max_bytes, is_done)
