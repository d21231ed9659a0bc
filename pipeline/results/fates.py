"""Outcomes of images in two outputs: labelled, failed, or not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from labelbeam.pipeline.results.database import Database, literal
from labelbeam.transforms.errors import UserError

_EXAMPLES = 3
LABELLED = "labelled"
LABELLED_TWICE = "labelled in both"

_FATES = f"""
SELECT a_reason, b_reason, count(*) AS images,
  coalesce(min(id, {_EXAMPLES}) FILTER (WHERE a_reason IS DISTINCT FROM b_reason), []) AS ids
FROM pairs GROUP BY a_reason, b_reason
ORDER BY images DESC, a_reason NULLS LAST, b_reason NULLS FIRST
"""


@dataclass(frozen=True, slots=True)
class Example:
    """An image as an example; `message` is that of its failure in B, else in A, else empty."""

    id: str
    uri: str
    message: str


@dataclass(frozen=True, slots=True)
class Fate:
    """Images with the same outcomes.

    Attributes:
      a: Outcome in A: `labelled`, or the reason of a failure; None for images that A does not have.
      b: Outcome in B.
      images: Number of images.
      examples: Some of the images, if the outcomes differ.
    """

    a: str | None
    b: str | None
    images: int
    examples: tuple[Example, ...]


def find_fates(db: Database, outputs: tuple[str, str]) -> tuple[Fate, ...]:
    """Count the images in the table `pairs` by their outcomes in A and B.

    Raises:
      UserError: No image is in both outputs.
    """
    rows = db.rows(_FATES)
    examples = look_up(db, [image_id for row in rows for image_id in row["ids"]])
    fates = tuple(
        Fate(
            _outcome(row["a_reason"]),
            _outcome(row["b_reason"]),
            row["images"],
            tuple(examples[image_id] for image_id in row["ids"]),
        )
        for row in rows
    )
    if not any(fate.a and fate.b for fate in fates):
        firsts = [
            next((fate for fate in fates if side(fate)), None) for side in (attrgetter("a"), attrgetter("b"))
        ]
        uris = " and ".join(repr(fate.examples[0].uri) if fate else "none" for fate in firsts)
        raise UserError(
            f"{outputs[0]!r} and {outputs[1]!r} have no image in common, for example: {uris}. Images are "
            "matched by id, which is made of the URI: label the same URIs, or give both runs --id_column."
        )
    return fates


def _outcome(reason: str | None) -> str | None:
    return LABELLED if reason == "" else reason


def look_up(db: Database, ids: Sequence[str]) -> dict[str, Example]:
    """Return URI and message of a few images."""
    found: dict[str, Example] = {}
    # B last, because its URIs and messages are usually the newer ones.
    for side in ("a", "b") if ids else ():
        rows = db.rows(f"SELECT id, uri, message FROM {side}_images WHERE id IN ({literal(ids)[1:-1]})")
        for row in rows:
            earlier = found.get(row["id"])
            message = row["message"] or (earlier.message if earlier else "")
            found[row["id"]] = Example(row["id"], row["uri"], message)
    return found


def count_images(fates: Sequence[Fate]) -> dict[str, int]:
    """Return numbers of images by what both outputs have of them."""

    def count(a: bool | None, b: bool | None) -> int:
        return sum(fate.images for fate in fates if (_state(fate.a), _state(fate.b)) == (a, b))

    return {
        LABELLED_TWICE: count(True, True),
        "labelled in A, failed in B": count(True, False),
        "failed in A, labelled in B": count(False, True),
        "failed in both": count(False, False),
        "only in A": count(True, None) + count(False, None),
        "only in B": count(None, True) + count(None, False),
    }


def _state(outcome: str | None) -> bool | None:
    return None if outcome is None else outcome == LABELLED
