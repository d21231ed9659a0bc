"""Secrets in addresses: user info, and values of query parameters that sign or authorise a request.

The client that fetches an image gets the address with its secrets. All else (tables, messages, logs, reports)
gets the public form, in which `…` stands for each secret, and from which the id is made. So an address that
is signed anew has the same public form and the same id.

A few names may also be what names the image, as in `?key=photo1`. Behind their `…` stands a digest of the
value, because two images must not become one.

| name, without case, `-` and `_` | public form of its value |
|---|---|
| `X-Goog-…`, `X-Amz-…`, `sig`, `…Signature`, `access_token`, `api_key`, `password`, … | `…` |
| `Expires`, `Policy` beside another secret; `sv`, `se`, `sp`, … beside Azure's `sig` | `…` |
| `token`, `auth`, … | `…`; with a digest unless the path ends in the name of an image file |
| `key` | `…` and a digest |
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from operator import itemgetter
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from labelbeam.transforms.images.formats import IMAGE_SUFFIXES

HIDDEN: Final = "…"
# Digits of a digest. 80 bits, because two of a billion images are then confused once in two million lists.
_DIGEST_DIGITS = 20

# Names that are secret by their beginning: Google Cloud Storage, Amazon S3, OAuth 1.0, Tencent COS.
_BEGINNINGS = ("xgoog", "xamz", "oauth", "qsign")
# Names that are secret by their end, such as X-Oss-Signature, GoogleAccessId and AWSAccessKeyId.
_ENDS = (
    *("signature", "secret", "password", "passwd", "credential", "credentials", "authorization"),
    *("accesstoken", "authtoken", "sessiontoken", "securitytoken"),
    *("accessid", "accesskeyid", "accesskey", "apikey", "consumerkey", "secretkey", "subscriptionkey"),
)
# Other secret names; the second line is of CloudFront and Akamai, the last ones of Tencent and Alibaba.
_NAMES = frozenset(
    (
        *("sig", "hmac", "pwd"),
        *("keypairid", "hdnea", "hdntl", "hdnts"),
        *("qak", "qkeytime", "qheaderlist", "qurlparamlist", "xossdate", "xossexpires"),
    )
)
# Names that change with a signature, and are no secret without one.
_BESIDE_SECRETS = frozenset(("expires", "expiry", "expiration", "policy"))
# Names that are secret only if all of the first ones are there, because each alone is a common word.
_GROUPS = (
    # Shared access signatures of Azure.
    (
        {"sig", "sv"},
        {"sv", "ss", "srt", "sr", "se", "st", "sp", "sip", "spr", "si", "sdd", "ses", "skoid", "sktid"}
        | {"skt", "ske", "sks", "skv", "saoid", "suoid", "scid"},
    ),
    # The networks of Facebook and Discord.
    ({"oh", "oe"}, {"oh", "oe"}),
    ({"ex", "is", "hm"}, {"ex", "is", "hm"}),
)
# Names that sign or authorise as a rule, and that may also name the image.
_TOKENS = ("auth", "sign", "pass", "jwt")
_ENDS_OF_TOKENS = ("token", "sessionid", "sessid")
_KEY = "key"

# Texts that are taken literally: gs:// and local paths have no user info and no query.
_LITERAL = re.compile(r"gs://|file:|\.{0,2}/(?!/)", re.I)
# Beginnings of user info. Behind :// anywhere, because addresses can stand within addresses; with fewer
# slashes only at the beginning of a text, because paths may have a colon and an @.
_AUTHORITY = re.compile(
    r"(?: (?<=://) | ^// | ^[a-z][a-z0-9+.-]*:/{0,3} | %(?:25)*3A(?:%(?:25)*2F){2} ) ([^/?\#]*)", re.X | re.I
)
# Name of a parameter, with the characters around it, which are percent-encoded where an address is the value
# of another address's parameter.
_PARAMETER = re.compile(
    r"""([?&\#;] | %(?:25)*(?:3F|26|23|3B))
    ( (?: [\w.~-] | %(?!(?:25)*(?:3F|26|23|3B|3D))[0-9A-F]{2} )+ )
    ( = | %(?:25)*3D )""",
    re.X | re.I,
)
_HAS_VALUES = re.compile("[=@%]")
_END_OF_ENCODED = re.compile(r"[&\s]|%(?:25)*(?:2F|3F|23|26)", re.I)
# A host, and behind its colon no port.
_NO_PORT = re.compile(r"[^:\[]*:(?!\d*$)")
_AT = re.compile("@|%(?:25)*40")
# Characters that end an address within a sentence.
_END_OF_ADDRESS = r"""\s"'<>`"""
_IS_HIDDEN = re.compile(f"{HIDDEN}(?:[0-9a-f]{{{_DIGEST_DIGITS}}})?")
# Shortest secret that is looked for in a sentence, and the length from which a part of it is.
_SHORTEST, _SHORTEST_PART = 4, 8


class _Secret(NamedTuple):
    """A place in a text, and the name of the parameter whose value it is; empty for user info."""

    start: int
    end: int
    name: str


def public_uri(address: str, names: Collection[str] = ()) -> str:
    """Return the public form of an address; the form of a public form is itself.

    Args:
      address: A URI, a path, or a text in place of one.
      names: Further names of parameters that are secret, and that never name an image.
    """
    return address if _LITERAL.match(address) else hide_secrets(address, names)


def hide_secrets(line: str, names: Collection[str] = ()) -> str:
    """Return the public form of a line, in which a value lasts up to the next parameter."""
    path = re.split(r"[?#]", line, maxsplit=1)[0].lower()
    own = frozenset(map(_plain, names))

    def form_of(secret: _Secret) -> str:
        value = line[secret.start : secret.end]
        may_identify = secret.name == _KEY or (_is_token(secret.name) and not path.endswith(IMAGE_SUFFIXES))
        return HIDDEN + (_digest(value) if may_identify and secret.name not in own else "")

    return _replace(line, _find(line, own), form_of)


def hide_in_message(message: str, address: str = "", uri: str = "") -> str:
    """Return a message without secrets.

    Args:
      message: A sentence that may quote an address or a server's words, cut at any place.
      address: The address that the message is about, with its secrets.
      uri: Its public form.
    """
    if address != uri:
        message = message.replace(address, uri)
        message = _cut_out(message, _forms_of_secrets(address, uri))
    # Other addresses, too, because a redirect may lead to one that is signed.
    return _replace(message, _find(message, frozenset(), _END_OF_ADDRESS), lambda _: HIDDEN)


def lacks_secrets(uri: str, names: Collection[str] = ()) -> bool:
    """Return whether an address is a public form whose secrets are gone, so that it can't be fetched."""
    if HIDDEN not in uri or _LITERAL.match(uri):
        return False
    return any(_is_hidden(uri, secret) for secret in _find(uri, frozenset(map(_plain, names))))


def _replace(text: str, secrets: Iterator[_Secret], form_of: Callable[[_Secret], str]) -> str:
    parts, end = [], 0
    for secret in secrets:
        if not _is_hidden(text, secret):
            parts += [text[end : secret.start], form_of(secret)]
            end = secret.end
    return "".join([*parts, text[end:]])


def _is_hidden(text: str, secret: _Secret) -> bool:
    return bool(_IS_HIDDEN.fullmatch(text, secret.start, secret.end))


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_DIGITS]


def _find(text: str, own: frozenset[str], ends: str = "") -> Iterator[_Secret]:
    """Find secrets from left to right, without those within others.

    Args:
      text: An address, or a text with addresses.
      own: Further names, plain.
      ends: Characters that end an address within the text.
    """
    if not _HAS_VALUES.search(text):
        return
    parameters = [(match, _plain(match[2])) for match in _PARAMETER.finditer(text)]
    secret_names = _secret_among({name for _, name in parameters}, own)
    found: list[tuple[int, int, str, re.Match[str] | None]]
    found = [(*info, None) for info in _user_infos(text, ends)]
    found += [(match.end(), -1, name, match) for match, name in parameters if name in secret_names]
    last = 0
    for start, end, name, match in sorted(found, key=itemgetter(0)):
        if start >= last:
            # Not earlier, because looking for the ends of all would take quadratic time.
            last = _end_of_value(text, match, ends) if match else end
            if last > start:
                yield _Secret(start, last, name)


def _user_infos(text: str, ends: str) -> Iterator[tuple[int, int, str]]:
    for n, match in enumerate(_AUTHORITY.finditer(text)):
        start = match.start(1)
        authority = re.split(f"[{ends}]", match[1], maxsplit=1)[0] if ends else match[1]
        if "%" in match[0].removesuffix(match[1]):
            authority = _END_OF_ENCODED.split(authority, maxsplit=1)[0]
        # Up to the last @, because clients read user info up to there.
        end = max((place.start() for place in _AT.finditer(authority)), default=-1)
        if end < 0 and n == 0 and _NO_PORT.match(authority):
            # A password with one of the characters / ? # in it, as in user:pass/word@host.
            end = re.split(f"[{ends}]" if ends else "$", text[start:], maxsplit=1)[0].rfind("@")
        if end >= 0:
            yield start, start + end, ""


def _end_of_value(text: str, parameter: re.Match[str], ends: str) -> int:
    before, _, equals = parameter.groups()
    stops = f"[&#{ends}]"
    if before == ";":
        # Between parameters, or in a path, such as /a;jsessionid=1/b.
        in_query = 0 <= text.find("?") < parameter.start()
        stops = f"[;&#{ends}]" if in_query else f"[;&#/?{ends}]"
    if equals != "=":
        # As deeply encoded as the sign, because a deeper one is part of the value.
        stops += f"|%(?:25){{0,{equals.count('25')}}}(?:26|23)"
    end = re.compile(stops, re.I).search(text, parameter.end())
    return end.start() if end else len(text)


def _plain(name: str) -> str:
    return re.sub("[-_]", "", unquote(unquote(name)).lower())


def _secret_among(names: set[str], own: frozenset[str]) -> set[str]:
    secret = {name for name in names if name in own or _is_secret(name)}
    if secret:
        secret |= names & _BESIDE_SECRETS
    for needed, group in _GROUPS:
        if needed <= names:
            secret |= names & group
    return secret


def _is_secret(name: str) -> bool:
    is_credential = name in _NAMES or name.startswith(_BEGINNINGS) or name.endswith(_ENDS)
    return is_credential or _is_token(name) or name == _KEY


def _is_token(name: str) -> bool:
    if name.startswith(_BEGINNINGS) or name.endswith(_ENDS):
        return False
    return name in _TOKENS or name.endswith(_ENDS_OF_TOKENS)


def _forms_of_secrets(address: str, uri: str) -> set[str]:
    """Return the secrets of an address, in the forms in which clients and servers write them."""
    forms: set[str] = set()
    for secret in _values(address, uri):
        plain = unquote(secret)
        user, _, password = plain.partition(":")
        forms |= {secret, plain, quote(plain, safe=""), repr(secret)[1:-1], user, password}
        forms.add(base64.b64encode(plain.encode("utf-8", "replace")).decode())
    return {form for form in forms if len(form) >= _SHORTEST and HIDDEN not in form}


def _values(address: str, uri: str) -> Iterator[str]:
    """Yield the parts of an address that stand for `…` in its public form."""
    first, *between = _IS_HIDDEN.split(uri)
    start = len(first)
    for n, text in enumerate(between, 1):
        end = len(address) - len(text) if n == len(between) else address.find(text, start)
        if end < start:  # not a form of this address
            return
        yield address[start:end]
        start = end + len(text)


def _cut_out(message: str, secrets: Collection[str]) -> str:
    """Replace secrets in a message, also where only their first characters are there."""
    by_head: dict[str, list[str]] = defaultdict(list)
    for secret in secrets:
        by_head[secret[:_SHORTEST_PART]].append(secret)
    if not by_head:
        return message
    parts, end = [], 0
    # The longest heads first, because a short secret may be the beginning of another.
    heads = re.compile("|".join(map(re.escape, sorted(by_head, key=len, reverse=True))))
    while match := heads.search(message, end):
        rest = message[match.start() :]
        length = max(_common(rest, secret) for secret in by_head[match[0]])
        parts += [message[end : match.start()], HIDDEN]
        end = match.start() + length
    return "".join([*parts, message[end:]])


def _common(text: str, other: str) -> int:
    """Return the length of the common beginning of two texts."""
    pairs = zip(text, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(text), len(other)))
