"""Faults of servers on loopback, byte by byte, and what becomes of them."""

import base64
import contextlib
import datetime
import functools
import gzip
import ipaddress
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import google.auth.credentials
import google.auth.exceptions
import google_crc32c
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.sources import Limits, Sources
from tests.engines.http_server import LOOPBACK
from tests.sources.fault_server import FaultServer

LIMITS = Limits(total_timeout_sec=20, max_bytes=100_000, allow_hosts=LOOPBACK)
HURRIED = Limits(total_timeout_sec=0.5, max_bytes=100_000, allow_hosts=LOOPBACK)
OK = b"HTTP/1.1 200 OK\r\n"
BODY = b"Content-Length: 5\r\n\r\nimage"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
OBJECT = "/download/storage/v1/b/photos/o/a.jpg"


@contextlib.contextmanager
def serving(response: bytes, end: str = "close", pause_sec: float = 0.0):
    """Serve one response to each connection; it comes byte by byte if there is a pause."""
    stop = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            step = 1 if pause_sec else len(response) or 1
            for start in range(0, len(response), step):
                connection.sendall(response[start : start + step])
                stop.wait(pause_sec)
            if end == "reset":
                time.sleep(0.05)  # so that the client has the bytes before
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif end == "hold":
                stop.wait(60)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/a.jpg"
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)


def outcome(uri: str, limits: Limits = LIMITS, known_version: str | None = None) -> object:
    """Return the reason of the failure, or the bytes."""
    try:
        fetched = Sources(limits).fetch(uri, known_version)
        return fetched and fetched.data
    except ImageError as e:
        assert str(e) and "None" not in str(e)
        return e.reason.value


@pytest.mark.parametrize(
    ("response", "end", "expected"),
    [
        (b"", "close", "unreachable"),
        (b"", "reset", "unreachable"),
        (b"\x15\x03\x01 not HTTP", "close", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "close", "unreachable"),
        (OK + b"Content-Length: 9\r\n\r\nimage", "close", "truncated"),
        (OK + b"Content-Length: 9\r\n\r\nimage", "reset", "truncated"),
        (CHUNKED + b"5\r\nimage\r\n", "close", "truncated"),
        (CHUNKED + b"5\r\nimage\r\n", "reset", "truncated"),
        (CHUNKED + b"9\r\nimage", "close", "truncated"),
        (CHUNKED + b"no length\r\n", "hold", "truncated"),
        (CHUNKED + b"5\r\nimage\r\n0\r\n\r\n", "hold", b"image"),
        (CHUNKED + b"5\r\nimage\r\n0\r\nETag: trailer\r\n\r\n", "hold", b"image"),
        (CHUNKED + (b"7530\r\n" + bytes(0x7530) + b"\r\n") * 4, "hold", "too_large_bytes"),
        (OK + b"Content-Length: 100001\r\n\r\n", "hold", "too_large_bytes"),
        (OK + b"Content-Length: 100001\r\n\r\nx", "hold", "too_large_bytes"),
        (OK + b"Content-Length: 5\r\n\r\nimage and more", "hold", b"image"),
        (OK + b"Content-Length: -5\r\n\r\nimage", "close", "bad_response"),
        (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nimage", "hold", "too_large_bytes"),
        (OK + b"HTTP/2: odd\r\n" + BODY, "hold", b"image"),
        (b"HTTP/1.0 200 OK\r\n\r\nimage", "close", b"image"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + BODY, "hold", b"image"),
        (OK + b"X: y\r\n" * 100_000 + BODY, "hold", "bad_response"),
        (OK + b"X: " + b"y" * 500_000 + b"\r\n" + BODY, "hold", "bad_response"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 9\r\n\r\nx", "close", "http_5xx"),
        (b"HTTP/1.1 500 Oops\r\n\r\n" + bytes(200_000), "hold", "http_5xx"),
        (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n", "close", "forbidden"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "close", "bad_uri"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/x\r\n\r\n", "close", "bad_uri"),
        (b"HTTP/1.1 302 Found\r\nLocation: gopher://127.0.0.1/x\r\n\r\n", "close", "bad_uri"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[::1/x\r\n\r\n", "close", "bad_uri"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "close", "unreachable"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /a.jpg\r\n\r\n", "close", "bad_response"),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "hold", "bad_response"),
    ],
)
def test_http__response_byte_by_byte__has_its_outcome(response, end, expected):
    with serving(response, end) as uri:
        assert outcome(uri) == expected


@pytest.mark.parametrize("response", [OK + BODY * 99, b"HTTP/1.1 302 Found\r\nX: " + b"y" * 99, b""])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_http__server_that_drips_or_is_silent__is_a_timeout(response, scheme):
    with serving(response, "hold", pause_sec=0.05) as uri:
        start = time.monotonic()
        # Over TLS, the first byte of a drip is no handshake at all.
        allowed = {"timeout"} if scheme == "http" or not response else {"timeout", "tls_error"}
        assert outcome(uri.replace("http", scheme), HURRIED) in allowed
        assert time.monotonic() - start < 10


def encoded(encoding: str, body: bytes) -> bytes:
    return OK + f"Content-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


# Without a time, because workers of pytest-xdist must collect the same parameters.
zipped = functools.partial(gzip.compress, mtime=0)
RAW_DEFLATE = zlib.compress(b"image")[2:-4]


@pytest.mark.parametrize(
    ("encoding", "body", "expected"),
    [
        ("gzip", zipped(b"image"), b"image"),
        ("GZIP", zipped(b"image"), b"image"),
        ("x-gzip", zipped(b"im") + zipped(b"age"), b"image"),
        ("gzip", zipped(b"image") + b"rest", b"image"),
        ("gzip, gzip", zipped(zipped(b"image")), b"image"),
        ("deflate", zlib.compress(b"image"), b"image"),
        ("deflate", RAW_DEFLATE, b"image"),
        ("aws-chunked", b"image", b"image"),
        ("identity", b"image", b"image"),
        ("gzip", b"", b""),
        ("gzip", b"no gzip", "decode_error"),
        ("deflate", b"no deflate", "decode_error"),
        ("gzip", zipped(b"image")[:-9], "truncated"),
        ("gzip", zipped(bytes(100_000)), bytes(100_000)),
        ("gzip", zipped(bytes(100_001)), "too_large_bytes"),
        ("gzip", zipped(bytes(60_000)) * 2, "too_large_bytes"),
        ("gzip, gzip", zipped(zipped(bytes(10**7))), "too_large_bytes"),
    ],
)
def test_http__content_encoding__is_undone(encoding, body, expected):
    with serving(encoded(encoding, body)) as uri:
        assert outcome(uri) == expected


def test_http__redirect__has_the_version_of_its_last_response(web):
    web.files["/a.jpg"], web.versions["/a.jpg"] = b"image", {}
    location = web.uri("/a.jpg").encode()
    with serving(b'HTTP/1.1 302 Found\r\nETag: "first"\r\nLocation: ' + location + b"\r\n\r\n") as uri:
        assert Sources(LIMITS).fetch(uri) == (b"image", None)
        assert Sources(LIMITS).fetch(uri, '"first"') == (b"image", None)


def test_http__known_version_that_comes_without_a_condition__ends_before_the_body():
    response = OK + b'ETag: "v1"\r\nContent-Length: 90000\r\n\r\nx'
    with serving(response, "hold") as uri:
        assert outcome(uri, known_version='"v1"') is None


def test_proxies__of_the_environment__are_used_by_gs_alone(web, monkeypatch):
    web.files.update({"/a.jpg": b"image", OBJECT: b"object"})
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert outcome(web.uri("/a.jpg")) == b"image"
    monkeypatch.setenv("http_proxy", web.uri(""))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://storage.invalid")
    assert outcome("gs://photos/a.jpg") == b"object"


def test_many_sources__each_thread__keeps_its_connection(web):
    web.files.update({f"/{n}": bytes([n]) * 1000 for n in range(200)})
    sources = Sources(LIMITS)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: sources.fetch(web.uri(f"/{n}")).data, range(200)))
    assert results == [bytes([n]) * 1000 for n in range(200)]
    assert web.connections <= 8
    assert outcome(web.uri("/none")) == "not_found"


def test_refusal__with_a_short_body__keeps_the_connection(web):
    sources = Sources(LIMITS)
    for _ in range(3):
        with pytest.raises(ImageError):
            sources.fetch(web.uri("/none"))
    assert web.connections == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Return a certificate of 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + built.public_bytes(pem)
    )
    return path


@pytest.fixture
def tls(certificate):
    """Return the address of an image on a server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with FaultServer(context) as server:
        yield server.uri("image")


def test_https__many_images__share_a_connection(certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with FaultServer(context) as server:
        sources = Sources(LIMITS)
        assert {sources.fetch(server.uri(f"image/{n}")).data for n in range(20)} == {b"image"}
        assert server.connections == 1


def test_https__redirect_to_http__is_refused(tls, certificate, monkeypatch, web):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    target = quote(web.uri("/a.jpg"), safe="")
    assert outcome(tls.replace("/image", f"/redirect/{target}")) == "bad_uri" and not web.requests
    assert outcome(tls.replace("/image", "/redirect/image")) == b"image"
    assert outcome(tls.replace("/image", "/excess")) == b"image"


def test_https__certificate__must_be_trusted(tls, certificate, monkeypatch):
    for name in ("SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ImageError, match="certificate") as e:
        Sources(LIMITS).fetch(tls)
    assert e.value.reason.value == "tls_error"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert outcome(tls) == b"image"
    # The certificate must name the host, too.
    assert outcome(tls.replace("127.0.0.1", "localhost")) == "tls_error"


def test_gcs__bundle_of_the_environment__is_trusted(tls, certificate, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", tls.removesuffix("/image"))
    assert outcome("gs://photos/a.jpg") == "tls_error"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert outcome("gs://photos/a.jpg") == "not_found"


def test_https__no_certificates_of_the_system__are_those_of_certifi(tls, certificate, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    nothing = ssl.get_default_verify_paths()._replace(cafile=None, capath=str(tmp_path / "empty"))
    monkeypatch.setattr("labelbeam.transforms.sources.curl.ssl.get_default_verify_paths", lambda: nothing)
    assert outcome(tls) == "tls_error"
    monkeypatch.setattr("labelbeam.transforms.sources.curl.certifi.where", lambda: str(certificate))
    assert outcome(tls) == b"image"


def test_https__folder_of_certificates_alone__is_enough(tls, certificate, monkeypatch, tmp_path):
    folder = tmp_path / "certificates"
    folder.mkdir()
    args = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(certificate)]
    try:
        digest = subprocess.run(args, capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError:
        pytest.skip("no openssl")
    (folder / f"{digest}.0").write_bytes(certificate.read_bytes())
    paths = ssl.get_default_verify_paths()._replace(cafile=None, capath=str(folder))
    monkeypatch.setattr("labelbeam.transforms.sources.curl.ssl.get_default_verify_paths", lambda: paths)
    assert outcome(tls) == b"image"


def test_http__port_of_tls_and_the_reverse__are_errors_that_stay(tls, web):
    assert outcome(tls.replace("https", "http")) in ("unreachable", "bad_response")  # by the server's TLS
    assert outcome(web.uri("/a.jpg").replace("http", "https")) == "tls_error"


@pytest.mark.parametrize("end", ["close", "reset"])
def test_https__connection_that_breaks_in_the_handshake__is_unreachable(end):
    with serving(b"", end) as uri:
        assert outcome(uri.replace("http", "https")) == "unreachable"


class Token(google.auth.credentials.Credentials):
    """Credentials whose tokens are 1, 2, 3 and so on."""

    def __init__(self):
        super().__init__()
        self.refreshed = 0
        self.fault: Exception | None = None

    def refresh(self, request):
        time.sleep(0.05)
        if self.fault:
            raise self.fault
        self.refreshed += 1
        self.token = str(self.refreshed)


@pytest.fixture
def token(monkeypatch, web):
    credentials = Token()
    monkeypatch.setattr("google.auth.default", lambda **_: (credentials, None))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("API_ENDPOINT_OVERRIDE", web.uri(""))
    web.files[OBJECT] = b"image"
    return credentials


def test_gcs__credentials__are_refreshed_once_by_many_threads(web, token):
    sources = Sources(LIMITS)
    with ThreadPoolExecutor(8) as pool:
        assert {f.data for f in pool.map(sources.fetch, ["gs://photos/a.jpg"] * 40)} == {b"image"}
    assert token.refreshed == 1
    assert web.last_headers["authorization"] == "Bearer 1"


def test_gcs__token_that_expires_soon__is_refreshed_before(web, token):
    sources = Sources(LIMITS)
    sources.fetch("gs://photos/a.jpg")
    token.expiry = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(minutes=1)
    sources.fetch("gs://photos/a.jpg")
    assert web.last_headers["authorization"] == "Bearer 2"


def test_gcs__token_that_was_revoked__is_refreshed_once(web, token):
    sources = Sources(LIMITS)
    sources.fetch("gs://photos/a.jpg")
    web.authorization = "Bearer 2"
    assert sources.fetch("gs://photos/a.jpg").data == b"image"
    web.authorization, web.statuses = "Bearer none", []
    with pytest.raises(ImageError, match="storage.objects.get") as e:
        sources.fetch("gs://photos/a.jpg")
    assert e.value.reason.value == "forbidden"
    assert (token.refreshed, web.statuses) == (3, [401, 401])


def test_gcs__server_that_repeats_the_token__does_not_bring_it_into_a_message(token, monkeypatch):
    token.token = "s3cret"
    with serving(b"HTTP/1.1 403 No\r\n\r\nno right for s3cret") as uri:
        monkeypatch.setenv("API_ENDPOINT_OVERRIDE", uri.removesuffix("/a.jpg"))
        with pytest.raises(ImageError, match=r"status 403: no right for …\. The worker"):
            Sources(LIMITS).fetch("gs://photos/a.jpg")


def test_gcs__redirect_to_another_host__takes_no_token_along(web, token, monkeypatch):
    location = web.uri("/a.jpg").encode()
    web.files["/a.jpg"] = b"image"
    with serving(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\n\r\n") as uri:
        monkeypatch.setenv("API_ENDPOINT_OVERRIDE", uri.replace("127.0.0.1", "localhost"))
        assert outcome("gs://photos/a.jpg") == b"image"
    assert "authorization" not in {name.lower() for name in web.last_headers}


@pytest.mark.parametrize(
    "fault",
    [
        google.auth.exceptions.TransportError("no route"),
        google.auth.exceptions.RefreshError("server of tokens is busy", retryable=True),
    ],
)
def test_gcs__server_of_tokens_that_does_not_respond__is_unreachable(web, token, fault):
    token.fault = fault
    assert outcome("gs://photos/a.jpg") == "unreachable" and not web.requests


def test_gcs__no_token__is_forbidden(web, token):
    token.fault = google.auth.exceptions.RefreshError("expired login")
    with pytest.raises(ImageError, match=r"expired login\. Check the credentials\.") as e:
        Sources(LIMITS).fetch("gs://photos/a.jpg")
    assert e.value.reason.value == "forbidden" and not web.requests


def crc32c(data: bytes) -> str:
    value = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    return f"crc32c={value},md5=Xr4ilOzQ4PCOq3aQ0qbuaQ=="


ZIPPED = zipped(b"image")


@pytest.mark.parametrize(
    ("stored", "headers", "expected"),
    [
        (b"image", {"X-Goog-Hash": crc32c(b"image")}, b"image"),
        (b"image", {"X-Goog-Hash": crc32c(b"other")}, "truncated"),
        (b"image", {"X-Goog-Hash": "md5=Xr4ilOzQ4PCOq3aQ0qbuaQ=="}, b"image"),
        (ZIPPED, {"X-Goog-Hash": crc32c(ZIPPED), "Content-Encoding": "gzip", "stored": "gzip"}, b"image"),
        (
            ZIPPED,
            {"X-Goog-Hash": crc32c(b"other"), "Content-Encoding": "gzip", "stored": "gzip"},
            "truncated",
        ),
        (b"image", {"X-Goog-Hash": crc32c(ZIPPED), "stored": "gzip"}, b"image"),
    ],
)
def test_gcs__checksum__is_compared_with_what_was_stored(web, monkeypatch, stored, headers, expected):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.uri(""))
    names = {"stored": "X-Goog-Stored-Content-Encoding"}
    web.files[OBJECT] = stored
    web.versions[OBJECT] = {names.get(k, k): v for k, v in headers.items()}
    assert outcome("gs://photos/a.jpg") == expected


def test_gcs__refusal__has_the_servers_words():
    body = b'{"error": {"code": 403, "message": "a has no access."}}'
    head = f"HTTP/1.1 403 No\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with serving(head + body) as uri, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", uri.removesuffix("/a.jpg"))
        with pytest.raises(ImageError, match=r"^gs://photos/a.jpg: the server .* 403: a has no access\. The"):
            Sources(LIMITS).fetch("gs://photos/a.jpg")


def test_sources__in_a_fresh_process__import_no_large_library(web, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"image")
    web.files.update({"/a.jpg": b"image", OBJECT: b"image"})
    script = f"""
import os, sys
os.environ["STORAGE_EMULATOR_HOST"] = {web.uri("")!r}
from labelbeam.transforms.sources import Limits, Sources
sources = Sources(Limits(allow_hosts=("127.0.0.1",)))
for uri in ({str(tmp_path / "a.jpg")!r}, {web.uri("/a.jpg")!r}, "gs://photos/a.jpg"):
    assert sources.fetch(uri).data == b"image"
large = "apache_beam tensorflow google.cloud.storage google.api_core requests urllib3 numpy".split()
print(sorted(set(large) & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("first", ["tensorflow", "labelbeam.transforms.sources.curl"])
def test_sources__beside_tensorflow__use_their_own_libcurl(tls, certificate, first):
    # TensorFlow exports another libcurl and BoringSSL to the whole process.
    script = f"""
import os
os.environ["SSL_CERT_FILE"] = {str(certificate)!r}
import {first}
import tensorflow
from labelbeam.transforms.sources import Limits, Sources
from labelbeam.transforms.sources.libcurl import pycurl
assert Sources(Limits(allow_hosts=("127.0.0.1",))).fetch({tls!r}).data == b"image"
print(" OpenSSL/" in pycurl.version)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout == "True\n", run.stderr
