import datetime
import itertools

import apache_beam as beam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelbeam.transforms import select
from labelbeam.transforms.buckets import BUCKETS, bucket_of
from labelbeam.transforms.coders import ElementCoder, decode_row, encode_row
from labelbeam.transforms.elements import DoneIds, Failure, ImageRef, TableFile, digest_of_uri
from labelbeam.transforms.outcomes import Outcomes
from labelbeam.transforms.select import SelectUnlabelled, pack, select_unlabelled, unpack
from tests.eager import RUNNERS, eagerly

BAD = Failure(ImageRef("1", "A line", (None,)), "read", "bad_row", "no UTF-8", 1, "")


def selected_in_any_order(rows: list):
    """Return the selection, which must be equal in every order, and the counts above zero."""
    selections = [select_unlabelled(order) for order in itertools.permutations(rows)]
    (picked,) = {tuple(sorted(rows, key=repr)) for rows, _ in selections}
    (counts,) = {tuple(sorted((kind, n) for kind, n in counts.items() if n)) for _, counts in selections}
    return list(picked), dict(counts)


@pytest.mark.parametrize(
    ("rows", "taken"),
    [
        ([ImageRef("1", "a", (2,)), ImageRef("1", "a", (1,)), ImageRef("1", "a", (None,))], (1,)),
        ([ImageRef("1", "a", ("x",)), BAD, ImageRef("1", "a", ("x",))], ("x",)),
    ],
    ids=["other columns", "a row that failed"],
)
def test_select_unlabelled__rows_of_one_id__are_one_image_in_any_order(rows, taken):
    assert selected_in_any_order(rows) == ([ImageRef("1", "a", taken)], {"duplicate": 2})


def test_select_unlabelled__same_failure_twice__leaves_once():
    assert selected_in_any_order([BAD, BAD]) == ([BAD], {"duplicate": 1})


def test_select_unlabelled__several_uris__is_one_failure_that_names_two():
    rows = [ImageRef("7", "b"), ImageRef("7", "a", (5,)), ImageRef("7", "b"), ImageRef("8", "a")]
    (failure, other), counts = selected_in_any_order(rows)
    assert (failure.stage, failure.reason, failure.ref) == (
        "select",
        "ambiguous_id",
        ImageRef("7", "a", (5,)),
    )
    assert "'a' and 'b'" in failure.message
    assert (other, counts) == (ImageRef("8", "a"), {"duplicate": 2})


def test_select_unlabelled__several_uris_and_a_bad_row__is_one_failure_that_names_two():
    (failure,), counts = selected_in_any_order([ImageRef("1", "b"), BAD, ImageRef("1", "a"), BAD])
    assert failure.reason == "ambiguous_id" and "'a' and 'b'" in failure.message
    assert counts == {"duplicate": 3}


@pytest.mark.parametrize("uri", ["a", "b", "c"])
def test_select_unlabelled__several_uris_of_a_done_id__are_a_failure_in_place_of_its_label(uri):
    rows = [ImageRef("1", "a"), ImageRef("1", "b"), done_under({"1": uri}, True)]
    (failure,), counts = selected_in_any_order(rows)
    assert failure.reason == "ambiguous_id" and counts == {"duplicate": 1, "other_uri": 1}


def test_select_unlabelled__done_ids__are_kept_or_are_others():
    rows = [ImageRef("1", "a"), ImageRef("1", "a"), ImageRef("2", "b"), BAD]
    done = [DoneIds(("1", "8"), (), True), DoneIds(("1", "9"), (), False)]
    assert selected_in_any_order(rows + done) == (
        [ImageRef("2", "b")],
        {"duplicate": 2, "kept": 1, "other": 2},
    )


def test_select_unlabelled__done_with_a_version__is_selected_to_be_compared():
    rows = [ImageRef(n, "a", (n,)) for n in "1234"]
    done = DoneIds(("1", "2", "4"), ("v1", None, ""), True)
    assert selected_in_any_order([*rows, done]) == (
        [
            ImageRef("1", "a", ("1",), "v1"),
            ImageRef("3", "a", ("3",)),
            ImageRef("4", "a", ("4",), ""),
        ],
        {"kept": 1},
    )


def listed(*versions):
    return [ImageRef("1", "gs://b/a", ("c",), listed_version=version) for version in versions]


@pytest.mark.parametrize(
    ("rows", "in_table", "requested"),
    [
        (listed("7"), "7", None),
        (listed("7", "7"), "7", None),
        (listed("8"), "7", ImageRef("1", "gs://b/a", ("c",), "7", listed_version="8")),
        # Another kind of version, or none, shows nothing.
        (listed("7"), "sha256:7", ImageRef("1", "gs://b/a", ("c",), "sha256:7", listed_version="7")),
        (listed("7"), '"7"', ImageRef("1", "gs://b/a", ("c",), '"7"', listed_version="7")),
        (listed(None), "7", ImageRef("1", "gs://b/a", ("c",), "7")),
        (listed(None), "", ImageRef("1", "gs://b/a", ("c",), "")),
        # Rows of one image that differ, such as an old version beside the present one.
        (listed("7", "8"), "7", ImageRef("1", "gs://b/a", ("c",), "7")),
        (listed("7", None), "7", ImageRef("1", "gs://b/a", ("c",), "7")),
        (listed("6", "7", "8"), "7", ImageRef("1", "gs://b/a", ("c",), "7")),
    ],
)
def test_select_unlabelled__listed_version__keeps_an_image_only_if_it_is_that_of_the_table(
    rows, in_table, requested
):
    selected, counts = selected_in_any_order([*rows, DoneIds(("1",), (in_table,), True)])
    assert selected == ([requested] if requested else [])
    assert counts.get("kept", 0) == (requested is None)


def test_select_unlabelled__listed_version_of_an_id_with_another_uri__is_not_compared():
    moved = ImageRef("1", "b", (), listed_version="7")
    done = DoneIds(("1",), ("7",), True, uris=digest_of_uri("a"))
    assert selected_in_any_order([moved, done]) == ([moved], {"other_uri": 1})


@pytest.mark.parametrize(
    ("staged", "version"),
    [(DoneIds(("1",), ("new",), False), "new"), (DoneIds(("1",), (), False), None)],
    ids=["a prediction", "a failure"],
)
def test_select_unlabelled__staged_and_published__goes_by_the_staged_row(staged, version):
    rows = [ImageRef("1", "a"), DoneIds(("0", "1"), ("old", "old"), True), staged]
    expected = ([ImageRef("1", "a", (), version)], {"other": 1}) if version else ([], {"kept": 1, "other": 1})
    assert selected_in_any_order(rows) == expected


class SelectFrom(SelectUnlabelled):
    """The step, with references, failures and done ids from one list."""

    def expand(self, rows):
        def of(kind: type) -> beam.PCollection:
            return rows | kind.__name__ >> beam.Filter(isinstance, kind).with_output_types(kind)

        return super().expand((Outcomes(of(ImageRef), of(Failure)), of(DoneIds)))


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("gathered", [7, 1 << 16])
def test_select_unlabelled__rows_and_done_ids__each_leaves_once_or_is_counted(runner, gathered, monkeypatch):
    monkeypatch.setattr(select, "GATHERED_ROWS", gathered)
    bad = Failure(ImageRef("bad", "line"), "read", "bad_row", "m", 1, "")
    day = datetime.date(2026, 1, 2)
    rows = [ImageRef(str(n % 10), f"u{n % 10}", (day, None)) for n in range(30)]
    rows += [bad, bad, ImageRef("3", "another")]
    done = [DoneIds((n,), (), True) for n in ("0", "1", "gone")] + [DoneIds(("2",), ("v",), False)]
    selected = eagerly(SelectFrom(), [*rows, *done], runner)
    assert sorted(selected.ok, key=repr) == [
        ImageRef(n, f"u{n}", (day, None), "v" if n == "2" else None) for n in "2456789"
    ]
    assert sorted((f.ref.id, f.reason) for f in selected.failures) == [
        ("3", "ambiguous_id"),
        ("bad", "bad_row"),
    ]
    counts = {kind: sum(n for k, n in selected.counts if k == kind) for kind, _ in selected.counts}
    assert counts == {"duplicate": 22, "kept": 2, "other": 1}
    assert len(selected.ok) + len(selected.failures) + counts["duplicate"] + counts["kept"] == len(rows)


@given(st.lists(st.integers(0, 3 * select.UNIT_ROWS), max_size=40))
def test_select_fn__buckets_of_any_size__leave_in_units_that_a_runner_can_spread(sizes):
    fn = select._SelectFn(has_boxes=False)
    fn.start_bundle()
    buckets = [[ImageRef(f"{n}-{k}", "a") for k in range(size)] for n, size in enumerate(sizes)]
    packed = [fn.process((n, [pack(list(map(encode_row, refs)))])) for n, refs in enumerate(buckets)]
    outputs = [*itertools.chain.from_iterable(packed), *(one.value for one in fn.finish_bundle())]
    units = [list(unpack(pack)) for pack in outputs if isinstance(pack, bytes)]
    assert [ref for unit in units for ref in unit] == [ref for refs in buckets for ref in refs]
    assert all(len(unit) <= select.UNIT_ROWS for unit in units)
    # A unit spans buckets only while these are small.
    assert all(len(unit) >= 16 for unit in units[:-1])


def test_bucket_of__ids__are_spread_and_the_same_everywhere():
    buckets = [bucket_of(image_id) for image_id in ("", "\ud800", *map(str, range(10_000)))]
    assert all(0 <= bucket < BUCKETS for bucket in buckets) and len(set(buckets)) > BUCKETS / 2
    assert bucket_of("123456789") == 0xCBF43926 % BUCKETS  # the check value of CRC-32


REF = ImageRef(
    "ü1",
    "gs://b/ö.jpg",
    (None, 1.5, -(2**40), True, datetime.date(2026, 1, 2), datetime.datetime(2026, 1, 2, 3)),
)
ELEMENTS = [
    ImageRef("1", "a"),
    ImageRef("1", "a", (None,), '"v1"', listed_version="7"),
    REF,
    Failure(REF, "fetch", "timeout", "too slow\n", 3, "b"),
    DoneIds(("1", "2"), ("v", None), False),
    DoneIds(("1",), (), True),
    TableFile("predictions", "gs://b/x.parquet", 2**40, 7),
    TableFile("failures", "x", 0, 7, "f" * 64),
]


@pytest.mark.parametrize("element", ELEMENTS)
def test_coders__any_element__comes_back_by_the_registered_coder(element):
    registered = beam.coders.registry.get_coder(type(element))
    assert registered == ElementCoder(type(element))
    assert registered.decode(registered.encode(element)) == element


@pytest.mark.parametrize("element", [e for e in ELEMENTS if not isinstance(e, TableFile)])
def test_encode_row__any_row__comes_back_as_what_it_was(element):
    back = decode_row(encode_row(element))
    assert type(back) is type(element) and back == element


def test_pack__rows_of_a_bucket__come_back_and_take_less_room():
    refs = [ImageRef(f"id{n}", f"https://images.example.org/photos/{n}.jpg") for n in range(100)]
    rows = [*refs, *(element for element in ELEMENTS if not isinstance(element, TableFile))]
    encoded = list(map(encode_row, rows))
    packed = pack(encoded)
    assert list(unpack(packed)) == rows and len(packed) < sum(map(len, encoded)) / 2
    assert list(unpack(pack([]))) == []


def done_under(uris: dict[str, str], published: bool, versions: tuple = ()) -> DoneIds:
    return DoneIds(tuple(uris), versions, published, False, b"".join(map(digest_of_uri, uris.values())))


def test_select_unlabelled__done_under_another_uri__is_labelled_again_without_a_version():
    rows = [ImageRef("1", "a"), ImageRef("2", "new"), ImageRef("3", "c"), ImageRef("4", "new")]
    done = [
        done_under({"1": "a", "2": "old"}, True, ("v1", "v2")),
        done_under({"3": "c", "4": "old", "5": "e"}, True),
    ]
    assert selected_in_any_order(rows + done) == (
        [ImageRef("1", "a", (), "v1"), ImageRef("2", "new"), ImageRef("4", "new")],
        {"kept": 1, "other": 1, "other_uri": 2},
    )


@pytest.mark.parametrize(
    ("staged", "kept"),
    [(["new"], True), (["new", "new"], True), (["old"], False), (["old", "new"], False), ([], False)],
)
def test_select_unlabelled__staged_under_several_uris__keeps_only_what_is_sure(staged, kept):
    done = [done_under({"1": "old"}, True), *(done_under({"1": uri}, False) for uri in staged)]
    picked, counts = selected_in_any_order([ImageRef("1", "new"), *done])
    assert counts == ({"kept": 1} if kept else {"other_uri": 1}) and len(picked) == (not kept)
