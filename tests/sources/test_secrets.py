"""Secrets in addresses: which parts are hidden, which stay, and what a message keeps."""

import random
import re
import time
from urllib.parse import quote

import pytest

from labelbeam.transforms.attempts import failure_of
from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.sources.secrets import (
    hide_in_message,
    hide_secrets,
    lacks_secrets,
    public_uri,
)

SECRET = "s3cr3tValue+/=="
DIGEST = re.compile("…[0-9a-f]{20}")

# Names whose values are hidden, and never count.
CREDENTIALS = (
    *("X-Goog-Signature", "X-Goog-Credential", "X-Goog-Date", "X-Goog-Expires", "X-Goog-SignedHeaders"),
    *("X-Goog-Algorithm", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "X-Amz-Date"),
    *("X-Amz-Expires", "GoogleAccessId", "AWSAccessKeyId", "OSSAccessKeyId", "Signature", "Key-Pair-Id"),
    *("sig", "hmac", "access_token", "auth_token", "api_key", "apikey", "api-key", "password", "passwd"),
    *("pwd", "client_secret", "oauth_signature", "oauth_token", "x-oss-signature", "q-signature", "hdnts"),
    *("Ocp-Apim-Subscription-Key", "secret"),
)
# Names that may name an image where its path does not.
TOKENS = ("token", "auth", "__token__", "download_token", "sign", "jwt", "pass", "jsessionid")
AZURE = "sv=2024-11-04&se=2026-01-31T00%3A00Z&sr=b&sp=r&skoid=0a1b&skt=2026&spr=https"

PUBLIC = {
    "https://h/a.jpg": None,
    "https://h/a.jpg?w=200&h=100": None,
    "https://h/tile?st=NY&sp=2&sv=1&se=3&sr=4": None,
    "https://h/a.jpg?expires=1&policy=fair": None,
    "https://h/a.jpg?monkey=1&tokens=2&keys=3&keyword=4&signal=5&designature=6&author=7&passage=8": (
        "https://h/a.jpg?monkey=1&tokens=2&keys=3&keyword=4&signal=5&designature=…&author=7&passage=8"
    ),
    "https://h/a.jpg?sig": None,
    "https://h/a.jpg?sig=&w=1": None,
    "https://h/photo@2x.jpg": None,
    "https://h//photo@2x.jpg": None,
    "https://h/a?u=b:c@d": None,
    "photo@2x.jpg": None,
    "gs://b/a.jpg?sig=1&token=2": None,
    "GS://b/u:p@x": None,
    "/photos/a.jpg?X-Amz-Signature=1": None,
    "./a.jpg?sig=1": None,
    "../a.jpg?sig=1": None,
    "file:///a.jpg?sig=1": None,
    "https://bob:pw@h/a.jpg": "https://…@h/a.jpg",
    "https://bob@h/a.jpg": "https://…@h/a.jpg",
    "HTTPS://b@b:p@w@h:80/a.jpg?x=y@z": "HTTPS://…@h:80/a.jpg?x=y@z",
    "https://bob:p w@h/a.jpg": "https://…@h/a.jpg",
    "https://bob:p/a?s#s@h/a.jpg": "https://…@h/a.jpg",
    "https://h:80/a@b": None,
    "https://[::1]:80/a@b": None,
    "ftp://bob:pw@h/a.jpg": "ftp://…@h/a.jpg",
    "s3://key:secret@b/a.jpg": "s3://…@b/a.jpg",
    "//bob:pw@h/a.jpg": "//…@h/a.jpg",
    "http:/bob:pw@h/a.jpg": "http:/…@h/a.jpg",
    "bob:pw@h/a.jpg": "bob:…@h/a.jpg",
    "www.h.org/a.jpg?sig=S": "www.h.org/a.jpg?sig=…",
    "h.org/a.jpg?sig=S": "h.org/a.jpg?sig=…",
    '"https://h/a.jpg?sig=S"': '"https://h/a.jpg?sig=…',
    "http://[::bad?sig=S&w=1": "http://[::bad?sig=…&w=1",
    "https://h/a.jpg?w=1&sig=S#top": "https://h/a.jpg?w=1&sig=…#top",
    "https://h/a.jpg#access_token=S&w=1": "https://h/a.jpg#access_token=…&w=1",
    "https://h/a.jpg?sig=a'b c,d;e=f?g/h:i@j=k&w=1": "https://h/a.jpg?sig=…&w=1",
    "https://h/a.jpg?SIG=S&X-GOOG-date=1": "https://h/a.jpg?SIG=…&X-GOOG-date=…",
    "https://h/a.jpg?%73ig=S": "https://h/a.jpg?%73ig=…",
    "https://h/a.jpg?X%2DGoog%2dSignature=S": "https://h/a.jpg?X%2DGoog%2dSignature=…",
    "https://h/a.jpg?a=1;sig=S;w=2": "https://h/a.jpg?a=1;sig=…;w=2",
    "https://h/x;sig=S/b.jpg;w=1?c=2": "https://h/x;sig=…/b.jpg;w=1?c=2",
    "https://h/a.jpg?Expires=1&Signature=S&w=1": "https://h/a.jpg?Expires=…&Signature=…&w=1",
    "https://h/a?Policy=P&Signature=S&Key-Pair-Id=K": "https://h/a?Policy=…&Signature=…&Key-Pair-Id=…",
    f"https://h/a.jpg?{AZURE}&sig=S&w=1": (
        "https://h/a.jpg?sv=…&se=…&sr=…&sp=…&skoid=…&skt=…&spr=…&sig=…&w=1"
    ),
    "https://h/a.jpg?sig=S&st=NY": "https://h/a.jpg?sig=…&st=NY",
    "https://scontent/a.jpg?_nc_cat=1&oh=S&oe=T": "https://scontent/a.jpg?_nc_cat=1&oh=…&oe=…",
    "https://cdn/a.png?ex=S&is=T&hm=U&": "https://cdn/a.png?ex=…&is=…&hm=…&",
    "https://r/i?w=9&url=https%3A%2F%2Fu%3Ap%40h%2Fa.jpg%3Fw%3D1%26X-Amz-Signature%3DS%26h%3D2&q=3": (
        "https://r/i?w=9&url=https%3A%2F%2F…%40h%2Fa.jpg%3Fw%3D1%26X-Amz-Signature%3D…%26h%3D2&q=3"
    ),
    "https://r/i?url=https%253A%252F%252Fh%252Fa%253Fsig%253DS%2526w%253D1": (
        "https://r/i?url=https%253A%252F%252Fh%252Fa%253Fsig%253D…%2526w%253D1"
    ),
    "https://r/width=80/https://bob:pw@h/a.jpg?sig=S": "https://r/width=80/https://…@h/a.jpg?sig=…",
}


@pytest.mark.parametrize(("address", "public"), PUBLIC.items())
def test_public_uri__address__has_no_secrets_and_all_else(address, public):
    public = address if public is None else public
    assert public_uri(address) == public == public_uri(public)
    assert lacks_secrets(public) == (public != address) and not lacks_secrets(address)


@pytest.mark.parametrize("name", CREDENTIALS)
@pytest.mark.parametrize("spelling", [str, str.upper, str.lower])
def test_public_uri__credential__is_hidden_and_never_counts(name, spelling):
    name = spelling(name)
    for path in ("/a.jpg", "/photos/1"):
        forms = {public_uri(f"https://h{path}?w=1&{name}={value}&h=2") for value in ("1", SECRET, "a%26b")}
        assert forms == {f"https://h{path}?w=1&{name}=…&h=2"}


@pytest.mark.parametrize("name", TOKENS)
def test_public_uri__token__counts_unless_the_path_names_an_image(name):
    assert public_uri(f"https://h/a.JPG?{name}={SECRET}") == f"https://h/a.JPG?{name}=…"
    forms = [public_uri(f"https://h/download?{name}={value}&w=1") for value in (SECRET, SECRET + "2")]
    assert len(set(forms)) == 2
    for form in forms:
        assert DIGEST.sub("D", form) == f"https://h/download?{name}=D&w=1" and lacks_secrets(form)
        assert public_uri(form) == form


def test_public_uri__key__always_counts():
    forms = {public_uri(f"https://h/thumb.jpg?key={key}") for key in ("photo1", "photo2", "photo1")}
    assert len(forms) == 2 and all("photo" not in form and lacks_secrets(form) for form in forms)


def test_public_uri__names_of_the_user__are_hidden_and_do_not_count():
    address = "https://h/i?key=1&s=2&Tok_en=3&w=4"
    assert public_uri(address, ("KEY", "s", "token")) == "https://h/i?key=…&s=…&Tok_en=…&w=4"
    assert lacks_secrets("https://h/i?s=…", ("s",)) and not lacks_secrets("https://h/i?s=…")


PIECES = (
    "a.jpg",
    "i",
    "x=1",
    "w=200",
    "q=a b",
    "ü=ö",
    "sig",
    "=",
    "%zz",
    "%",
    "@",
    ":",
    "…",
    "a;b",
    "?",
    "%26",
)


def test_public_uri__random_queries__hide_each_secret_and_keep_the_rest():
    rng = random.Random(17)
    for _ in range(4000):
        secrets, shown, parameters = [], [], []
        for n in range(rng.randrange(1, 8)):
            if rng.random() < 0.5:
                value = "".join(rng.choices("abcXYZ019-_.~+/=,:@!*", k=12))
                secrets.append(f"{value}{n}{quote(rng.choice('aé&#/?'), '')}")
                name = rng.choice(CREDENTIALS)
                name = rng.choice((name, name.upper(), "".join(rng.choice((c, c.swapcase())) for c in name)))
                parameters.append(f"{name}={secrets[-1]}")
            else:
                shown.append(f"p{n}={rng.randrange(10**12):012}")
                parameters.append(shown[-1])
        user = rng.choice(("", f"us3r{rng.randrange(10**9)}:p4ss{rng.randrange(10**9)}@"))
        path = rng.choice(("/a.jpg", "/i", "", "/ü/%20"))
        address = f"{rng.choice(('http', 'https', 'HTTPS'))}://{user}host:80{path}?{'&'.join(parameters)}"
        public = public_uri(address)
        assert not any(secret in public for secret in secrets), address
        assert all(text in public for text in shown), address
        assert "us3r" not in public and "p4ss" not in public, address
        assert "//" + "…@" * bool(user) + "host:80" + path + "?" in public
        assert public_uri(public) == public and lacks_secrets(public) == bool(secrets or user)
        message = hide_in_message(f"{address!r:.{rng.randrange(20, 300)}} failed", address, public)
        # Also where the message was cut within a secret.
        assert not any(secret[:8] in message for secret in secrets), (address, message)


def test_public_uri__random_queries__have_one_public_form():
    rng = random.Random(18)
    for _ in range(20_000):
        pieces = (*PIECES, "&", "#", "sig=S", "token=T", "%3D", "%3F", "&sv=1", "u:p@")
        text = "".join(("https://h/", *rng.choices(pieces, k=9)))
        public = public_uri(text)
        assert public_uri(public) == public, text


@pytest.mark.parametrize(
    "text",
    [
        *("a", "?", "?a=", "%25", "://", "%3A%2F%2F", ";sig=1", ";sig=1/", "@", "%3Fsig%3D", "?sig=a"),
        *(
            "?sig=1&",
            "a://",
            "%40",
            "?%25",
            "?token=1&",
            "http://u:p@",
            "://u:p/w",
            "?sv=1&sig=2;",
            "…",
            "?sig=…&",
        ),
    ],
)
def test_hide_secrets__long_line__takes_linear_time(text):
    line = (text * 10**6)[: 1 << 18]
    start = time.process_time()
    hide_in_message(line, line, hide_secrets(line))
    # Quadratic time would be minutes, and this is a second on the slowest machine.
    assert time.process_time() - start < 30


QUOTES = {
    "whole": "{address!r} names no host",
    "cut": "{address:.70} is bad",
    "decoded": "<Error><Sig>{plain}</Sig></Error>",
    "encoded": "refused: {encoded}",
    "alone": "signature {value} is wrong",
    "user": "no user {user}, or wrong password: {password}",
    "basic": "Authorization: Basic Ym9iYnk6aHVudGVyMjI=",
    "elsewhere": "redirected to https://bobby:hunter22@cdn/a?X-Amz-Signature={value}&w=1, which is refused",
}


@pytest.mark.parametrize("text", QUOTES.values(), ids=QUOTES.keys())
def test_failure_of__message_that_quotes_a_secret__is_without_it(text):
    value = "Zm9v%2Bab/c1='x"
    address = f"https://bobby:hunter22@h/a.jpg?w=1&Signature={value}&h=2"
    plain = "Zm9v+ab/c1='x"
    message = text.format(
        address=address,
        value=value,
        plain=plain,
        encoded=quote(plain, ""),
        user="bobby",
        password="hunter22",
    )
    ref = ImageRef("1", public_uri(address), signed=address)
    failure = failure_of(ref, "fetch", ImageError(Reason.FORBIDDEN, message))
    assert "…" in failure.message and failure.host == "h"
    for secret in ("Zm9v", "c1=", "bobby", "hunter22", "Ym9iYnk"):
        assert secret not in failure.message
    assert "Zm9v" not in repr(failure)


def test_failure_of__address_without_secrets__keeps_its_message():
    message = "'https://h/a.jpg?w=1' took longer than image_timeout_sec=60 allows: key=1, token, a@b; sig"
    failure = failure_of(ImageRef("1", "https://h/a.jpg?w=1"), "fetch", ImageError(Reason.TIMEOUT, message))
    assert failure.message == message
