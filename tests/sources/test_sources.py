import hashlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from labelbeam.transforms.elements import EncodedImage, ImageRef, Unchanged
from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.loaders.image import fetch_image
from labelbeam.transforms.sources import Limits, Sources
from labelbeam.transforms.sources.addresses import host_and_path
from labelbeam.transforms.sources.gcs import check_network
from labelbeam.transforms.sources.sources import SCHEMES
from tests.engines.http_server import LOOPBACK

IMAGE_SHA256 = hashlib.sha256(b"image").hexdigest()
# Waits are long, because a busy machine must not fail a test; tests of the waits are elsewhere.
LIMITS = Limits(total_timeout_sec=60, max_bytes=100_000, connections=8, allow_hosts=LOOPBACK)


@pytest.fixture
def sources():
    return Sources(LIMITS)


def reason_of(sources, uri, known_version=None) -> str:
    with pytest.raises(ImageError) as e:
        sources.fetch(uri, known_version)
    return e.value.reason.value


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a.jpg",
        "ftp://host/a.jpg",
        "http://",
        "http://[::1/a.jpg",
        "http:///a.jpg",
        "http://host:port/a.jpg",
        "gs://bucket",
        "gs://bucket/",
        "gs:///name",
        "file://elsewhere/a.jpg",
        "a\0b.jpg",
        "http://host/a\nb",
        "gs://bucket/a\nb",
        "//cdn.example.org/x.jpg",
        "www.example.org/x.jpg",
        "WWW.example.org",
        "http:/example.org/x.jpg",
        "https:example.org",
        "gs:/bucket/x.jpg",
        "dbfs:/mnt/x.jpg",
        "data:image/png;base64,iVBORw0KGgo=",
        "~/x.jpg",
        "~user/x.jpg",
        "C:\\x.jpg",
        "\\\\host\\x.jpg",
        "mailto:a",
        "a:b.jpg",
        '"a.jpg"',
        "file:x.jpg",
        "file:",
        "file:///a%00b",
        "file:///a\0b",
        "",
    ],
)
def test_fetch__no_such_address__is_a_bad_uri(sources, gcs, uri):
    assert reason_of(sources, uri) == "bad_uri"


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("//cdn.example.org/x.jpg", "write https://cdn.example.org/x.jpg"),
        ("www.example.org/x.jpg", "write https://www.example.org/x.jpg"),
        ("~/x.jpg", "write the whole path"),
        ("C:\\x.jpg", "is a path of Windows"),
        ("\\\\host\\x.jpg", "is a path of Windows"),
        ('"a.jpg"', "is in quotes: remove them"),
        ("'many/m0.jpg'", "is in quotes: remove them"),
        ("# a list", "lists have no comments: remove the line, or write ./# a list"),
        ("s3://bucket/a.jpg", "gs:, http:, https: and paths are"),
        ("http:/example.org/x.jpg", "must begin with http://"),
        ("a\nb.jpg", "has control characters"),
        ("", "is empty"),
    ],
)
def test_fetch__mistaken_address__is_quoted_with_its_remedy(sources, uri, remedy):
    with pytest.raises(ImageError) as e:
        sources.fetch(uri)
    assert str(e.value).startswith(f"{uri!r:.300} ") and remedy in str(e.value)


@pytest.mark.parametrize(
    ("uri", "host", "path"),
    [
        ("file:/a/b.jpg", "", "/a/b.jpg"),
        ("file:///a/b.jpg", "", "/a/b.jpg"),
        ("file://localhost/a//b.jpg", "localhost", "/a//b.jpg"),
        ("file://h", "h", ""),
        ("file:a:b//c", "", "a:b//c"),
    ],
)
def test_host_and_path__file_uri__is_split_behind_its_host(uri, host, path):
    assert host_and_path(uri) == (host, path)


def test_local__path_and_file_uri__give_the_same_bytes(sources, tmp_path):
    path = tmp_path / "ä b%20#c.jpg"
    path.write_bytes(b"image")
    data, version = sources.fetch(str(path))
    assert (data, version) == (b"image", f"{path.stat().st_mtime_ns}-5")
    uri = path.as_uri()
    for other in (uri, uri.replace("file://", "file:"), uri.replace("file://", "FILE://localhost")):
        assert sources.fetch(other) == (data, version)


def test_local__colon_that_ends_no_scheme__is_part_of_the_path(sources, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:b.jpg", "12:30.jpg"):
        (tmp_path / name).write_bytes(b"image")
        assert sources.fetch(f"./{name}").data == b"image"
    assert sources.fetch("12:30.jpg").data == b"image"


def test_local__known_version__is_none_until_the_file_changes(sources, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"image")
    version = sources.fetch(str(path)).version
    assert sources.fetch(str(path), version) is None
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    touched = sources.fetch(str(path), version)
    assert touched.data == b"image" and touched.version != version
    path.unlink()
    assert reason_of(sources, str(path), version) == "not_found"


def test_local__what_is_no_readable_file__has_its_reason(sources, tmp_path):
    (tmp_path / "large").write_bytes(bytes(LIMITS.max_bytes + 1))
    (tmp_path / "fits").write_bytes(bytes(LIMITS.max_bytes))
    os.mkfifo(tmp_path / "pipe")
    assert reason_of(sources, str(tmp_path / "none")) == "not_found"
    assert reason_of(sources, str(tmp_path)) == "not_an_image"
    assert reason_of(sources, str(tmp_path / "large")) == "too_large_bytes"
    assert reason_of(sources, str(tmp_path / "pipe")) == "unsupported"
    assert reason_of(sources, "/dev/zero") == "unsupported"
    assert reason_of(sources, str(tmp_path / ("x" * 300))) == "bad_uri"
    assert reason_of(sources, f"{tmp_path}{'/x' * 3000}") == "bad_uri"
    assert len(sources.fetch(str(tmp_path / "fits")).data) == LIMITS.max_bytes


@pytest.mark.skipif(os.getuid() == 0, reason="root may read all files")
def test_local__unreadable_file__is_forbidden(sources, tmp_path):
    (tmp_path / "secret").touch(mode=0)
    assert reason_of(sources, str(tmp_path / "secret")) == "forbidden"


def test_http__file_and_redirect__give_bytes_and_etag(sources, web):
    web.files["/a.jpg"] = b"image"
    assert sources.fetch(web.uri("/a.jpg")) == (b"image", '"v1"')
    assert sources.fetch(web.uri("/redirect/a.jpg")).data == b"image"


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({"ETag": '"v1"'}, '"v1"'),
        ({"ETag": 'W/"v1"'}, 'W/"v1"'),
        ({"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}, "Thu, 01 Jan 2026 00:00:00 GMT"),
        ({"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "ETag": '"v1"'}, '"v1"'),
    ],
)
def test_http__known_version__is_none_until_there_is_another(sources, web, headers, version, conditional):
    web.files["/a.jpg"], web.versions["/a.jpg"], web.conditional = b"image", headers, conditional
    uri = web.uri("/a.jpg")
    assert sources.fetch(uri) == (b"image", version)
    assert sources.fetch(uri, version) is None
    assert web.statuses == [200, 304 if conditional else 200]
    assert web.last_headers["Accept-Encoding"] == "identity"
    web.files["/a.jpg"], web.versions["/a.jpg"] = b"other", {"ETag": '"v2"'}
    assert sources.fetch(uri, version) == (b"other", '"v2"')


def test_http__known_version_of_what_is_gone__has_its_reason(sources, web):
    assert reason_of(sources, web.uri("/none"), '"v1"') == "not_found"
    assert reason_of(sources, web.uri("/status/412"), '"v1"') == "http_4xx"


def test_http__no_version__is_fetched_whatever_is_known(sources, web):
    web.files["/a.jpg"], web.versions["/a.jpg"] = b"image", {}
    assert sources.fetch(web.uri("/a.jpg"), '"v1"') == (b"image", None)


@pytest.mark.parametrize(("more", "grown"), [(5, True), (LIMITS.max_bytes, False)])
def test_local__file_that_grows_while_it_is_read__is_read_to_its_end_or_too_large(
    sources, tmp_path, monkeypatch, more, grown
):
    path, fstat = tmp_path / "a.jpg", os.fstat
    path.write_bytes(b"image")

    def grow(fd):
        status = fstat(fd)
        with path.open("ab") as f:
            f.write(b"x" * more)
        return status

    monkeypatch.setattr("labelbeam.transforms.sources.local.os.fstat", grow)
    if grown:
        assert sources.fetch(str(path)).data == b"imagexxxxx"
    else:
        assert reason_of(sources, str(path)) == "too_large_bytes"


@pytest.mark.parametrize("more", [0, 1])
def test_http__body_at_the_largest_size__is_fetched_with_and_without_a_declared_length(sources, web, more):
    size = LIMITS.max_bytes + more
    web.files["/declared"] = bytes(size)
    for path in ("/declared", f"/bomb/{size}"):
        if more:
            assert reason_of(sources, web.uri(path)) == "too_large_bytes"
        else:
            assert len(sources.fetch(web.uri(path)).data) == size


def test_http__damaged_encoding_of_the_body__is_a_decode_error(sources, web):
    web.files["/a.jpg"], web.versions["/a.jpg"] = b"no gzip", {"Content-Encoding": "gzip"}
    web.conditional = False
    assert reason_of(sources, web.uri("/a.jpg")) == "decode_error"


def test_http__long_content_length__is_refused_before_the_body(sources, web):
    web.files["/large"] = bytes(LIMITS.max_bytes + 1)
    with pytest.raises(ImageError, match=r"0\.1 MB is more than max_image_mb=0\.1 allows"):
        sources.fetch(web.uri("/large"))


def test_http__nobody_listens__is_unreachable(sources):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        assert reason_of(sources, f"http://127.0.0.1:{s.getsockname()[1]}/a") == "unreachable"


def test_http__many_threads__share_a_pool(sources, web, caplog):
    web.files.update({f"/{n}": bytes([n]) * 1000 for n in range(100)})
    with ThreadPoolExecutor(LIMITS.connections) as pool:
        results = list(pool.map(lambda n: sources.fetch(web.uri(f"/{n}")).data, range(100)))
    assert results == [bytes([n]) * 1000 for n in range(100)]
    assert "pool is full" not in caplog.text


@pytest.mark.parametrize("name", ["a.jpg", "a\tb.jpg", "a#b?c%20.jpg", "deep/ä b.jpg"])
def test_gcs__any_name_and_case_of_the_scheme__is_read(sources, gcs, name):
    gcs.put(f"gs://photos/{name}", b"image")
    assert sources.fetch(f"gs://photos/{name}").data == sources.fetch(f"GS://photos/{name}").data == b"image"


@pytest.mark.parametrize("conditional", [True, False])
def test_gcs__known_generation__is_none_until_there_is_another(web, gcs, monkeypatch, conditional):
    # The emulator sends no generation with an object's bytes; GCS does.
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.uri(""))
    sources, path = Sources(LIMITS), "/download/storage/v1/b/photos/o/a.jpg"
    web.files[path], web.versions[path], web.conditional = b"image", {"X-Goog-Generation": "7"}, conditional
    assert sources.fetch("gs://photos/a.jpg") == (b"image", "7")
    assert sources.fetch("gs://photos/a.jpg", "7") is None
    assert web.statuses == [200, 304 if conditional else 200]
    web.files[path], web.versions[path] = b"other", {"X-Goog-Generation": "8"}
    assert sources.fetch("gs://photos/a.jpg", "7") == (b"other", "8")


def test_gcs__missing_or_large__has_its_reason(sources, gcs):
    gcs.put("gs://photos/large", bytes(LIMITS.max_bytes + 1))
    gcs.put("gs://photos/empty", b"")
    assert reason_of(sources, "gs://photos/none") == "not_found"
    assert reason_of(sources, "gs://no-such-bucket/none") == "not_found"
    assert reason_of(sources, "gs://photos/large") == "too_large_bytes"
    assert sources.fetch("gs://photos/empty").data == b""


@pytest.mark.parametrize(
    ("path", "reason"),
    [("403", "forbidden"), ("401", "forbidden"), ("429", "rate_limited"), ("503", "http_5xx")],
)
def test_gcs__server_refuses__has_its_reason_after_one_request(web, gcs, monkeypatch, path, reason):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.uri(f"/status/{path}"))
    assert reason_of(Sources(LIMITS), "gs://photos/a.jpg") == reason
    assert web.requests.total() == 1


def test_gcs__nobody_listens__is_unreachable(gcs, monkeypatch):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{s.getsockname()[1]}")
        assert reason_of(Sources(LIMITS), "gs://photos/a.jpg") == "unreachable"


@pytest.mark.parametrize("value", ["localhost:9000", "localhost", "ftp://h", "http://", "http://a b"])
def test_gcs__environment_names_no_address__is_told_by_name_value_and_remedy(monkeypatch, value):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", value)
    for attempt in (lambda: Sources(LIMITS).fetch("gs://photos/a.jpg"), check_network):
        with pytest.raises((ImageError, OSError)) as e:
            attempt()
        assert str(e.value).startswith(
            f"STORAGE_EMULATOR_HOST={value!r} should be an address such as http://"
        )


def test_gcs__no_credentials__reads_anonymously(gcs, monkeypatch):
    gcs.put("gs://public/a.jpg", b"image")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    assert Sources(LIMITS).fetch("gs://public/a.jpg").data == b"image"


def test_gcs__many_threads__share_one_client(gcs, caplog):
    sources = Sources(LIMITS)
    for n in range(40):
        gcs.put(f"gs://photos/{n}", bytes([n]))
    with ThreadPoolExecutor(LIMITS.connections) as pool:
        data = list(pool.map(lambda n: sources.fetch(f"gs://photos/{n}").data, range(40)))
    assert data == [bytes([n]) for n in range(40)]
    assert "pool is full" not in caplog.text


def test_fetch_image__known_by_its_digest__is_compared_here_and_not_by_the_source(sources, gcs):
    gcs.put("gs://photos/a.jpg", b"image")
    same, other = (ImageRef("1", "gs://photos/a.jpg", (), f"sha256:{d}") for d in (IMAGE_SHA256, "0" * 64))
    assert fetch_image(same, sources) == Unchanged(same)
    image = fetch_image(other, sources)
    assert isinstance(image, EncodedImage) and (image.data, image.sha256) == (b"image", IMAGE_SHA256)


@pytest.mark.parametrize("known", ['"v1"', "Thu, 01 Jan 2026 00:00:00 GMT", "1767225600000000000-5"])
def test_gcs__version_of_another_source__is_fetched(sources, gcs, known):
    gcs.put("gs://photos/a.jpg", b"image")
    assert sources.fetch("gs://photos/a.jpg", known).data == b"image"


def test_http__not_modified__keeps_its_connection(sources, web):
    web.files["/a.jpg"] = b"image"
    for _ in range(5):
        assert sources.fetch(web.uri("/a.jpg"), '"v1"') is None
    assert web.connections == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes__each_row__is_fetched_end_to_end(sources, web, gcs, tmp_path, scheme):
    (tmp_path / "a.jpg").write_bytes(b"image")
    gcs.put("gs://photos/a.jpg", b"image")
    web.files["/a.jpg"] = b"image"
    folders = {"": str(tmp_path), "file": tmp_path.as_uri(), "gs": "gs://photos", "http": web.uri("")}
    if scheme == "https":  # by the class of http, and without a certificate here
        assert SCHEMES["https"] == SCHEMES["http"]
        return
    assert folders.keys() == SCHEMES.keys() - {"https"}
    data, version = sources.fetch(f"{folders[scheme]}/a.jpg")
    assert data == b"image"
    if version:  # the emulator of buckets has none
        assert sources.fetch(f"{folders[scheme]}/a.jpg", version) is None
    assert reason_of(sources, f"{folders[scheme]}/none.jpg") == "not_found"
