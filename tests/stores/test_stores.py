import dataclasses
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from transforms.errors import ImageError
from transforms.stores import Limits, Stores

LIMITS = Limits(connect_timeout_sec=0.5, total_timeout_sec=0.5, max_bytes=100_000, connections=8)


@pytest.fixture
def stores():
    return Stores(LIMITS)


def reason_of(stores, uri) -> str:
    with pytest.raises(ImageError) as e:
        stores.fetch(uri)
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
    ],
)
def test_fetch__no_such_address__is_a_bad_uri(stores, gcs, uri):
    assert reason_of(stores, uri) == "bad_uri"


def test_local__path_and_file_uri__give_the_same_bytes(stores, tmp_path):
    path = tmp_path / "ä b%20#c.jpg"
    path.write_bytes(b"image")
    data, version = stores.fetch(str(path))
    assert (data, version) == (b"image", f"{path.stat().st_mtime_ns}-5")
    assert stores.fetch(path.as_uri()) == (data, version)


def test_local__what_is_no_readable_file__has_its_reason(stores, tmp_path):
    (tmp_path / "large").write_bytes(bytes(LIMITS.max_bytes + 1))
    (tmp_path / "fits").write_bytes(bytes(LIMITS.max_bytes))
    os.mkfifo(tmp_path / "pipe")
    assert reason_of(stores, str(tmp_path / "none")) == "not_found"
    assert reason_of(stores, str(tmp_path)) == "not_an_image"
    assert reason_of(stores, str(tmp_path / "large")) == "too_large_bytes"
    assert reason_of(stores, str(tmp_path / "pipe")) == "unsupported"
    assert reason_of(stores, "/dev/zero") == "unsupported"
    assert len(stores.fetch(str(tmp_path / "fits")).data) == LIMITS.max_bytes


@pytest.mark.skipif(os.getuid() == 0, reason="root may read all files")
def test_local__unreadable_file__is_forbidden(stores, tmp_path):
    (tmp_path / "secret").touch(mode=0)
    assert reason_of(stores, str(tmp_path / "secret")) == "forbidden"


def test_http__file_and_redirect__give_bytes_and_etag(stores, web):
    web.files["/a.jpg"] = b"image"
    assert stores.fetch(web.uri("/a.jpg")) == (b"image", '"v1"')
    assert stores.fetch(web.uri("/redirect/a.jpg")).data == b"image"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/none", "not_found"),
        ("/status/401", "forbidden"),
        ("/status/403", "forbidden"),
        ("/status/410", "not_found"),
        ("/status/429", "http_4xx"),
        ("/status/500", "http_5xx"),
        ("/status/503", "http_5xx"),
        ("/status/204", "http_4xx"),
        ("/loop", "unreachable"),
        ("/endless", "too_large_bytes"),
        ("/bomb/5000000", "too_large_bytes"),
        ("/drip", "timeout"),
        ("/silent", "timeout"),
        ("/short", "truncated"),
        ("/reset", "unreachable"),
        ("/garbage", "unreachable"),
    ],
)
def test_http__fault__has_its_reason_after_one_request(stores, web, path, reason):
    assert reason_of(stores, web.uri(path)) == reason
    if path != "/loop":
        assert web.requests[path] == 1


def test_http__long_content_length__is_refused_before_the_body(stores, web):
    web.files["/large"] = bytes(LIMITS.max_bytes + 1)
    with pytest.raises(ImageError, match=r"0\.1 MB is more than max_image_mb=0\.1 allows"):
        stores.fetch(web.uri("/large"))


def test_http__nobody_listens__is_unreachable(stores):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        assert reason_of(stores, f"http://127.0.0.1:{s.getsockname()[1]}/a") == "unreachable"


def test_http__unknown_host__is_unreachable(stores):
    assert reason_of(stores, "http://no-such-host.invalid/a.jpg") in ("unreachable", "timeout")


def test_http__many_threads__share_a_pool(stores, web, caplog):
    web.files.update({f"/{n}": bytes([n]) * 1000 for n in range(100)})
    with ThreadPoolExecutor(LIMITS.connections) as pool:
        results = list(pool.map(lambda n: stores.fetch(web.uri(f"/{n}")).data, range(100)))
    assert results == [bytes([n]) * 1000 for n in range(100)]
    assert "pool is full" not in caplog.text


def test_gcs__object__gives_bytes_and_version(stores, gcs):
    for name in ("a.jpg", "deep/ä b#c?d%20.jpg"):
        gcs.put(f"gs://photos/{name}", b"image")
        assert stores.fetch(f"gs://photos/{name}").data == b"image"


def test_gcs__missing_or_large__has_its_reason(stores, gcs):
    gcs.put("gs://photos/large", bytes(LIMITS.max_bytes + 1))
    gcs.put("gs://photos/empty", b"")
    assert reason_of(stores, "gs://photos/none") == "not_found"
    assert reason_of(stores, "gs://no-such-bucket/none") == "not_found"
    assert reason_of(stores, "gs://photos/large") == "too_large_bytes"
    assert stores.fetch("gs://photos/empty").data == b""


@pytest.mark.parametrize(
    ("path", "reason"),
    [("403", "forbidden"), ("401", "forbidden"), ("429", "http_4xx"), ("503", "http_5xx")],
)
def test_gcs__server_refuses__has_its_reason_after_one_request(web, gcs, monkeypatch, path, reason):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.uri(f"/status/{path}"))
    assert reason_of(Stores(LIMITS), "gs://photos/a.jpg") == reason
    assert web.requests.total() == 1


def test_gcs__nobody_listens__is_unreachable(gcs, monkeypatch):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{s.getsockname()[1]}")
        assert reason_of(Stores(LIMITS), "gs://photos/a.jpg") == "unreachable"


def test_gcs__no_credentials__reads_anonymously(gcs, monkeypatch):
    gcs.put("gs://public/a.jpg", b"image")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    assert Stores(LIMITS).fetch("gs://public/a.jpg").data == b"image"


def test_gcs__many_threads__share_one_client(gcs, caplog):
    stores = Stores(dataclasses.replace(LIMITS, connect_timeout_sec=30, total_timeout_sec=30))
    for n in range(40):
        gcs.put(f"gs://photos/{n}", bytes([n]))
    with ThreadPoolExecutor(LIMITS.connections) as pool:
        data = list(pool.map(lambda n: stores.fetch(f"gs://photos/{n}").data, range(40)))
    assert data == [bytes([n]) for n in range(40)]
    assert "pool is full" not in caplog.text
