"""Measurements in the cache."""

import pytest

from labelbeam.transforms.models.measurements import cached_measurement


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LABELBEAM_CACHE_DIR", str(tmp_path))
    return tmp_path / "sums"


def test_cached_measurement__that_lasts__is_taken_once(cache):
    calls = []
    for lasts, expected in ((False, 1), (True, 2), (True, 2)):
        result = cached_measurement(
            "sums", {"a": 1}, lambda lasts=lasts: (calls.append(lasts) or {"n": 5}, lasts)
        )
        assert (result, len(calls)) == ({"n": 5}, expected)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"result": {"n": 7}}', '{"result": {"m": 1}, "sha256": "0"}']
)
def test_cached_measurement__damaged__is_taken_again(cache, content):
    cached_measurement("sums", {}, lambda: ({"n": 1}, True))
    (file,) = cache.iterdir()
    file.write_text(content)
    assert cached_measurement("sums", {}, lambda: ({"n": 2}, True)) == {"n": 2}
    assert cached_measurement("sums", {}, lambda: ({"n": 3}, True)) == {"n": 2}


def test_cached_measurement__that_cannot_be_written__is_returned_and_leaves_nothing(cache):
    cached_measurement("sums", {}, lambda: ({"n": 1}, True))
    (file,) = cache.iterdir()
    file.unlink()
    (file / "x").mkdir(parents=True)  # a folder in its place
    assert cached_measurement("sums", {}, lambda: ({"n": 2}, True)) == {"n": 2}
    assert list(cache.iterdir()) == [file]


def test_cached_measurement__error_on_the_way__has_no_error_of_the_cache_before_it(cache):
    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError) as caught:
        cached_measurement("sums", {}, fail)
    assert caught.value.__context__ is None
