"""Boxes: rows of an input become references of boxes, which meet by image."""

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelbeam.transforms.boxes import expand_boxes, group_by_image, join_boxes, number_boxes, with_boxes
from labelbeam.transforms.elements import (
    BoxedImage,
    DoneIds,
    Failure,
    ImageRef,
    digest_of_uri,
    id_of_member,
    id_of_uri,
    is_box,
    is_member,
)
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.images.regions import make_region
from labelbeam.transforms.inputs.corpus import BoxColumns, Corpus
from labelbeam.transforms.load import part_boxes
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.select import select_unlabelled

EDGES = ("left", "top", "right", "bottom")
NUMBERS = tuple((name, pa.float64()) for name in EDGES)
FOUR = Corpus("", "csv", columns=NUMBERS, boxes=BoxColumns(EDGES, "pixels"))
LIST = pa.list_(pa.list_(pa.float64()))
MANY = Corpus("", "csv", columns=(("boxes", LIST), ("n", pa.int64())), boxes=BoxColumns(("boxes",), "pixels"))


def expand(corpus: Corpus, *values, unit="pixels", **changes) -> list:
    corpus = replace(corpus, boxes=corpus.boxes._replace(unit=unit), **changes)
    return list(expand_boxes(ImageRef("a", "/a.jpg", values), corpus, Notes()))


@pytest.mark.parametrize("listed", [[[1, 2, 30, 40], [0.5, 0, 9, 9]], "[[1,2,30,40],[0.5,0,9,9]]"])
def test_expand__list_of_boxes__is_a_row_for_each_in_its_order_without_the_list(listed):
    assert expand(MANY, listed, 7) == [
        ImageRef("a#0", "/a.jpg#xywh=pixel:1,2,29,38", (7,)),
        ImageRef("a#1", "/a.jpg#xywh=pixel:0.5,0,8.5,9", (7,)),
    ]


@pytest.mark.parametrize("values", [(0.1, 0.25, 0.5, 1.0), ("0.1", " 0.25", "0.5", "1")])
def test_expand__one_box_a_row__keeps_its_columns_and_has_no_number_yet(values):
    (ref,) = expand(FOUR, *values, unit="fractions")
    assert ref == ImageRef("a#", "/a.jpg#xywh=percent:10,25,40,75", values)


@pytest.mark.parametrize("listed", [None, "", " ", [], "[]"])
def test_expand__image_without_boxes__has_no_row_and_is_counted(listed):
    notes = Notes()
    assert not list(expand_boxes(ImageRef("a", "/a.jpg", (listed, 1)), MANY, notes))
    assert notes.to_json() == {"left_out": {"images without boxes": 1}}


@pytest.mark.parametrize(
    ("box", "unit", "message"),
    [
        ([1, 2, 3], "pixels", "is not four numbers"),
        ([1, 2, 3, None], "pixels", "is not four numbers"),
        ([1, 2, 3, "x"], "pixels", "is not four numbers"),
        ([1, 2, 3, float("nan")], "pixels", "is not four numbers"),
        ([1, 2, 3, float("inf")], "pixels", "is not four numbers"),
        ([1, 2, 3, True], "pixels", "is not four numbers"),
        (None, "pixels", "is not four numbers"),
        (7, "pixels", "is not four numbers"),
        ([30, 2, 3, 4], "pixels", "left must be less than right"),
        ([1, 5, 3, 5], "pixels", "top less than bottom"),
        ([0.1, 0.1, 0.9, 0.9], "pixels", "add --box_unit=fractions"),
        ([10, 10, 90, 90], "fractions", "add --box_unit=pixels"),
        ([0.1, 0.1, 0.1 + 1e-9, 0.9], "fractions", "less than a millionth"),
    ],
)
def test_expand__bad_box__is_a_failure_that_names_it_and_costs_no_other_box(box, unit, message):
    good = [0, 0, 50, 50] if unit == "pixels" else [0, 0, 0.5, 0.5]
    first, bad, last = expand(MANY, [good, box, good], 7, unit=unit)
    assert (first.id, bad.ref.id, last.id) == ("a#0", "a#1", "a#2")
    assert isinstance(bad, Failure)
    assert (bad.stage, bad.reason, bad.ref.uri, bad.ref.columns) == ("read", "bad_row", "/a.jpg", (7,))
    assert message in bad.message
    assert repr(box) in bad.message
    if box is None or box == 7:
        return
    (alone,) = expand(FOUR, *(*box, None)[:4], unit=unit)
    assert isinstance(alone, Failure)
    assert alone.ref.id.startswith("a#")


@pytest.mark.parametrize("listed", ["{", "7", '{"a": 1}', "null and void"])
def test_expand__no_list__is_one_failure(listed):
    (failure,) = expand(MANY, listed, 7)
    assert (failure.ref.id, failure.reason) == ("a#0", "bad_row")
    assert repr(listed)[1:-1] in failure.message or "no list of boxes" in failure.message


@pytest.mark.parametrize(
    ("columns", "boxes"),
    [
        (NUMBERS, ("left", "top", "right", "down")),
        ((("boxes", pa.list_(pa.float64())),), ("boxes",)),
        ((("boxes", pa.float64()),), ("boxes",)),
        ((*NUMBERS[:3], ("bottom", LIST)), EDGES),
        ((*NUMBERS[:3], ("bottom", pa.date32())), EDGES),
        ((), EDGES),
    ],
)
def test_with_boxes__columns_that_hold_none__are_refused(columns, boxes):
    with pytest.raises(UserError, match=f"box_columns='{','.join(boxes)}': .*input='list.csv'.* .*Name|Give"):
        with_boxes(Corpus("", "csv", columns=columns), BoxColumns(boxes, "pixels"), "list.csv")


boxes = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(10, 20), st.integers(10, 20))
rows = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["/1", "/2"]), boxes), max_size=12)


def refs_of(listed) -> list[ImageRef]:
    return [
        next(expand_boxes(ImageRef(name, uri, box), FOUR, Notes()))
        for name, uri, box in listed
    ]  # fmt: skip


@given(rows, st.randoms())
def test_number_boxes__rows_in_any_order__have_the_same_distinct_numbers(listed, random):
    done = DoneIds(("x",), (), published=True)
    numbered = list(number_boxes([*refs_of(listed), done]))
    shuffled = list(listed)
    random.shuffle(shuffled)
    again = [row for row in number_boxes(refs_of(shuffled)) if isinstance(row, ImageRef)]
    assert done in numbered
    numbered.remove(done)
    assert sorted(map(repr, again)) == sorted(map(repr, numbered))
    for image in group_by_image(numbered):
        numbers = {ref.uri: int(ref.id.rpartition("#")[2]) for ref in image}
        assert sorted(numbers.values()) == list(range(len(numbers)))
        assert len({(ref.id, ref.uri) for ref in image}) == len(numbers)


@given(rows)
def test_select__boxes_of_ids_that_stand_for_several_images__are_never_of_another_image(listed):
    selected, counts = select_unlabelled(number_boxes(refs_of(listed)))
    uris = {(name, uri) for name, uri, _ in listed}
    refs = [row for row in selected if isinstance(row, ImageRef)]
    for image in join_boxes(ref for refs in group_by_image(refs) for ref in refs):
        assert (image.image.id, image.image.uri) in uris
        assert all(box.uri.startswith(f"{image.image.uri}#xywh=") for box in image.boxes)
    assert len(selected) + counts["duplicate"] == len(listed)
    assert len({row.id if isinstance(row, ImageRef) else row.ref.id for row in selected}) == len(selected)


def test_select__box_of_another_region__is_labelled_again():
    old, new, same = (ImageRef(f"a#{n}", f"/a#xywh=pixel:{n},0,9,9") for n in (0, 1, 2))
    done = DoneIds(("a#0", "a#2"), (), published=True, uris=digest_of_uri(old.uri) + digest_of_uri(same.uri))
    selected, counts = select_unlabelled([replace(new, id="a#0"), same, done])
    assert selected == [replace(new, id="a#0")]
    assert (counts["other_uri"], counts["kept"]) == (1, 1)


def test_join_boxes__versions_that_differ__are_no_versions_of_the_image():
    region = make_region("pixel", 0, 0, 9, 9).fragment
    box = ImageRef("i#0#0", f"/a{region}", known_version="1", listed_version="1", signed="/a?s=1")
    (image,) = join_boxes([box, replace(box, id="i#0#1")])
    expected = ImageRef("i#0", "/a", known_version="1", listed_version="1", signed="/a?s=1")
    assert image.image == expected
    (image,) = join_boxes([box, replace(box, id="i#0#1", known_version=None, listed_version="2")])
    assert image.image == replace(expected, known_version=None, listed_version=None)


def test_part_boxes__very_many__are_parted_in_order():
    boxes = tuple(ImageRef(f"a#{n}", f"/a#xywh=pixel:{n},0,9,9") for n in range(7))
    parts = list(part_boxes(BoxedImage(ImageRef("a", "/a"), boxes), 3))
    assert [len(part.boxes) for part in parts] == [3, 3, 1]
    assert tuple(box for part in parts for box in part.boxes) == boxes


@pytest.mark.parametrize("uri", ["/a.tar#b.jpg", "/a.tar#b#xywh=pixel:1,1,1,1"])
def test_is_member__boxes__are_those_of_their_image(uri):
    file_uri, _, member = uri.partition("#")
    region = "#xywh=pixel:1,2,3,4"
    assert is_member(f"{id_of_member(file_uri, member)}#3", f"{uri}{region}") == (member == "b.jpg")
    assert is_box(f"{id_of_uri('/a.jpg')}#0", f"/a.jpg{region}")
    assert not is_member(f"{id_of_uri('/a.jpg')}#0", f"/a.jpg{region}")
    assert not is_box(id_of_uri(f"/a.jpg{region}"), f"/a.jpg{region}")
