"""Boxes: parts of images that are labelled as images of their own.

A row of the input becomes a reference for each of its boxes, with the id `ID#n` and the region in the URI.
`n` is the place in a list of boxes. Where each row has one box, `n` is found where all rows of an image meet.
References of one image then travel together, so that the image is requested and decoded once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds

from labelbeam.transforms.attempts import failure_of
from labelbeam.transforms.elements import (
    BoxedImage,
    DoneIds,
    Failure,
    ImageRef,
    InlineImage,
    image_id_of,
    image_uri_of,
)
from labelbeam.transforms.errors import ImageError, Reason, UserError
from labelbeam.transforms.images.regions import Region, make_region, region_of
from labelbeam.transforms.inputs.corpus import BoxColumns, Corpus
from labelbeam.transforms.notes import LEFT_OUT, Notes

# Name of images without boxes among what is left out of an input.
NO_BOX = "images without boxes"
# Largest fraction. Above 1, because edges that were computed can exceed the image by a rounding error.
_LARGEST_FRACTION = 1.001


def with_boxes(corpus: Corpus, boxes: BoxColumns, name: str) -> Corpus:
    """Return a corpus whose rows have boxes.

    Args:
      corpus: The corpus, with its columns.
      boxes: Columns of the boxes, and their unit.
      name: Name of the input, for messages.

    Raises:
      UserError: A column is missing, or its type holds no boxes.
    """
    types = dict(corpus.columns)
    for path in boxes.columns:
        column, *keys = _parts_of(path, types)
        kind = _type_at(types.get(column), keys)
        if kind is None:
            listed = ", ".join(types) or "none"
            raise UserError(
                f"box_columns={','.join(boxes.columns)!r}: input={name!r} has no column {path!r} beside "
                f"those of URI and id; it has {listed}. Name columns of the input."
            )
        if not (kinds.is_string(kind) or _holds_boxes(kind, is_list=bool(boxes.in_list))):
            wanted = "lists of four numbers each" if boxes.in_list else "numbers"
            raise UserError(
                f"box_columns={','.join(boxes.columns)!r}: the column {path!r} of input={name!r} holds "
                f"{kind}, not {wanted}. Give one column with lists of boxes, each of left, top, "
                "right and bottom, or four columns with a number each."
            )
    return replace(corpus, boxes=boxes)


def _parts_of(path: str, columns: Iterable[str]) -> list[str]:
    """Return the column of a path, and the keys behind it; a column's own name may have dots."""
    return [path] if path in columns else path.split(".")


def _type_at(kind: pa.DataType | None, keys: Sequence[str]) -> pa.DataType | None:
    """Return the type of the values at keys within a column; None if there are none. Texts may be JSON."""
    for key in keys:
        if kind is None or kinds.is_string(kind):
            return kind
        position = kind.get_field_index(key) if kinds.is_struct(kind) else -1
        kind = kind.field(position).type if position >= 0 else None
    return kind


def _value_at(values: dict[str, Any], path: str) -> Any:
    """Return the value at a path; None if there is none.

    Raises:
      ValueError: A text on the path is not JSON.
    """
    column, *keys = _parts_of(path, values)
    value = values[column]
    for key in keys:
        value = _parse_json(value) if isinstance(value, str) else value
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except ValueError as e:
        raise ValueError(f"The boxes {text!r:.200} are not JSON: {e}") from e


def _holds_boxes(kind: pa.DataType, is_list: bool) -> bool:
    depth = 0
    while kinds.is_list(kind):
        kind, depth = kind.value_type, depth + 1
    is_number = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)
    return is_number and depth == (2 if is_list else 0)


def expand_boxes(row: ImageRef | Failure, corpus: Corpus, notes: Notes) -> Iterator[ImageRef | Failure]:
    """Yield the rows of the boxes of a row.

    A failure stays one row, because its boxes are unknown. An image without boxes is counted in the notes.
    """
    boxes = corpus.boxes
    # Failed rows of an output are boxes already.
    if boxes is None or corpus.only_failed:
        yield row
        return
    ref = row if isinstance(row, ImageRef) else row.ref
    values = dict(zip((name for name, _ in corpus.columns), ref.columns, strict=True))
    base = replace(ref, columns=tuple(v for name, v in values.items() if name != boxes.in_list))
    if isinstance(row, Failure):
        yield replace(row, ref=base)
        return
    try:
        at_paths = [_value_at(values, path) for path in boxes.columns]
        listed = _parse_list(at_paths[0]) if boxes.in_list else []
    except ValueError as e:
        yield _bad_box(base, f"{base.id}#0", str(e))
        return
    if not boxes.in_list:
        yield _row_of_box(base, at_paths, boxes, corpus.holds_images)
    elif not listed:
        notes.add(LEFT_OUT, NO_BOX)
    for n, box in enumerate(listed):
        yield _row_of_box(base, box, boxes, True, n)


def _row_of_box(
    base: ImageRef, box: Any, boxes: BoxColumns, is_numbered: bool, n: int = 0
) -> ImageRef | Failure:
    """Return the row of a box, whose number is still missing if rows have one box each."""
    try:
        region = _parse_box(box, boxes)
    except ValueError as e:
        # Under an id of its own, because all boxes of the image may be bad.
        name = str(n) if is_numbered else hashlib.sha256(repr(box).encode()).hexdigest()[:16]
        return _bad_box(base, f"{base.id}#{name}", str(e))
    number = n if is_numbered else ""
    uri = base.uri + region.fragment
    return replace(base, id=f"{base.id}#{number}", uri=uri)


def _bad_box(base: ImageRef, row_id: str, fault: str) -> Failure:
    return failure_of(replace(base, id=row_id), "read", ImageError(Reason.BAD_ROW, fault))


def _parse_list(value: Any) -> list[Any]:
    value = _parse_json(value) if isinstance(value, str) else value
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"The boxes {value!r:.200} are no list of boxes, each of four numbers")
    return value


def _parse_box(box: Any, boxes: BoxColumns) -> Region:
    """Return the region of a box.

    Raises:
      ValueError: The box is not four numbers, or has no area in its unit.
    """
    shown = f"The box {box!r:.200} (left, top, right, bottom, --box_unit={boxes.unit})"
    try:
        edges = [_number_of(edge) for edge in box]
    except (TypeError, ValueError) as e:
        raise ValueError(f"{shown} is not four numbers") from e
    if len(edges) != 4 or not all(map(math.isfinite, edges)):
        raise ValueError(f"{shown} is not four numbers")
    left, top, right, bottom = edges
    if left >= right or top >= bottom:
        raise ValueError(f"{shown} is empty: left must be less than right, and top less than bottom")
    if boxes.unit == "pixels":
        # At least one pixel, because fractions that are taken for pixels are smaller.
        if right - left < 1 or bottom - top < 1:
            raise ValueError(
                f"{shown} is smaller than a pixel; add --box_unit=fractions if it is one of fractions"
            )
        return make_region("pixel", *edges)
    if max(map(abs, edges)) > _LARGEST_FRACTION:
        raise ValueError(
            f"{shown} is not of fractions from 0 to 1; add --box_unit=pixels if it is one of pixels"
        )
    region = make_region("percent", *(100 * edge for edge in edges))
    if not (region.width and region.height):
        raise ValueError(f"{shown} is empty: its sides are less than a millionth of the image's")
    return region


def _number_of(value: Any) -> float:
    if isinstance(value, bool) or value is None:
        raise ValueError
    return float(value)


def number_boxes(rows: Iterable[ImageRef | Failure | DoneIds]) -> Iterator[ImageRef | Failure | DoneIds]:
    """Yield rows of images, whole ones or all of their boxes, with the missing numbers of boxes.

    The number is the rank of the box among the boxes of its image, by left, top, width and height, because
    the order of rows is not kept.
    """
    unnumbered: defaultdict[tuple[str, str], list[tuple[Region, ImageRef]]] = defaultdict(list)
    for row in rows:
        region = region_of(row.uri) if isinstance(row, ImageRef) and row.id.endswith("#") else None
        if isinstance(row, ImageRef) and region:
            unnumbered[row.id, image_uri_of(row.uri)].append((region, row))
        else:
            yield row
    # By URI, too, because one id may stand for several: their boxes get the same numbers, so that they are
    # found to be ambiguous.
    for (image_id, _), boxes in unnumbered.items():
        ranks = {region: n for n, region in enumerate(sorted({region for region, _ in boxes}))}
        yield from (replace(ref, id=f"{image_id}{ranks[region]}") for region, ref in boxes)


def join_boxes(refs: Iterable[ImageRef]) -> Iterator[BoxedImage]:
    """Join references of boxes to images; those of one image follow each other."""
    for (image_id, uri), its in itertools.groupby(refs, _image_of):
        boxes = tuple(its)
        yield BoxedImage(_image_of_boxes(image_id, uri, boxes), boxes)


def group_by_image(refs: Iterable[ImageRef]) -> Iterator[list[ImageRef]]:
    """Yield the references of the boxes of each image."""
    images: defaultdict[tuple[str, str], list[ImageRef]] = defaultdict(list)
    for ref in refs:
        images[_image_of(ref)].append(ref)
    yield from images.values()


def _image_of(ref: ImageRef) -> tuple[str, str]:
    return image_id_of(ref.id), image_uri_of(ref.uri)


def _image_of_boxes(image_id: str, uri: str, boxes: Sequence[ImageRef]) -> ImageRef:
    """Return the reference of an image of which boxes are labelled."""
    first = boxes[0]
    # Without versions if boxes differ in them, because some box then needs the pixels.
    known = {box.known_version for box in boxes}
    listed = {box.listed_version for box in boxes}
    return ImageRef(
        image_id,
        uri,
        known_version=first.known_version if len(known) == 1 else None,
        signed=first.signed,
        listed_version=first.listed_version if len(listed) == 1 else None,
    )


def box_alone(ref: ImageRef) -> BoxedImage:
    """Return an image of which one box is labelled."""
    return next(join_boxes((ref,)))


def inline_boxes(image: InlineImage, boxes: Sequence[ImageRef]) -> BoxedImage:
    """Return an image inside a file of which boxes are labelled."""
    ref = _image_of_boxes(image.ref.id, image.ref.uri, boxes)
    return BoxedImage(replace(image, ref=ref), tuple(boxes))
