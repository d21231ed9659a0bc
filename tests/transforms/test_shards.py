"""Reading files with images inside: every image once, those with rows without their bytes."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelbeam.transforms.buckets import bucket_of_file
from labelbeam.transforms.choose import Choice, draw_of, find_bound
from labelbeam.transforms.elements import (
    DIGEST,
    FILE_ID_CHARS,
    DoneIds,
    Failure,
    digest_of_uri,
    id_of_member,
)
from labelbeam.transforms.inputs import parquet_images
from labelbeam.transforms.inputs import zip as zip_module
from labelbeam.transforms.inputs.tar import FORMAT
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.sample import first_chosen
from labelbeam.transforms.shards import (
    Done,
    ReadShards,
    deal,
    done_of,
    list_members,
    read_members,
    read_shard,
)
from tests.eager import RUNNERS, eagerly
from tests.shards import find, parquet_of, tar_of, zip_of

IMAGES = {f"{n}.jpg": b"image %d" % n for n in range(8)}
MAX_BYTES = 1000


def done_of_file(path, names, **fields) -> DoneIds:
    ids = tuple(id_of_member(str(path), name) for name in names)
    return DoneIds(**{"ids": ids, "versions": (), "published": True} | fields)


def total(counts: list[tuple[str, int]]) -> dict[str, int]:
    summed: Counter[str] = Counter()
    for kind, n in counts:
        summed[kind] += n
    return {kind: n for kind, n in summed.items() if n}


@pytest.mark.parametrize("runner", RUNNERS)
def test_read_shards__done_ids__each_image_leaves_once_or_is_counted(tmp_path, runner):
    for name in ("a", "b"):
        (tmp_path / f"{name}.tar").write_bytes(tar_of(IMAGES))
    (tmp_path / "c.tar").write_bytes(tar_of({"x.jpg": b"x" * (MAX_BYTES + 1)}))
    corpus = replace(find(FORMAT, tmp_path / "*.tar"), pattern="")
    a, b = tmp_path / "a.tar", tmp_path / "b.tar"
    done = [
        done_of_file(a, ["0.jpg", "1.jpg", "gone.jpg"]),
        done_of_file(a, ["2.jpg"], published=False),
        done_of_file(b, ["3.jpg", "gone.jpg"], retry=True),
        DoneIds(("own id",), (), True),
    ]
    read = eagerly(ReadShards(corpus, MAX_BYTES), done, runner)
    names = {image.ref.uri.rpartition("/")[2]: image.data for image in read.ok}
    expected = {f"{f}.tar#{name}": data for f in "ab" for name, data in IMAGES.items()}
    for name in ("0.jpg", "1.jpg", "2.jpg"):
        del expected[f"a.tar#{name}"]
    assert names == expected and len(read.ok) == len(expected)
    assert [(f.ref.uri[-11:], f.reason) for f in read.failures] == [("c.tar#x.jpg", "too_large_bytes")]
    # Rows of images that are not found any more, and rows of another input.
    assert total(read.counts) == {"listed": 17, "kept": 3, "other": 3}


@given(
    st.lists(st.sampled_from(["new", "kept", "retried", "same", "changed", "broken"]), min_size=1, max_size=8)
)
def test_read_shard__images_of_every_state__are_counted_as_what_they_are(tmp_path_factory, states):
    """Test that counts balance: listed = read + failed + kept, and rows of the table that are found."""
    folder = tmp_path_factory.mktemp("shard")
    path = folder / "a.tar"
    members = {f"{n}.jpg": b"x" * (2000 if state == "broken" else 10) for n, state in enumerate(states)}
    path.write_bytes(tar_of(members))
    corpus = find(FORMAT, path)
    ids = {n: id_of_member(str(path), f"{n}.jpg") for n in range(len(states))}
    digests = {"same": DIGEST + "0", "changed": DIGEST + "1", "broken": DIGEST + "2", "kept": None}
    done = Done(
        {ids[n]: digests[state] for n, state in enumerate(states) if state in digests},
        {ids[n] for n, state in enumerate(states) if state == "retried"},
        uris={},
    )
    counts: Counter[str] = Counter()
    (shard,) = FORMAT.split(corpus)

    rows = list(read_shard(shard, corpus, Notes(), MAX_BYTES, done, counts))
    assert [row.ref.known_version for row in rows] == [
        digests.get(state) for state in states if state not in ("kept", "broken")
    ]
    have_rows = sum(state != "new" for state in states)
    kept = sum(state in ("kept", "broken") for state in states)
    expected = {"listed": len(states), "other": -have_rows, "kept": kept}
    assert counts == Counter(expected | {"unchecked": states.count("broken")})


def test_read_shards__ids_of_one_file__share_a_bucket(tmp_path):
    corpus = find(FORMAT, tmp_path / "a.tar", tar_of(IMAGES))
    rows = list(list_members(corpus))
    assert len({bucket_of_file(ref.id) for ref in rows}) == 1
    images = list(read_members(corpus, MAX_BYTES))
    assert [(image.ref, image.data) for image in images] == list(zip(rows, IMAGES.values(), strict=True))


PARTED = {"zip": (zip_module, zip_of, "#{}.jpg"), "parquet": (parquet_images, parquet_of, "#{}")}


def parted(tmp_path, monkeypatch, form):
    """Return the corpus of a file with many parts, and its images."""
    module, write, _ = PARTED[form]
    monkeypatch.setattr(module, "PART_BYTES", 1)
    if form == "parquet":
        monkeypatch.setattr("pyarrow.parquet.write_table", partial(pq.write_table, row_group_size=3))
    images = {f"{n}.jpg": b"image %d" % n for n in range(20)}
    return find(module.FORMAT, tmp_path / f"a.{form}", write(images))


@pytest.mark.parametrize("form", PARTED)
def test_read_shards__file_of_many_parts__each_image_leaves_once_or_is_counted(tmp_path, monkeypatch, form):
    corpus = parted(tmp_path, monkeypatch, form)
    done = [row.id for row in list_members(corpus)][3:14]
    gone = id_of_member(str(tmp_path / f"a.{form}"), "gone")
    parts = [
        DoneIds((*done[:6], gone), (None, DIGEST + "0", None, None, None, None, None), True),
        DoneIds(tuple(done[6:]), (), False, retry=True),
    ]
    read = eagerly(ReadShards(corpus, MAX_BYTES), parts)
    uris = {
        str(tmp_path / f"a.{form}") + PARTED[form][2].format(n) for n in range(20) if n not in (3, 5, 6, 7, 8)
    }
    assert {image.ref.uri for image in read.ok} == uris and len(read.ok) == len(uris)
    assert [image.ref.known_version for image in read.ok if image.ref.id == done[1]] == [DIGEST + "0"]
    assert total(read.counts) == {"listed": 20, "kept": 5, "other": 1}


@pytest.mark.parametrize("form", PARTED)
def test_deal__ids_of_a_file__leave_with_the_part_that_has_the_image(tmp_path, monkeypatch, form):
    corpus = parted(tmp_path, monkeypatch, form)
    shards = list(PARTED[form][0].FORMAT.split(corpus))
    assert len(shards) >= 6
    ids = [row.id for row in list_members(corpus)]
    gone = ids[0][:FILE_ID_CHARS] + "0" * FILE_ID_CHARS
    part = DoneIds((*ids, gone), tuple(f"{n}" for n in range(21)), True)
    dealt = [
        done_of(work.packed) for work in deal(shards, [part], ids[0][:FILE_ID_CHARS], PARTED[form][0].FORMAT)
    ]
    assert sum(len(done.versions) for done in dealt) == 20 + len(shards)
    assert all(gone in done.versions for done in dealt)
    for shard, done in zip(shards, dealt, strict=True):
        of_shard = PARTED[form][0].FORMAT.read(shard, corpus, Notes(), MAX_BYTES, lambda _: True)
        assert {ref.id for ref in of_shard} == done.versions.keys() - {gone}
        assert all(
            done.versions[image_id] == f"{ids.index(image_id)}" for image_id in done.versions.keys() - {gone}
        )


def test_read_shards__failure_of_a_part__is_found_again(tmp_path, monkeypatch):
    corpus = parted(tmp_path, monkeypatch, "parquet")
    path = tmp_path / "a.parquet"
    data = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    data[place : place + 20] = bytes(20)
    path.write_bytes(data)
    corpus = find(parquet_images.FORMAT, path)
    (failure,) = eagerly(ReadShards(corpus, MAX_BYTES), [DoneIds(("x",), (), True)]).failures
    read = eagerly(ReadShards(corpus, MAX_BYTES), [DoneIds((failure.ref.id,), (), True)])
    assert [one.ref.id for one in read.failures] == [failure.ref.id]
    assert total(read.counts) == {"listed": 18}


@pytest.mark.parametrize("choice", [Choice(), Choice(1e-9)])
def test_read_shards__damaged_file__one_failure_stands_for_the_rest(tmp_path, choice):
    whole = tar_of(IMAGES)
    corpus = find(FORMAT, tmp_path / "a.tar", whole[: len(whole) // 4])
    read = eagerly(ReadShards(corpus, MAX_BYTES, choice), [DoneIds(("x",), (), True)])
    assert bool(read.ok) == choice.is_all and [type(f) for f in read.failures] == [Failure]
    counts = total(read.counts)
    assert counts["listed"] == len(read.ok) + 1 + counts.get("not_chosen", 0) and counts["other"] == 1


@pytest.mark.parametrize("choice", [Choice(), Choice(limit=100)])
def test_read_shards__file_that_was_damaged__its_failures_are_stale(tmp_path, choice):
    whole = tar_of(IMAGES)
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 4])
    (tmp_path / "b.tar").write_bytes(whole)
    corpus = find(FORMAT, tmp_path / "*.tar")
    a, b, gone = (str(tmp_path / f"{name}.tar") for name in ("a", "b", "gone"))
    rest = {uri: id_of_member(uri, "\0part 0") for uri in (a, b, gone)}
    image = id_of_member(b, "0.jpg")
    done = [
        # A failure of an image, and the rest of the file, both tried again; the same rest, staged.
        DoneIds((image, rest[b]), (), True, True, digest_of_uri(f"{b}#0.jpg") + digest_of_uri(b)),
        DoneIds((rest[b],), (), False, False, digest_of_uri(b)),
        DoneIds((rest[a],), (), True, False, digest_of_uri(a)),
        # Of a file that is not in the input.
        DoneIds((rest[gone],), (), True, True, digest_of_uri(gone)),
    ]
    read = eagerly(ReadShards(corpus, MAX_BYTES, choice), done)
    # All rows of a sample stay, because the damage may lie in a part of the file that is not read.
    assert sorted(read.stale_ids) == (sorted([rest[a], rest[b]]) if choice.is_all else [])
    assert [failure.ref.id for failure in read.failures] == [rest[a]]
    counts = total(read.counts)
    assert counts["listed"] == len(read.ok) + 1 and counts["other"] == (1 if choice.is_all else 2)


@pytest.mark.parametrize("choice", [Choice(0.5), Choice(limit=5), Choice(0.5, 3), Choice(limit=100)])
def test_read_shards__choice__is_that_of_a_list_of_the_same_ids(tmp_path, choice):
    names = {f"{n}.jpg": b"x" for n in range(40)}
    for n in range(3):
        (tmp_path / f"{n}.tar").write_bytes(tar_of(names))
    corpus = find(FORMAT, tmp_path / "*.tar")
    ids = [ref.id for ref in list_members(corpus)]
    bound = find_bound(ids, choice)
    read = eagerly(ReadShards(corpus, MAX_BYTES, choice), [DoneIds(("x",), (), True)])
    expected = {image_id for image_id in ids if draw_of(image_id) < bound}
    assert {image.ref.id for image in read.ok} == expected and len(read.ok) == len(expected)
    assert total(read.counts) == {
        kind: n for kind, n in (("listed", 120), ("not_chosen", 120 - len(expected)), ("other", 1)) if n
    }
    first = first_chosen(corpus, choice, 4, MAX_BYTES)
    assert [image.ref.id for image in first] == [one for one in ids if one in expected][:4]
