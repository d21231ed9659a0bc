"""Files: listing, deletion and digests."""

import hashlib

import pytest

from labelbeam.transforms import files
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.files import delete_files, delete_temporary, digest_file, list_files, write_file


@pytest.mark.parametrize("name", ["out", "o[1]", "o*", "o?", "a b", "o\\x", "[!a]"])
@pytest.mark.parametrize("is_relative", [False, True])
def test_list_files__any_name_of_a_folder__lists_all_below_it(tmp_path, monkeypatch, name, is_relative):
    monkeypatch.chdir(tmp_path)
    folder = name if is_relative else str(tmp_path / name)
    assert list_files(folder) == []
    for path in ("a.json", "b/c.json"):
        write_file(f"{folder}/{path}", b"{}")
    delete_files([f"{folder}/a.json"])
    write_file(f"{folder}/a.json", b"{}")
    assert [(f.path, f.size_in_bytes) for f in list_files(folder)] == [
        (f"{folder}/{path}", 2) for path in ("a.json", "b/c.json")
    ]


def test_write_file__name_without_a_folder__is_in_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_file("here.json", b"{}")
    assert (tmp_path / "here.json").read_bytes() == b"{}"


def test_delete_temporary__files_of_the_users_own__stay(tmp_path):
    ours = ["manifest.json.0123abcd.tmp", "_probe-20260101T000000-0123abcd"]
    ours.append(f"{ours[1]}.0123abcd.tmp")
    theirs = ["notes.json.old.tmp", "_probe-mine", "manifest.json", "x.json.0123abcd.tmp.bak"]
    for name in ours + theirs:
        (tmp_path / name).touch()
    delete_temporary(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(theirs)


def test_digest_file__local_and_in_a_bucket__is_of_all_bytes(tmp_path, gcs):
    gcs.put("gs://digested/a", data := bytes(range(256)) * 10_000)
    (tmp_path / "a").write_bytes(data)
    expected = (len(data), hashlib.sha256(data).hexdigest())
    assert digest_file("gs://digested/a") == digest_file(str(tmp_path / "a")) == expected


def test_write_file__disk_is_full__is_an_error_with_the_path_and_a_remedy(tmp_path, monkeypatch):
    (tmp_path / "rows.1.tmp").symlink_to("/dev/full")
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "1")
    with pytest.raises(RunError, match=rf"^{tmp_path}/rows.1.tmp cannot be written: no space left .* Free"):
        write_file(str(tmp_path / "rows"), b"rows")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["page.html", "a/b/page.html", "./page.html"])
def test_write_file__relative_path__is_below_the_working_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data in (b"first", b"second"):
        write_file(path, data)
        assert (tmp_path / path).read_bytes() == data
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [tmp_path / path]
