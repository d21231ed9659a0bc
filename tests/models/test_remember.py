"""Remembered answers."""

import pytest

from labelbeam.transforms.models.remember import remembered


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELBEAM_CACHE_DIR", str(tmp_path))
    return tmp_path / "sums"


def test_remembered__lasting_answer__is_found_once(cache):
    calls = []
    for lasts, expected in ((False, 1), (True, 2), (True, 2)):
        answer = remembered("sums", {"a": 1}, lambda lasts=lasts: (calls.append(lasts) or {"n": 5}, lasts))
        assert (answer, len(calls)) == ({"n": 5}, expected)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"answer": {"n": 7}}', '{"answer": {"m": 1}, "sha256": "0"}']
)
def test_remembered__damaged_answer__is_found_again(cache, content):
    remembered("sums", {}, lambda: ({"n": 1}, True))
    (file,) = cache.iterdir()
    file.write_text(content)
    assert remembered("sums", {}, lambda: ({"n": 2}, True)) == {"n": 2}
    assert remembered("sums", {}, lambda: ({"n": 3}, True)) == {"n": 2}


def test_remembered__answer_that_cannot_be_written__is_returned_and_leaves_nothing(cache):
    remembered("sums", {}, lambda: ({"n": 1}, True))
    (file,) = cache.iterdir()
    file.unlink()
    (file / "x").mkdir(parents=True)  # a folder in its place
    assert remembered("sums", {}, lambda: ({"n": 2}, True)) == {"n": 2}
    assert list(cache.iterdir()) == [file]


def test_remembered__error_on_the_way__has_no_error_of_the_cache_before_it(cache):
    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError) as caught:
        remembered("sums", {}, fail)
    assert caught.value.__context__ is None
