import dataclasses
from pathlib import Path

import pytest

from labelbeam.transforms import done
from labelbeam.transforms.buckets import bucket_of
from labelbeam.transforms.done import ReadDoneIds, read_done_ids
from labelbeam.transforms.elements import digest_of_uri
from labelbeam.transforms.select import merge_done
from labelbeam.transforms.table.folder import StoredFile, TableFolder
from tests.damage import flip
from tests.eager import RUNNERS, eagerly
from tests.results import failure, list_published, prediction, row_metadata_of, write_table_file

METADATA = row_metadata_of("r")
# Number of ids that is large enough for some to share one of the 4,096 buckets.
NUMBERS = range(2000)
VERSIONS = {f"id{n}": None if n % 2 else f"v{n}" for n in NUMBERS}


def write(folder, results: list, published: bool = True) -> StoredFile:
    return write_table_file(folder, results, METADATA, published)


def ids_of(parts) -> list[str]:
    return sorted(image_id for part in parts for image_id in part.ids)


@pytest.fixture(scope="module")
def predictions(tmp_path_factory) -> StoredFile:
    results = [
        dataclasses.replace(
            one, metadata=dataclasses.replace(one.metadata, version=VERSIONS[one.ref.id], sha256=f"{n:064x}")
        )
        for n, one in ((n, prediction(n)) for n in NUMBERS)
    ]
    return write(tmp_path_factory.mktemp("table"), results)


@pytest.mark.parametrize("rows_per_batch", [1 << 16, 100])
def test_read_done_ids__predictions__each_id_once_by_bucket(predictions, monkeypatch, rows_per_batch):
    monkeypatch.setattr(done, "GATHERED_ROWS", rows_per_batch)
    parts = list(read_done_ids(predictions, frozenset({"timeout"}), versions=False))
    assert ids_of(parts) == sorted(VERSIONS)
    assert all(len({bucket_of(i) for i in part.ids}) == 1 for part in parts)
    assert all(part.published and part.versions == () for part in parts)
    if rows_per_batch > len(NUMBERS):
        assert len(parts) == len({bucket_of(i) for i in VERSIONS}) < len(NUMBERS)


def test_read_done_ids__versions_asked_for__each_id_has_its_own_or_its_digest(predictions):
    parts = list(read_done_ids(predictions, frozenset(), versions=True))
    assert merge_done(parts) == {
        image_id: version or f"sha256:{int(image_id[2:]):064x}" for image_id, version in VERSIONS.items()
    }


@pytest.mark.parametrize("versions", [False, True])
@pytest.mark.parametrize(
    ("redo", "published", "left"),
    [
        (set(), True, "01234567"),
        ({"timeout"}, True, "1267"),
        ({"timeout", "empty"}, True, "17"),
        ({"timeout"}, False, "01234567"),
    ],
)
def test_read_done_ids__redo__marks_published_failures_of_these_reasons(
    tmp_path, redo, published, left, versions
):
    reasons = ("timeout", "http_5xx", "empty", "timeout", "timeout", "timeout", "empty", "http_5xx")
    source = write(tmp_path, [failure(n, reason) for n, reason in enumerate(reasons)], published)
    parts = list(read_done_ids(source, frozenset(redo), versions))
    assert ids_of(parts) == [f"id{n}" for n in range(8)]
    assert ids_of([part for part in parts if not part.retry]) == [f"id{n}" for n in left]
    assert all(part.versions == () and part.published is published for part in parts)


def test_read_done_ids__by_file__failures_have_their_uris(tmp_path, predictions):
    source = write(tmp_path, [failure(n) for n in range(4)])
    parts = list(read_done_ids(source, frozenset(), False, by="file"))
    uris = {part.ids[n]: part.uris[8 * n :][:8] for part in parts for n in range(len(part.ids))}
    assert uris == {f"id{n}": digest_of_uri(failure(n).ref.uri) for n in range(4)}
    # Not predictions, because no prediction stands for a file.
    assert not any(part.uris for part in read_done_ids(predictions, frozenset(), False, by="file"))


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, {"id0": None, "id1": None, "id2": None, "id3": None}),
        ({"resumes": ("a", "b")}, {f"id{n}": None for n in range(7)}),
        ({"resumes": ("b",), "published": False}, {"id6": None}),
        ({"redo": frozenset({"empty"}), "resumes": ("a",)}, {f"id{n}": None for n in (0, 1, 2, 4, 5)}),
        (
            {"resumes": ("a",), "versions": True},
            {"id0": "v1", "id1": "v1", "id2": None, "id3": None, "id4": "v1", "id5": None},
        ),
    ],
    ids=["published", "resumes", "replaced", "redo", "versions"],
)
def test_read_done_ids__an_output_folder__gives_what_is_asked_for(tmp_path, runner, options, left):
    folder = TableFolder(str(tmp_path))
    published = [
        write(tmp_path, [prediction(0), prediction(1)]),
        write(tmp_path, [failure(2), failure(3, "empty")]),
    ]
    list_published(tmp_path, [source.file for source in published])
    write(folder.run("a"), [prediction(4)])
    write(folder.run("a"), [failure(5, "empty")])
    write(folder.run("b"), [prediction(6)])
    parts = eagerly(ReadDoneIds(str(tmp_path), **options), None, runner)
    done = [part for part in parts if not part.retry]
    assert merge_done(done) == left and len(ids_of(done)) == len(left)
    assert {i for part in done if part.published for i in part.ids} == left.keys() & {
        "id0",
        "id1",
        "id2",
        "id3",
    }


@pytest.mark.parametrize("runner", RUNNERS)
def test_read_done_ids__staged_file_damaged__is_deleted_and_has_no_ids(tmp_path, runner, capfd):
    folder = TableFolder(str(tmp_path))
    whole, damaged = (write(folder.run("a"), [prediction(n)]).file.path for n in (0, 1))
    flip(Path(damaged), 99)
    assert ids_of(eagerly(ReadDoneIds(str(tmp_path), resumes=("a",)), None, runner)) == ["id0"]
    assert (Path(whole).exists(), Path(damaged).exists()) == (True, False)
    assert f"{damaged} was damaged and is deleted: its row is labelled again." in capfd.readouterr().err


@pytest.mark.parametrize("runner", RUNNERS)
def test_read_done_ids__published_file_damaged__is_refused_and_stays(tmp_path, runner):
    file = write(tmp_path, [prediction(0)]).file
    list_published(tmp_path, [file, write(tmp_path, [failure(1)]).file])
    flip(Path(file.path), 99)
    with pytest.raises(Exception, match=f"{file.path} is damaged: .*labelbeam verify"):
        eagerly(ReadDoneIds(str(tmp_path)), None, runner)
    assert Path(file.path).exists()


def test_read_done_ids__nothing_there__is_empty(tmp_path):
    assert eagerly(ReadDoneIds(str(tmp_path / "none"), resumes=("a",))) == []
