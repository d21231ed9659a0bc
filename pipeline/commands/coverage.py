"""Coverage: whether each row of an input has its row in published tables."""

from __future__ import annotations

from collections.abc import Iterator

from labelbeam.transforms.buckets import hash_of
from labelbeam.transforms.elements import Failure, digest_of_uri
from labelbeam.transforms.errors import Reason
from labelbeam.transforms.files import open_parquet
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.read import list_rows
from labelbeam.transforms.select import id_of
from labelbeam.transforms.table.folder import Source
from labelbeam.transforms.table.rows import FAILURES

# Ids that are Python objects at once: some 300 MB with their URIs' digests.
_IDS_IN_MEMORY = 2_000_000


def find_uncovered(sources: list[Source], corpus: Corpus) -> Iterator[str]:
    """Find rows of an input that published tables have no row for, or one of another URI.

    Args:
      sources: The tables' files.
      corpus: The input, which is read once for each two million rows of the tables.

    Yields:
      One line for each id.

    Raises:
      RunError: The input is cut or damaged, or changes meanwhile.
    """
    parts = 1 + sum(source.file.rows for source in sources) // _IDS_IN_MEMORY
    for part in range(parts):
        yield from _uncovered(_uris_of_part(sources, part, parts), corpus, part, parts)


def _uncovered(uris: dict[str, bytes | None], corpus: Corpus, part: int, parts: int) -> Iterator[str]:
    for row in list_rows(corpus):
        image_id = id_of(row)
        if hash_of(image_id) % parts != part:
            continue
        if image_id not in uris:
            yield f"id {image_id!r}: is in the input and has no row"
        elif isinstance(row, Failure) or corpus.id_column is None:
            continue  # a row that cannot be read has no URI; ids made from URIs cannot stand for another
        elif (digest := uris[image_id]) is None or digest == digest_of_uri(row.uri):
            continue
        else:
            yield f"id {image_id!r}: is {row.uri!r} in the input, and its row is of another URI. Run again"
        if image_id in uris or len(uris) < 2 * _IDS_IN_MEMORY:
            uris[image_id] = None  # reported once, as far as memory allows


def _uris_of_part(sources: list[Source], part: int, parts: int) -> dict[str, bytes | None]:
    """Return the digest of the URI of each id of a part; None for an id that stands for several URIs."""
    uris: dict[str, bytes | None] = {}
    for source in sources:
        columns = ["id", "uri", *(["reason"] if source.file.table == FAILURES else [])]
        with open_parquet(source.file.path) as parquet:
            for batch in parquet.iter_batches(columns=columns):
                for image_id, uri, *reason in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                    if hash_of(image_id) % parts == part:
                        uris[image_id] = None if reason == [Reason.AMBIGUOUS_ID] else digest_of_uri(uri)
    return uris
