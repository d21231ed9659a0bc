"""Addresses as they arrive at a server, and redirects."""

import random
import re
from urllib.parse import urlsplit

import pytest

from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.sources import Limits, Sources
from labelbeam.transforms.sources.urls import redirected, server_of, to_ascii
from tests.engines.http_server import LOOPBACK

LIMITS = Limits(total_timeout_sec=20, max_bytes=100_000, allow_hosts=LOOPBACK)


def reason_of(uri: str) -> str:
    with pytest.raises(ImageError) as e:
        Sources(LIMITS).fetch(uri)
    assert str(e.value)
    return e.value.reason.value


@pytest.mark.parametrize(
    ("server", "spellings"),
    [
        (
            "host.example",
            "http://host.example/a HTTP://HOST.example http://host.example.:80/ https://host.example:443?a "
            "https://u:p@h@host.example#f http://h%6Fst.example/ http://host.example:080/",
        ),
        (
            "xn--bcher-kva.example",
            "http://bücher.example/a http://BÜCHER.example. http://xn--bcher-kva.example",
        ),
        ("host.example:8080", "http://host.example:8080/ https://HOST.example.:8080/a:80"),
        ("[2001:db8::80]", "http://[2001:DB8::80]/ https://[2001:db8::80]:443/"),
        ("[2001:db8::80]:81", "http://[2001:db8::80]:81/"),
        (
            "",
            "gs://b/a file:///a /a a http:/a http:// https://?a http://a:b:c/ http://[::1/ http://h:99999/ ftp://h/",
        ),
    ],
)
def test_server_of__all_spellings_of_a_server__are_one(server, spellings):
    assert {server_of(spelling) for spelling in spellings.split()} == {server}


# Targets that are sent as they are listed.
AS_LISTED = [
    "/plain.jpg?w=200",
    "/a%2fb.jpg?w=200",
    "/a%2Fb%2fc.jpg",
    "/cat.jpg?u=%7euser",
    "/cat.jpg?u=~user",
    "/cat.jpg?q=a|b",
    "/a/./b/../c.jpg?w=1",
    "/a/%2e/b/%2E%2e/c.jpg",
    "/../../a.jpg",
    "/..%2f..%2fa.jpg",
    "/.",
    "/..",
    "/a/..",
    "/a.jpg?x=/../y",
    "/50%20off%.jpg",
    "/50%20off%25.jpg",
    "/100%",
    "/%zz%",
    "/%",
    "//a//b.jpg",
    "///",
    "/a.jpg?",
    "/a.jpg??",
    "/a.jpg?&&=",
    "/?",
    "/a.jpg?a=b?c=d",
    '/"b\\c[d]|{e}^`<f>.jpg?q="\'\\[]{}|^`<>',
    "/a;b=c,d:e@f!$&'()*+~._-?/:@!$&'()*+,;=~",
    "/a+b%2Bc.jpg?d=e+f",
    "/http://other.example/a.jpg",
    "/a.jpg?X-Amz-Credential=A%2F20260101%2Fus-east-1&X-Amz-Signature=0a&X-Amz-SignedHeaders=host",
    "/a.jpg?Expires=1767225600&Signature=a%2Bb%2Fc~d-e_f__&Key-Pair-Id=K",
    "/a.jpg?sv=2026-01-01&se=2026-01-01T00%3A00%3A00Z&sig=a%2bb%3d",
    "/a.jpg?q=%C3%A4%e4",
    "/:80/a.jpg",
    "/@a:b",
]
ESCAPED = {
    "": "/",
    "?a": "/?a",
    "#a": "/",
    "?#": "/?",
    "/a.jpg#part": "/a.jpg",
    "/a.jpg?b#c?d#e": "/a.jpg?b",
    "/ä b.jpg": "/%C3%A4%20b.jpg",
    "/a b.jpg?c= d ä": "/a%20b.jpg?c=%20d%20%C3%A4",
    "/ä%20b%2fc%.jpg": "/%C3%A4%20b%2fc%.jpg",
    "/a\u00a0b\u0085c\u2028d\ufeff": "/a%C2%A0b%C2%85c%E2%80%A8d%EF%BB%BF",
    "/😀.jpg": "/%F0%9F%98%80.jpg",
    "/a\u0308.jpg": "/a%CC%88.jpg",  # not composed
    "/\ud800.jpg": "/%ED%A0%80.jpg",
    "/日本/写真.jpg?名=値": "/%E6%97%A5%E6%9C%AC/%E5%86%99%E7%9C%9F.jpg?%E5%90%8D=%E5%80%A4",
}


@pytest.mark.parametrize(("listed", "target"), [*zip(AS_LISTED, AS_LISTED, strict=True), *ESCAPED.items()])
def test_fetch__address__arrives_as_it_is_listed(web, listed, target):
    assert reason_of(web.uri(listed)) == "not_found"
    assert web.targets == [target]


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("localhost", "localhost"),
        ("LocalHost", "localhost"),
        ("%6cocalhost", "localhost"),
        ("a_b.localhost", "a_b.localhost"),
        ("bücher.localhost", "xn--bcher-kva.localhost"),
        ("BÜCHER.localhost", "xn--bcher-kva.localhost"),
        ("b%C3%BCcher.localhost", "xn--bcher-kva.localhost"),
        ("faß.localhost", "xn--fa-hia.localhost"),
    ],
)
def test_fetch__host__arrives_in_ascii(web, host, sent):
    assert reason_of(f"http://{host}:{web.port}/a.jpg") == "not_found"
    assert web.hosts == [f"{sent}:{web.port}"]


@pytest.mark.parametrize(
    "host",
    [
        *("a..b", ".a", "x" * 64, "ä" * 64, "☃..x", "host:99999", "host:x", "@", ":80", "user@"),
        *("[::1", "[::g]", "[127.0.0.1]", "[v1.a]", "a b", "a\\b", "a,b", "a*b", "a;b", "a'b", "a|b"),
        *("a%2fb", "a%2", "%", "%ff", "a%00b", "a%0ab", "%40a", "a%23", "%5b::1%5d"),
        # Full-width digits, full stop and letter, a space of no width, a line's end.
        *(
            "\uff11\uff12\uff17.0.0.1",
            "127\u30020\u30020\u30021",
            "\uff41.example",
            "a\u200b.example",
            "\u2028",
        ),
    ],
)
def test_fetch__impossible_host__is_a_bad_uri(host):
    assert reason_of(f"http://{host}/a.jpg") == "bad_uri"


def test_redirected__impossible_host_behind_a_password__does_not_repeat_it():
    with pytest.raises(ImageError) as e:
        redirected("http://host/", "http://user:secret@a\u2100b:x/".encode().decode("latin-1"))
    assert "secret" not in str(e.value)


def test_to_ascii__random_addresses__are_canonical_or_bad():
    rng = random.Random(17)
    canonical = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+(%[^/]*)?\])(:\d+)?/[\x21-\x22\x24-\x7e]*")
    parts = [
        *"ab.:/@?#%[]\\ ~|-_%",
        "%2e",
        "%2F",
        "%ff",
        "ü",
        "ß",
        "\u200b",
        "..",
        "127.1",
        "::1",
        "x" * 70,
        "://",
    ]
    bad = 0
    for _ in range(20_000):
        rest = "".join(rng.choices(parts, k=rng.randint(0, 9)))
        try:
            url = to_ascii(f"{rng.choice(('http', 'HTTPS'))}://{rest}")
        except ImageError as e:
            bad += e.reason.value == "bad_uri"
            continue
        assert canonical.fullmatch(url), (rest, url)
        assert to_ascii(url) == url
        # Host as libcurl finds it, which ends the host at the same characters.
        assert urlsplit(url).username is None
    assert 1000 < bad < 19_000


def test_redirected__random_locations__are_canonical_or_bad():
    rng = random.Random(17)
    parts = [
        *"ab.:/@?#%[]\\ ~|\x00\t\xff\xc3",
        "//",
        "http:",
        "HTTPS://",
        "file://",
        "..",
        "[::",
        "%ff",
        "x" * 70,
    ]
    for _ in range(20_000):
        location = "".join(rng.choices(parts, k=rng.randint(1, 9)))
        try:
            url = redirected("http://host/a/b?c", location)
        except ImageError as e:
            assert e.reason.value == "bad_uri"
            continue
        assert to_ascii(url) == url


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b.jpg", "http://host/b.jpg"),
        ("b.jpg", "http://host/a/b.jpg"),
        ("../b.jpg?x", "http://host/b.jpg?x"),
        ("?x", "http://host/a/0?x"),
        ("//other/b.jpg", "http://other/b.jpg"),
        ("https://other:8443/b.jpg#c", "https://other:8443/b.jpg"),
        ("HTTP://OTHER/B.jpg", "http://other/B.jpg"),
        ("http://other", "http://other/"),
        ("http://other/a/./b/../c%2f%.jpg?x|y", "http://other/a/./b/../c%2f%.jpg?x|y"),
        ("http://other/a?", "http://other/a?"),
        ("http://user:secret@other/a", "http://other/a"),
        ("/ä b.jpg", "http://host/%C3%A4%20b.jpg"),
        ("/%C3%A4.jpg?q=ä", "http://host/%C3%A4.jpg?q=%C3%A4"),
        ("http://bücher.example/ä", "http://xn--bcher-kva.example/%C3%A4"),
        ("/a\tb", "http://host/a%09b"),
    ],
)
def test_redirected__location__is_resolved(location, target):
    assert redirected("http://host/a/0?q", location.encode().decode("latin-1")) == target


def test_redirected__bytes_that_are_not_utf8__are_sent_back():
    assert redirected("http://host/", "/a\xe4\xff.jpg") == "http://host/a%E4%FF.jpg"


@pytest.mark.parametrize(
    ("url", "location", "words"),
    [
        ("http://h/", "file:///etc/passwd", "is no address of http:// or https://"),
        ("http://h/", "ftp://h/a", "is no address of http:// or https://"),
        ("http://h/", "gopher://h/a", "is no address of http:// or https://"),
        ("http://h/", "data:image/png;base64,AAAA", "is no address of http:// or https://"),
        ("http://h/", "http://[::bad", "has no valid host"),
        ("http://h/", "http://", "has no valid host"),
        ("http://h/", "http:/a", "is no address of http:// or https://"),
        (
            "https://h/",
            "http://h/a?token=secret",
            "a redirect from https: to 'http://h/a', which is not encrypted",
        ),
    ],
)
def test_redirected__target_that_may_not_be_fetched__is_a_bad_uri(url, location, words):
    with pytest.raises(ImageError, match="^a redirect ") as e:
        redirected(url, location)
    assert e.value.reason.value == "bad_uri" and words in str(e.value)
    assert "secret" not in str(e.value)


def test_fetch__redirect_with_raw_utf8__is_followed(web):
    web.files["/%C3%A4%20b.jpg"] = b"image"
    web.redirects["/a.jpg"] = "/ä b.jpg".encode().decode("latin-1")
    assert Sources(LIMITS).fetch(web.uri("/a.jpg")).data == b"image"


def test_fetch__redirect_back_and_forth__is_a_bad_response(web):
    web.redirects.update({"/a": "/b", "/b": web.uri("/a")})
    assert reason_of(web.uri("/a")) == "bad_response"
    assert web.targets == ["/a", "/b"] * 3


def test_gcs__object_of_two_dots__is_requested(web, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.uri(""))
    assert reason_of("gs://photos/..") == "not_found"
    assert web.targets == ["/download/storage/v1/b/photos/o/..?alt=media"]
