"""Every fault of the fault server, and random responses: each ends as bytes or as the right reason."""

import random
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import pytest

from labelbeam.transforms.errors import ImageError, Reason, may_heal
from labelbeam.transforms.sources import HttpSettings, Limits, Sources
from labelbeam.transforms.sources.libcurl import pycurl
from labelbeam.transforms.sources.urls import is_unknown, may_share_login, redirected
from tests.engines.http_server import LOOPBACK
from tests.sources.fault_server import FAULTS, IMAGE, End, FaultServer


def limits_with(**options) -> Limits:
    return Limits(allow_hosts=LOOPBACK, **options)


# Waits are long, because a busy machine must not fail a test; only silent and dripping servers use them up.
LIMITS = limits_with(total_timeout_sec=30, max_bytes=100_000)
HURRIED = limits_with(total_timeout_sec=0.5, max_bytes=100_000)


def fetch(uri: str, limits: Limits = LIMITS) -> bytes:
    return Sources(limits).fetch(uri).data


def failure(uri: str, limits: Limits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as e:
        fetch(uri, limits)
    message = str(e.value)
    assert message and message.isprintable() and "None" not in message
    return e.value


def outcome(uri: str, limits: Limits = LIMITS) -> bytes | str:
    """Return the bytes, or the reason of the failure."""
    try:
        return fetch(uri, limits)
    except ImageError as e:
        assert str(e).isprintable()
        return e.reason.value


def to(address: str) -> str:
    return quote(address, safe="")


STATUSES = {
    **dict.fromkeys((200, 201, 202, 203, 226), IMAGE),
    **dict.fromkeys((300, 304, 305, 306, 399), "bad_response"),
    **dict.fromkeys((301, 302, 303, 307, 308), "bad_response"),  # without an address
    **dict.fromkeys((401, 403), "forbidden"),
    **dict.fromkeys((404, 410), "not_found"),
    **dict.fromkeys((408, 504), "timeout"),
    **dict.fromkeys((400, 402, 405, 406, 409, 411, 412, 413, 414, 416, 418, 425, 451, 499), "http_4xx"),
    429: "rate_limited",
    **dict.fromkeys((500, 502, 503, 507, 520, 521, 522, 523, 524, 529, 530, 599), "http_5xx"),
    **dict.fromkeys((501, 505, 506, 508, 510, 511, 600, 999), "bad_response"),
}


@pytest.mark.parametrize(("status", "expected"), STATUSES.items())
def test_status__each__is_the_image_or_its_reason(faults, status, expected):
    words = "" if isinstance(expected, str) else "image"
    assert outcome(faults.uri(f"status/{status}/{words}")) == expected
    assert faults.requests.total() == 1


@pytest.mark.parametrize("status", [201, 202, 204, 205, 207, 226])
def test_status__success_without_a_body__is_empty(faults, status):
    assert outcome(faults.uri(f"empty/{status}" if status != 204 else "status/204")) == "empty"


@pytest.mark.parametrize("status", [200, 203])
def test_status__image_of_no_bytes__is_left_to_decoding(faults, status):
    assert outcome(faults.uri(f"empty/{status}")) == b""


BOMB = 5_000_000
ELSEWHERE = "http%3A%2F%2F127.0.0.1%3A1%2Fa.jpg"
FAULTY = [
    ("partial/0-4/5", IMAGE),
    ("partial/0-3/5", "truncated"),
    ("partial/1-5/6", "truncated"),
    ("partial/0-4/*", "truncated"),
    ("partial/*/5", "truncated"),
    ("partial/0-9/10", "truncated"),
    ("partial/", "truncated"),
    ("reset", "unreachable"),
    ("reset/body", "truncated"),
    ("closed", "unreachable"),
    ("closed/head", "unreachable"),
    ("unannounced", IMAGE),
    ("once_a_connection", IMAGE),
    ("continue/3", IMAGE),
    ("continue", "bad_response"),
    ("long_head/100000", IMAGE),
    ("long_head/10000000", "bad_response"),
    ("long_header/50000", IMAGE),
    ("long_header/10000000", "bad_response"),
    ("trailers/3", IMAGE),
    ("trailers", "bad_response"),
    ("truncated", "truncated"),
    ("truncated/chunked", "truncated"),
    ("content_length/none", IMAGE),
    ("content_length/3", b"ima"),
    ("content_length/99", "truncated"),
    ("content_length/-1", "bad_response"),
    ("content_length/five", "bad_response"),
    ("content_length/" + "9" * 5000, "too_large_bytes"),
    ("content_length/100001", "too_large_bytes"),
    ("excess", IMAGE),
    ("endless_body", "too_large_bytes"),
    ("endless_body/chunked", "too_large_bytes"),
    ("gzip", IMAGE),
    ("gzip/100000", bytes(100_000)),
    ("gzip/100001", "too_large_bytes"),
    (f"gzip/{BOMB}", "too_large_bytes"),
    ("gzip/cut", "truncated"),
    ("gzip_parts/50", b""),
    ("gzip_parts/2000", "decode_error"),
    ("encodings/1", "decode_error"),
    ("encodings/1000", "decode_error"),
    ("redirect/image", IMAGE),
    ("redirects/5", IMAGE),
    ("redirects/6", "bad_response"),
    ("loop", "bad_response"),
    ("raw_redirect", IMAGE),
    ("endless_redirect/image", IMAGE),
    ("endless_redirect/status%2F404", "not_found"),
    (f"redirect/{ELSEWHERE}", "unreachable"),
    (f"redirect/{to('http://[::bad')}", "bad_uri"),
    (f"redirect/{to('http://[::xyz]/a')}", "bad_uri"),
    (f"redirect/{to('http://host:port/a')}", "bad_uri"),
    (f"redirect/{to('file:///etc/passwd')}", "bad_uri"),
    (f"redirect/{to('FILE:///etc/passwd')}", "bad_uri"),
    (f"redirect/{to('ftp://127.0.0.1/a')}", "bad_uri"),
    (f"redirect/{to('gopher://127.0.0.1/a')}", "bad_uri"),
    (f"redirect/{to('http://' + 'a.' * 20_000)}", "bad_uri"),
    (f"redirect/{to('javascript:alert(1)')}", "bad_uri"),
    (f"redirect/{to('data:image/png;base64,iVBORw0KGgo=')}", "bad_uri"),
    ("http10", IMAGE),
    ("http09", "bad_response"),
    ("garbage", "bad_response"),
]


@pytest.mark.parametrize(("fault", "expected"), FAULTY)
def test_fault__each__has_its_outcome(faults, fault, expected):
    assert outcome(faults.uri(fault)) == expected


@pytest.mark.parametrize("fault", ["silent", "drip_head", "drip_body", "image?slow=60"])
def test_fault__server_that_is_slow__is_a_timeout_after_one_request(faults, fault):
    uri = faults.uri(fault)
    assert outcome(uri, HURRIED) == "timeout"
    assert faults.count(uri) == 1


def test_faults__all__are_in_the_tests():
    named = {fault.partition("/")[0] for fault, _ in FAULTY}
    named |= {"status", "empty", "silent", "drip_head", "drip_body"}
    named |= {"image", "limited", "login", "raw"}  # in the tests of this file
    assert named == FAULTS.keys()


@pytest.mark.parametrize("fault", ["unannounced", "once_a_connection"])
def test_connection__kept_and_closed_without_announcement__costs_no_image(faults, fault):
    # libcurl sends a request again if a connection that was used before ends without a byte.
    sources = Sources(LIMITS)
    for n in range(20):
        assert sources.fetch(faults.uri(f"{fault}/{n}")).data == IMAGE
    assert faults.connections == 20


@pytest.mark.parametrize("when", ["", "soon", "late"])
def test_connection__more_bytes_than_the_length__are_not_the_next_image(faults, when):
    sources = Sources(LIMITS)
    for n in range(5):
        assert sources.fetch(faults.uri(f"excess/{when}", n=n)).data == IMAGE
        time.sleep(0.05)  # so that the late bytes lie in the connection
        assert sources.fetch(faults.uri("status/203/other", n=n)).data == b"other"


def test_trailers__etag__is_no_version(faults):
    assert Sources(LIMITS).fetch(faults.uri("trailers/1")) == (IMAGE, None)


def test_server__first_and_limited__count_and_heal(faults):
    uri = faults.uri("status/429", first=2, retry_after=7)
    reasons = [outcome(uri) for _ in range(4)]
    assert reasons == ["rate_limited", "rate_limited", IMAGE, IMAGE] and faults.count(uri) == 4
    results = [outcome(faults.uri("limited/3", n=n)) for n in range(4)]
    assert results[0] == IMAGE and set(results[1:]) <= {IMAGE, "rate_limited"}
    assert outcome(faults.uri("limited/0/503")) == "http_5xx"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("1.5", 1.5),
        ("", None),
        ("soon", None),
        ("9" * 5000, None),
        ("1e9", None),
        ("inf", None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 +9999999999", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0.0),
    ],
)
def test_retry_after__each_form__is_seconds_or_none(faults, status, value, seconds):
    if seconds is None and status in (429, 503):  # which ask for fewer requests in any case
        seconds = 0.0
    assert failure(faults.uri(f"status/{status}", retry_after=value)).retry_after_sec == seconds


def test_retry_after__date__counts_from_the_servers_own_clock(faults):
    assert 3000 < failure(faults.uri("status/503", retry_in=3600)).retry_after_sec <= 3601
    # A clock that is a day late.
    date, at = (formatdate(time.time() - 86_400 + more, usegmt=True) for more in (0, 60))
    error = failure(faults.uri("status/503", f"Date: {date}", f"Retry-After: {at}"))
    assert error.retry_after_sec == 60


def test_retry_after__old_dates__are_utc_everywhere(faults, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo-9")
    time.tzset()
    try:
        for date in ("Sun Nov  6 08:50:37 1994", "Sunday, 06-Nov-94 08:50:37 GMT"):
            headers = ("Date: Sun, 06 Nov 1994 08:49:37 GMT", f"Retry-After: {date}")
            assert failure(faults.uri("status/503", *headers)).retry_after_sec == 60
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_retry_after__status_that_stays__is_not_taken(faults, status):
    assert failure(faults.uri(f"status/{status}", retry_after=7)).retry_after_sec is None


HEALING = {"rate_limited", "http_5xx", "timeout", "unreachable", "truncated", "host_down"}


def test_may_heal__documentation__has_each_reason_of_fetching():
    text = (Path(__file__).parents[2] / "docs/inputs.md").read_text("utf-8")
    rows = re.findall(
        r"^\| (`.+?) \| .* \| (yes|no)\b.* \|$", text.partition("### Failures that may heal")[2], re.M
    )
    documented = {reason: heals == "yes" for names, heals in rows for reason in re.findall("`(.+?)`", names)}
    assert documented == {reason: may_heal(Reason(reason)) for reason in documented}
    assert documented.keys() >= HEALING
    output = (Path(__file__).parents[2] / "docs/output.md").read_text("utf-8")
    assert all(f"`{reason}`" in output for reason in Reason)


OBJECT = "gs://photos/a.jpg"


def gs(monkeypatch, endpoint: str) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)


@pytest.mark.parametrize(
    ("status", "expected"), [pair for pair in STATUSES.items() if isinstance(pair[1], str)]
)
def test_gcs__status__has_its_reason(faults, monkeypatch, status, expected):
    gs(monkeypatch, faults.uri(f"status/{status}"))
    assert outcome(OBJECT) == expected
    assert faults.requests.total() == 1


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("reset", "truncated"),
        ("closed", "unreachable"),
        ("unannounced", IMAGE),
        ("once_a_connection", IMAGE),
        ("truncated", "truncated"),
        ("partial", "truncated"),
        ("endless_body", "too_large_bytes"),
        ("gzip/", IMAGE),
        ("excess", IMAGE),
        ("loop", "bad_response"),
        ("http10", IMAGE),
        ("http09", "bad_response"),
        ("garbage", "bad_response"),
    ],
)
def test_gcs__fault__has_its_outcome(faults, monkeypatch, fault, expected):
    gs(monkeypatch, faults.uri(fault))
    assert outcome(OBJECT) == expected


def test_gcs__refusal__has_the_time_of_the_next_request(faults, monkeypatch):
    faults.raw["a/download/storage/v1/b/photos/o/a.jpg"] = (
        b'HTTP/1.1 429 No\r\nRetry-After: 7\r\n\r\n{"error": {"message": "Too many.\\nOr so."}}',
        End.CLOSE,
    )
    gs(monkeypatch, faults.uri("raw/a"))
    error = failure(OBJECT)
    assert (error.reason, error.retry_after_sec) == (Reason.RATE_LIMITED, 7.0)
    assert str(error) == f"{OBJECT}: the server returned status 429: Too many"


@pytest.mark.parametrize("known", ["9" * 5000, "٣", "-1"])
def test_gcs__version_that_is_no_generation__is_no_condition(faults, monkeypatch, known):
    gs(monkeypatch, faults.uri("image"))
    assert Sources(LIMITS).fetch(OBJECT, known).data == IMAGE
    assert not any("ifGeneration" in path for path in faults.requests)


@pytest.mark.parametrize("reason", Reason)
def test_may_heal__each_reason__is_decided(reason):
    assert may_heal(reason) is (reason.value in HEALING)


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ((), b"Please wait.\nOr not.", "the server returned status 429: Please wait"),
        ((), b"\r\n\r\n  Please   wait\r\n", "the server returned status 429: Please wait"),
        ((), b"a\x1b[31mred\x07\x9b", "the server returned status 429"),  # not UTF-8
        ((), "a\x1b[31mred\x07\u202e\u200b".encode(), "the server returned status 429: a [31mred"),
        ((), b"", "the server returned status 429"),
        ((), b"\x89PNG\r\n\x1a\n\0\0", "the server returned status 429"),
        (("Content-Type: image/gif",), b"GIF89a", "the server returned status 429"),
        ((), b"x" * 5000, f"the server returned status 429: {'x' * 200}…"),
        ((), b'{"error": {"message": "No more."}}', "the server returned status 429: No more"),
        ((), b'{"error": "no more"}', "the server returned status 429: no more"),
        ((), b'{\n"message": "no more"}', "the server returned status 429: no more"),
        ((), b'{"error": 5}', 'the server returned status 429: {"error": 5}'),
        ((), b"[" * 60_000, f"the server returned status 429: {'[' * 200}…"),
        ((), b"<Error><Code>Slow</Code></Error>", "the server returned status 429: Slow"),
        (
            ("Content-Type: text/html",),
            b"<!DOCTYPE html>\n<html><head><title>Too many</title>",
            "the server returned status 429: Too many",
        ),
        ((), b"<" * 60_000, f"the server returned status 429: {'<' * 200}…"),
        (("Content-Encoding: gzip",), b"no gzip", "the server returned status 429"),
    ],
)
def test_words__of_a_refusal__are_in_the_message(faults, headers, body, message):
    head = b"".join(f"{line}\r\n".encode() for line in headers)
    length = f"Content-Length: {len(body)}\r\n\r\n".encode()
    faults.raw["a"] = (b"HTTP/1.1 429 No\r\n" + head + length + body, End.CLOSE)
    assert str(failure(faults.uri("raw/a"))) == message


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        (["noai"], "noai"),
        (["noimageai"], "noimageai"),
        (["noindex"], "noindex"),
        (["noimageindex"], "noimageindex"),
        (["NoIndex, NoFollow"], "noindex"),
        (["nofollow,noai"], "noai"),
        (["googlebot: noindex"], "noindex"),
        (["googlebot:nofollow, otherbot: noarchive, noimageindex"], "noimageindex"),
        (["nofollow", "noarchive", "noai"], "noai"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST", "noai"], "noai"),
        (["all"], None),
        (["index, follow"], None),
        (["nofollow, noarchive, nosnippet"], None),
        (["max-image-preview:none"], None),
        (["noindexing, x-noai, noai-x"], None),
        ([""], None),
        ([], None),
    ],
)
def test_opt_out__x_robots_tag__is_a_failure_unless_ignored(faults, headers, word):
    lines = [f"X-Robots-Tag: {value}" for value in headers]
    for fault in ("image", "endless_body"):
        uri = faults.uri(fault, *lines)
        if word:
            error = failure(uri)
            assert (error.reason, error.retry_after_sec) == (Reason.OPTED_OUT, None)
            assert str(error) == f"the server opts out: its header X-Robots-Tag has {word}"
        else:
            assert outcome(uri) == (IMAGE if fault == "image" else "too_large_bytes")
        ignoring = limits_with(max_bytes=100_000, http=HttpSettings(ignore_opt_out=True))
        assert outcome(uri, ignoring) == (IMAGE if fault == "image" else "too_large_bytes")


def test_opt_out__header_of_a_refusal_or_a_redirect__does_not_count(faults):
    assert outcome(faults.uri("status/404", "X-Robots-Tag: noindex")) == "not_found"
    assert outcome(faults.uri("redirect/image", "X-Robots-Tag: noindex")) == IMAGE


def test_headers__of_the_user__are_sent_and_take_the_place_of_ours(faults):
    settings = HttpSettings("me/1 (me@example.org)", (("X-Api-Key", "kéy"), ("accept", "image/avif")))
    assert fetch(faults.uri("image"), limits_with(http=settings)) == IMAGE
    sent = faults.headers["/image"]
    assert sent["user-agent"] == "me/1 (me@example.org)"
    assert sent["x-api-key"].encode("latin-1").decode() == "kéy"
    assert sent["accept"] == "image/avif"


def test_user_agent__default__names_project_and_version(faults):
    from labelbeam import __version__

    fetch(faults.uri("image"))
    assert faults.headers["/image"]["user-agent"] == f"labelbeam/{__version__}"


@pytest.mark.parametrize(
    ("user_info", "sent"),
    [
        ("user:secret", "Basic dXNlcjpzZWNyZXQ="),
        ("user", "Basic dXNlcjo="),
        ("us%40er:s%3Ae%2Fcret", "Basic dXNAZXI6czplL2NyZXQ="),
        ("us@er:secret", "Basic dXNAZXI6c2VjcmV0"),
        ("üser:sécret", "Basic w7xzZXI6c8OpY3JldA=="),
        ("us\udcffer:x", "Basic dXPts79lcjp4"),
        ("", None),
    ],
)
def test_login__user_info_in_the_address__is_sent_as_basic(faults, user_info, sent):
    uri = faults.uri("image").replace("://", f"://{user_info}@")
    assert fetch(uri) == IMAGE
    assert faults.headers["/image"].get("authorization") == sent


def test_login__in_the_address__takes_the_place_of_the_header(faults):
    settings = HttpSettings(headers=(("authorization", "Bearer token"), ("X-Other", "1")))
    login = to("Basic dXNlcjpzZWNyZXQ=")
    uri = faults.uri(f"login/{login}").replace("://", "://user:secret@")
    assert fetch(uri, limits_with(http=settings)) == IMAGE
    assert faults.headers[f"/login/{login}"]["x-other"] == "1"
    assert fetch(faults.uri(f"login/{to('Bearer token')}"), limits_with(http=settings)) == IMAGE
    assert outcome(faults.uri(f"login/{login}")) == "forbidden"


PRIVATE = HttpSettings("me", (("X-Api-Key", "key"), ("Cookie", "a=b"), ("Authorization", "Bearer t")))


@pytest.mark.parametrize("login", ["", "user:secret@"])
def test_redirect__to_another_host__takes_no_private_header_along(faults, login):
    with FaultServer() as other:
        for target in (other.uri("image/port"), faults.uri("image/host", host="localhost")):
            uri = faults.uri(f"redirect/{to(target)}").replace("://", f"://{login}")
            assert fetch(uri, limits_with(http=PRIVATE)) == IMAGE
        for sent in (other.headers["/image/port"], faults.headers["/image/host"]):
            assert not {"x-api-key", "cookie", "authorization"} & sent.keys()
            assert sent["user-agent"] == "me" and sent["accept"] == "image/*"


@pytest.mark.parametrize("login", ["", "user:secret@"])
def test_redirect__to_the_same_server__takes_private_headers_along(faults, login):
    uri = faults.uri("redirect/image").replace("://", f"://{login}")
    assert fetch(uri, limits_with(http=PRIVATE)) == IMAGE
    sent = faults.headers["/image"]
    assert (sent["x-api-key"], sent["cookie"]) == ("key", "a=b")
    assert sent["authorization"] == ("Basic dXNlcjpzZWNyZXQ=" if login else "Bearer t")


@pytest.mark.parametrize(
    ("first", "target", "shared"),
    [
        ("http://a/x", "http://a/y", True),
        ("http://a/x", "http://a:80/y", True),
        ("http://a/x", "https://a/y", True),
        ("http://a:80/x", "https://a:443/y", True),
        ("https://a/x", "https://a:443/y", True),
        ("https://a/x", "http://a/y", False),
        ("http://a:8080/x", "https://a/y", False),
        ("http://a/x", "https://a:8443/y", False),
        ("http://a/x", "http://a:8080/y", False),
        ("http://a/x", "http://b/x", False),
        ("http://a/x", "http://b.a/x", False),
    ],
)
def test_may_share_login__each_pair__is_decided_by_host_scheme_and_port(first, target, shared):
    assert may_share_login(first, target) is shared


def test_redirected__from_https_to_http__is_refused():
    with pytest.raises(ImageError, match="a redirect from https: to 'http://a/b', which is not enc") as e:
        redirected("https://a/x", "http://a/b?token=secret")
    assert e.value.reason is Reason.BAD_URI
    assert redirected("http://a/x", "https://a/b") == "https://a/b"


@pytest.mark.parametrize("location", ["http://u:secret@[::bad/?t=secret", "http://u:secret@/?t=secret"])
def test_redirected__message__has_neither_user_nor_query(location):
    with pytest.raises(ImageError) as e:
        redirected("https://a/x", location)
    assert "secret" not in str(e.value)


@pytest.mark.parametrize(
    ("value", "words", "shown"),
    [
        ("s3cret", "key s3cret is not valid", "key … is not valid"),
        ("Bearer s3cret", "token s3cret is not valid", "token … is not valid"),
        ("Bearer s3cret", "Bearer s3cret is not valid", "… is not valid"),
        ("a=s3cret; b=other", "no session s3cret of other", "no session … of …"),
        ("s3  cret", "no s3  cret", "no …"),
        ("s3", "no s3 or s3cret", "no … or …cret"),
    ],
)
def test_words__that_repeat_a_header__do_not_show_it(faults, value, words, shown):
    settings = HttpSettings(headers=(("X-Api-Key", value),))
    error = failure(faults.uri(f"status/403/{quote(words)}"), limits_with(http=settings))
    assert str(error) == f"the server returned status 403: {shown}"
    assert value not in repr(limits_with(http=settings))


def test_words__that_repeat_a_login__do_not_show_it(faults):
    uri = faults.uri("status/401/no us@er with s3cret!!").replace("://", "://us%40er:s3cret%21%21@")
    assert str(failure(uri)) == "the server returned status 401: no us@er with …"


@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (socket.gaierror(socket.EAI_NONAME, ""), True),
        (socket.gaierror(socket.EAI_AGAIN, ""), False),
        (socket.gaierror(socket.EAI_FAIL, ""), False),
        (OSError("no descriptors"), False),
        (None, False),
    ],
)
def test_is_unknown__lookup__decides(monkeypatch, error, unknown):
    def getaddrinfo(*_, **__):
        if error:
            raise error

    monkeypatch.setattr("labelbeam.transforms.sources.urls.socket.getaddrinfo", getaddrinfo)
    assert is_unknown("host.invalid", 30) is unknown


def test_is_unknown__lookup_that_hangs__is_no_answer_in_bounded_time(monkeypatch):
    with FaultServer() as faults:
        look_up = lambda *_, **__: faults.stopped.wait()  # noqa: E731
        monkeypatch.setattr("labelbeam.transforms.sources.urls.socket.getaddrinfo", look_up)
        assert is_unknown("host.invalid", 0.01) is False
        assert is_unknown("host.invalid", -1) is False


def test_is_unknown__no_thread_can_start__is_no_answer(monkeypatch):
    def no_thread(self) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert is_unknown("host.invalid", 30) is False


def test_get__no_memory_for_a_handle__is_a_want_of_memory(faults, monkeypatch):
    def no_handle() -> None:
        raise pycurl.error("initializing curl handle failed")

    monkeypatch.setattr(pycurl, "Curl", no_handle)
    with pytest.raises(MemoryError):
        fetch(faults.uri("image"))


@pytest.mark.parametrize(
    ("number", "reason"), [(socket.EAI_NONAME, "unknown_host"), (socket.EAI_AGAIN, "unreachable")]
)
def test_host__that_cannot_be_resolved__is_unknown_or_unreachable(monkeypatch, number, reason):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(number, "")

    monkeypatch.setattr("labelbeam.transforms.sources.urls.socket.getaddrinfo", getaddrinfo)
    assert outcome("http://no-such-host.invalid/a.jpg") == reason


PIECES = [
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 206 Part\r\n", b"HTTP/1.1 302 Found\r\n", b"HTTP/1.0 200\r\n"),
    *(b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 999 \xff\r\n", b"HTTP/1.1 20", b"HTTP/2 200\r\n"),
    *(b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\n", b"HTTP/1.1 304 Same\r\n", b"HTTP/1.1 429 No\r\n"),
    *(b"HTTP/1.1 0 x\r\n", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length:\r\n"),
    *(b"Content-Length: " + b"9" * 5000 + b"\r\n", b"Content-Length: 7\r\nContent-Length: 5\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n"),
    *(
        b"Transfer-Encoding: x\x1b[31m\xff\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Content-Encoding: deflate, gzip\r\n",
    ),
    *(b"Content-Encoding: \xff\r\n", b"Location: http://[::bad\r\n", b"Location: \xff\xfe://\r\n"),
    *(b"Location: /raw/0\r\n", b"Location:\r\n", b"Location: //127.0.0.1:1/\r\n", b"Location: http:a\r\n"),
    *(b"Location: http://127.0.0.1:99999/\r\n", b"Location: http://\r\n", b"Location: ?\xd8\x00\r\n"),
    *(b"Location: http://\xc3\xa4..\xe2\x98\x83:1/\r\n", b"Retry-After: 1\r\n", b"Retry-After: \xff\r\n"),
    *(b"Retry-After: Wed, 21 Oct 99999 99:99:99 GMT\r\n", b"Date: Mon, 1 Jan 0000 00:00:00 -9999\r\n"),
    *(b"Retry-After: Mon, 1 Jan 0001 00:00:00 +2359\r\n", b"X-Robots-Tag: noindex\r\n"),
    *(b"X-Robots-Tag: \x80\r\n", b"Content-Range: bytes 0-4/5\r\n", b"ETag: \xff\r\n", b"ETag: \0\r\n"),
    *(b"Content-Range: bytes " + b"9" * 400 + b"\r\n", b" folded\r\n", b": empty\r\n", b"no colon\r\n"),
    *(b"Connection: close\r\n", b"Keep-Alive: \xff\r\n", b"Set-Cookie: a\r\n", b"Alt-Svc: h3=x\r\n"),
    *(b"Content-Type: text/html; charset=\xff\r\n", b"Strict-Transport-Security: \xff\r\n"),
    *(b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\0", b"image", b"5\r\nimage\r\n", b"0\r\n\r\n"),
    *(b'{"error": {"message": 5}}', b"<html>\xff", b"\x1f\x8b\x08\0\0\0\0\0\0\x03", b"-1\r\n"),
    *(b"ffffffffff\r\n", b"[" * 5000),
]


def test_fuzz__random_responses__are_bytes_or_an_image_error(faults):
    draw = random.Random(17)
    for n in range(2000):
        pieces = draw.choices(PIECES, k=draw.randrange(12))
        # Every second one is formed as a response, because most random bytes are refused at once.
        if n % 2:
            lines = [piece for piece in pieces if b": " in piece]
            pieces = [draw.choice(PIECES[:11]), *lines, b"\r\n", *draw.choices(PIECES, k=draw.randrange(3))]
        data = b"".join(pieces)
        if n % 5 == 0 and data:
            at = draw.randrange(len(data))
            data = data[:at] + draw.randbytes(draw.randrange(4)) + data[at + 1 :]
        # No connection is held, because a client that expects more would wait for its limit.
        faults.raw[str(n)] = (data, draw.choice([End.CLOSE, End.CLOSE, End.CLOSE, End.RESET]))
    sources = Sources(LIMITS)

    def result(n: int) -> str:
        try:
            sources.fetch(faults.uri(f"raw/{n}"))
        except ImageError as e:
            assert str(e).isprintable()
            return e.reason.value
        return "image"

    with ThreadPoolExecutor(8) as pool:
        results = set(pool.map(result, range(2000)))
    assert {"image", "truncated", "bad_response", "bad_uri", "unreachable", "rate_limited"} <= results
    assert "timeout" not in results
