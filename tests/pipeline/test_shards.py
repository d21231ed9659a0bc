"""Whole runs over files with images inside."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelbeam.pipeline.commands.rerun import rerun
from labelbeam.pipeline.commands.verify import verify
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.photos import PHOTOS
from tests.graphs import TWO_PROCESSES, assert_sound, read_tables, run_pipeline
from tests.shards import parquet_of, tar_of, tfrecord_of, zip_of
from tests.synthetic import jpeg_bytes

FILES = {path.name: path.read_bytes() for path in sorted(PHOTOS.iterdir())}
# Forms of files with images inside, by the ending of the name.
WRITERS = {".tar": tar_of, ".zip": zip_of, ".tfrecord": tfrecord_of, ".parquet": parquet_of}


def labels_of(output) -> dict[str, tuple]:
    """Return scores, labels and facts of a table's images, by the digest of their bytes."""
    predictions, failures = read_tables(output)
    assert not failures
    return {
        row["sha256"]: (
            [one["score"] for one in row["labels"]],
            [one["label"] for one in row["labels"]],
            *(row[name] for name in ("width_px", "height_px", "format", "size_bytes")),
        )
        for row in predictions
    }


@pytest.fixture(scope="module")
def of_folder(tmp_path_factory, tiny):
    """Return the rows of the folder of photos."""
    output = tmp_path_factory.mktemp("folder") / "out"
    run_pipeline(input=PHOTOS, output=output, model=tiny)
    return labels_of(output)


@pytest.mark.parametrize(
    ("suffix", "flags", "layout"),
    [(".tar", TWO_PROCESSES, "fused"), (".tar", (), "split"), *((suffix, (), "fused") for suffix in WRITERS)],
)
def test_run__photos_inside_files__have_the_rows_of_the_folder(
    tmp_path, tiny, of_folder, suffix, flags, layout
):
    names = sorted(FILES)
    for n in range(3):
        members = {name: FILES[name] for name in names[n::3]}
        (tmp_path / f"{n}{suffix}").write_bytes(WRITERS[suffix](members))
    output = tmp_path / "out"
    run_pipeline(*flags, input=f"{tmp_path}/*{suffix}", output=output, model=tiny, layout=layout)
    assert assert_sound(output)["counts"]["listed"] == len(FILES)
    labels = labels_of(output)
    assert labels.keys() == of_folder.keys()
    for name, (scores, *others) in labels.items():
        assert others == list(of_folder[name][1:])
        assert scores == pytest.approx(of_folder[name][0], abs=1e-5)


def test_run__archive_that_changes__labels_new_and_changed_images_and_retries_damaged_ones(tmp_path, tiny):
    archive, output = tmp_path / "a.tar", tmp_path / "out"
    options = {"input": archive, "output": output, "model": tiny, "max_failure_rate": 1}
    images = {f"{n}.jpg": jpeg_bytes(40 + n, 30) for n in range(6)}
    archive.write_bytes(tar_of(images | {"5.jpg": b"no image"}))
    counts = run_pipeline(**options)["counts"]
    assert (counts["labelled"], counts["failed"]) == (5, 1)
    with pytest.raises(UserError, match="by themselves, because they are inside files"):
        rerun(str(output), None, {}, [])
    assert_sound(output)
    # Without an option, an image that failed stays failed, and another content is not noticed.
    archive.write_bytes(tar_of(images | {"0.jpg": jpeg_bytes(90, 50), "6.jpg": jpeg_bytes(70, 20)}))
    counts = run_pipeline(**options)["counts"]
    assert (counts["labelled"], counts["kept"], counts["other"]) == (1, 6, 0)
    counts = run_pipeline(**options, refresh="changed")["counts"]
    assert (counts["labelled"], counts["kept"], counts["failed"], counts["other"]) == (2, 5, 0, 0)
    assert_sound(output)
    archive.write_bytes(tar_of({"1.jpg": images["1.jpg"]}))
    counts = run_pipeline(**options)["counts"]
    assert (counts["listed"], counts["kept"], counts["other"]) == (1, 1, 6)
    assert verify(str(output), {"input": str(archive)}) == []


def test_rerun__input_given__tries_images_inside_files_again(tmp_path, tiny):
    archive, output = tmp_path / "a.tar", tmp_path / "out"
    images = {f"{n}.jpg": jpeg_bytes(40 + n, 30) for n in range(4)}
    archive.write_bytes(tar_of(images | {"2.jpg": b"no image"}))
    run_pipeline(input=archive, output=output, model=tiny, max_failure_rate=1)
    archive.write_bytes(tar_of(images))
    assert rerun(str(output), None, {"input": str(archive)}, [])
    counts = assert_sound(output)["counts"]
    assert (counts["labelled"], counts["kept"], counts["failed"]) == (1, 3, 0)


def test_run__webdataset__texts_beside_images_are_columns(tmp_path, tiny):
    members = {}
    for n in range(3):
        texts = {"jpg": jpeg_bytes(), "cls": b"%d" % n, "json": b'{"n": %d}' % n, "txt": b"photo"}
        members |= {f"{n:04}.{ending}": data for ending, data in texts.items()}
    (tmp_path / "a.tar").write_bytes(tar_of(members))
    run_pipeline(input=tmp_path / "a.tar", output=tmp_path / "out", model=tiny)
    predictions, _ = read_tables(tmp_path / "out")
    rows = {row["key"]: (row["cls"], row["json"], row["txt"]) for row in predictions}
    assert rows == {f"{n:04}": (n, f'{{"n": {n}}}', "photo") for n in range(3)}


def cut(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def change_a_page(whole: bytes) -> bytes:
    at = whole.index(MEMBERS["3.jpg"]) + 20
    return whole[:at] + bytes(byte ^ 0xFF for byte in whole[at : at + 8]) + whole[at + 8 :]


def row_groups_of(members: dict[str, bytes]) -> bytes:
    f = io.BytesIO()
    table = pa.table({"image": list(members.values())})
    # Plain and without statistics, so that the bytes of an image stand in the file once.
    plain = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    pq.write_table(table, f, row_group_size=2, write_page_checksum=True, **plain)
    return f.getvalue()


MEMBERS = {f"{n}.jpg": jpeg_bytes(40 + n, 30) for n in range(6)}
DAMAGES = {".tar": (tar_of, cut), ".zip": (zip_of, cut), ".tfrecord": (tfrecord_of, cut)} | {
    ".parquet": (row_groups_of, change_a_page)
}


@pytest.mark.parametrize("suffix", DAMAGES)
def test_run__damaged_file__one_failure_stands_for_the_rest_until_the_file_is_whole(tmp_path, tiny, suffix):
    write, damage = DAMAGES[suffix]
    whole = write(MEMBERS)
    file, other, output = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}", tmp_path / "out"
    for path in (file, other):
        path.write_bytes(damage(whole))
    options = {"output": output, "model": tiny, "max_failure_rate": 1}
    manifest = run_pipeline(**options, input=tmp_path / f"*{suffix}")
    counts = manifest["counts"]
    assert counts["failed"] == 2 and set(manifest["unread"]) == {str(file), str(other)}
    # Damaged as before: the failure is replaced, and the one of the other file stays.
    again = run_pipeline(**options, input=file)["counts"]
    readable = counts["labelled"] // 2
    assert (again["failed"], again["kept"], again["other"]) == (1, readable, readable + 1)
    assert {row["uri"] for row in read_tables(output)[1]} == {str(file), str(other)}
    file.write_bytes(whole)
    # Of a sample, parts of a file may not be read, so damage may not be found again.
    assert run_pipeline(**options, input=file, limit=1)["rows"]["failures"] == 2
    run_pipeline(**options, input=file)
    (failure,) = read_tables(output)[1]
    assert failure["uri"] == str(other)
    manifest = assert_sound(output)
    assert manifest["rows"] == {"predictions": 6 + readable, "failures": 1}
    assert (manifest["counts"]["failed"], manifest["counts"]["other"]) == (0, readable + 1)
    assert not manifest.get("unread")


def test_run__damaged_archive__labels_what_is_readable_and_names_the_rest(tmp_path, tiny):
    (tmp_path / "a.tar").write_bytes(cut(tar_of(MEMBERS)))
    options = {"input": tmp_path / "a.tar", "output": tmp_path / "out", "model": tiny, "max_failure_rate": 1}
    labelled = run_pipeline(**options)["counts"]["labelled"]
    _, (failure,) = read_tables(tmp_path / "out")
    assert labelled >= 2 and failure["uri"] == str(tmp_path / "a.tar")
    assert "The images behind" in failure["message"] and f"{labelled - 1}.jpg" in failure["message"]
