"""Responses: which of them are images, and the reasons why others are none."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

from labelbeam.transforms.errors import ImageError, Reason, may_heal
from labelbeam.transforms.sources.limits import Limits, too_large

NOT_MODIFIED: Final = 304
# Longest body of a refusal that is read. Short ones are read, because the connection can be used again then.
MAX_REFUSAL_BYTES: Final = 64 << 10
# Longest part of a refusal's text in a message.
_MAX_WORDS = 200
# Least length of a part of a header that counts as a secret.
_SECRET_LENGTH = 4
# Content encodings of one body, and parts of one encoding. Servers send one of each; a body of a million
# parts would take hours to decode.
_MAX_ENCODINGS, _MAX_PARTS = 4, 100

# Statuses of a redirect (RFC 9110, 15.4).
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_REASON_OF_STATUS = {
    401: Reason.FORBIDDEN,
    403: Reason.FORBIDDEN,
    404: Reason.NOT_FOUND,
    408: Reason.TIMEOUT,
    410: Reason.NOT_FOUND,
    429: Reason.RATE_LIMITED,
    504: Reason.TIMEOUT,
    # Errors of the server that do not pass (RFC 9110, RFC 2295, RFC 5842, RFC 2774, RFC 6585).
    **dict.fromkeys((501, 505, 506, 508, 510, 511), Reason.BAD_RESPONSE),
}
# Statuses by which a server asks for fewer requests, with or without `Retry-After`.
_OVERLOADED = frozenset((429, 503))
_REASON_OF_HUNDREDS = {4: Reason.HTTP_4XX, 5: Reason.HTTP_5XX}
_STATUS_LINE = re.compile(r"HTTP/[0-9.]+ ([0-9]{3})\b")
_NUMBER = re.compile("[0-9]{1,18}")
# Formats of zlib, tried in this order. Some servers send deflate without zlib's header.
_ZLIB_BITS = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}
_WHOLE_RANGE = re.compile(r"bytes 0-([0-9]{1,18})/([0-9]{1,18})", re.I)
# Also behind the name of an agent, as in `googlebot: noindex`.
_OPT_OUT = re.compile(r"(?<![\w-])(noai|noimageai|noindex|noimageindex)(?![\w-])", re.I)
_SECONDS = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,9})?")
_TAG = re.compile("<[^<>]*>")


class Response(NamedTuple):
    """A response.

    Attributes:
      status: Status; 0 if its headers did not end; 304 also for an image whose version is known, because some
        servers ignore conditions.
      headers: Values by names in lower case; values of a repeated name are joined by commas.
      body: Body as it was transferred, perhaps compressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def is_success(self) -> bool:
        """Whether the server has sent what was requested."""
        return 200 <= self.status < 300

    @property
    def location(self) -> str:
        """Address to which the response redirects; empty if it is no redirect."""
        return self.headers.get("location", "") if self.status in _REDIRECTS else ""

    @property
    def opt_out(self) -> str:
        """Word by which the server asks not to use the image; empty without."""
        has_image = self.is_success or self.status == NOT_MODIFIED
        found = _OPT_OUT.search(self.headers.get("x-robots-tag", ""))
        return found[1].lower() if found and has_image else ""

    @property
    def content_length(self) -> int | None:
        """Length of the body by its header; None if that is missing or no length."""
        text = self.headers.get("content-length", "")
        return int(text) if _NUMBER.fullmatch(text) else None


def parse_head(lines: Sequence[bytes]) -> Response:
    """Return the last response of which there are lines, without its body."""
    status, headers = 0, dict[str, str]()
    coming = 0
    for line in lines:
        if status >= 200:
            break  # trailers, which must not replace headers
        text = line.decode("latin-1").rstrip()
        name, colon, value = text.partition(":")
        if match := _STATUS_LINE.match(text):
            # Each 1xx is followed by another response.
            status, coming, headers = 0, int(match[1]), {}
        elif not text:
            status = coming
        elif colon:
            name, value = name.lower(), value.strip()
            # The first, as in browsers, because two addresses can't be joined.
            if name not in headers:
                headers[name] = value
            elif name != "location":
                headers[name] += f", {value}"
    return Response(status if status >= 200 else 0, headers)


def image_of(response: Response, limits: Limits, secrets: Collection[str] = ()) -> bytes:
    """Return an image without its content encodings.

    Args:
      response: The response to the last request.
      limits: Limits of the image.
      secrets: Texts that must not stand in a message.

    Raises:
      ImageError: The response is a refusal, or its body is missing, incomplete, damaged or too large.
    """
    if not response.is_success:
        raise refusal_of(response, secrets=secrets)
    if response.status == 206:
        _require_all(response)
    # Of statuses such as 200 an empty body is a file without bytes, for which decoding has its reason.
    if response.status not in (200, 203) and not response.body:
        raise ImageError(Reason.EMPTY, f"the server returned status {response.status} without a body")
    return _decoded(response, limits)


def _require_all(response: Response) -> None:
    """Check that a part which was not requested is the whole image.

    Raises:
      ImageError: `truncated`.
    """
    content_range = response.headers.get("content-range", "")
    match = _WHOLE_RANGE.fullmatch(content_range)
    if not match or not int(match[1]) + 1 == int(match[2]) == len(response.body):
        raise ImageError(
            Reason.TRUNCATED,
            f"the server returned status 206 and {len(response.body):,} bytes, with Content-Range "
            f"{content_range!r:.100}, though no range was requested",
        )


def refusal_of(
    response: Response, about: str = "", remedy: str = "", secrets: Collection[str] = ()
) -> ImageError:
    """Return the error for a response that is no image.

    Args:
      response: The response.
      about: Beginning of the message.
      remedy: Last sentence of the message.
      secrets: Texts that must not stand in the message, because servers may repeat what was sent.
    """
    status = response.status
    reason = _REASON_OF_STATUS.get(status) or _REASON_OF_HUNDREDS.get(status // 100, Reason.BAD_RESPONSE)
    words = _words_of(response, secrets)
    words = f": {words[:_MAX_WORDS]}{'…' if len(words) > _MAX_WORDS else ''}" if words else ""
    message = f"{about}the server returned status {status}{words}".rstrip(".") + remedy
    retry_after_sec = _retry_after_sec(response.headers) if may_heal(reason) else None
    if retry_after_sec is None and status in _OVERLOADED:
        retry_after_sec = 0.0
    return ImageError(reason, message, retry_after_sec)


def secrets_in(value: str) -> set[str]:
    """Return the texts of a header or a login that a server may repeat, as in `key … is not valid`."""
    # Parts, too, because a server that gets `Bearer TOKEN` repeats the token alone. Short ones are words.
    parts = re.split(r"[\s:;,=&@]+", value)
    return {value, *(part for part in parts if len(part) >= _SECRET_LENGTH)} - {""}


def _words_of(response: Response, secrets: Collection[str]) -> str:
    """Return the first line of a text in a body without secrets; empty if the body is no text."""
    limits = Limits(max_bytes=MAX_REFUSAL_BYTES)
    try:
        body = _decoded(response, limits)
    except ImageError:
        return ""
    if b"\0" in body or response.headers.get("content-type", "").lower().startswith("image/"):
        return ""
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError, RecursionError):
        text = _message_in(json.loads(text))
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "…")
    if text.lstrip().startswith("<"):
        text = _TAG.sub(" ", text)
    first = next(filter(None, map(printable, text.splitlines())), "")
    return "" if "\ufffd" in first[:_MAX_WORDS] else first


def printable(text: str) -> str:
    """Return a server's text as one line without control characters, because terminals obey these."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _message_in(document: dict) -> str:
    """Return the message in a JSON document, in the form of Google's APIs and of most others."""
    error = document.get("error", document)
    text = error if isinstance(error, str) else error["message"]
    return str(text)


def _retry_after_sec(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "")
    if _SECONDS.fullmatch(value):
        return max(0.0, float(value))
    at = _time_of(value)
    if at is None:
        return None
    # By the server's own clock, because clocks differ.
    return max(0.0, at - (_time_of(headers.get("date", "")) or time.time()))


def _time_of(date: str) -> float | None:
    try:
        at = parsedate_to_datetime(date)
        # HTTP's old format names no zone, and means UTC (RFC 9110, 5.6.7).
        return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return None


def _decoded(response: Response, limits: Limits) -> bytes:
    """Return a body without its content encodings.

    Encodings other than gzip and deflate are left as they are, because some servers name encodings that
    they don't apply, such as `aws-chunked`.
    """
    names = response.headers.get("content-encoding", "").lower().replace(" ", "").split(",")
    encodings = [name for name in reversed(names) if name in _ZLIB_BITS]
    if len(encodings) > _MAX_ENCODINGS:
        raise ImageError(Reason.DECODE_ERROR, f"the response has {len(encodings):,} content encodings")
    data = response.body
    for encoding in encodings:
        data = _inflate(data, _ZLIB_BITS[encoding], limits)
    return data


def _inflate(data: bytes, formats: Sequence[int], limits: Limits) -> bytes:
    parts: list[bytes] = []
    length = 0
    while data:
        if len(parts) == _MAX_PARTS:
            message = f"the response's content encoding has more than {_MAX_PARTS} parts"
            raise ImageError(Reason.DECODE_ERROR, message)
        try:
            decoder = zlib.decompressobj(formats[0])
            # At most one byte too many, because a few KB may stand for terabytes.
            part = decoder.decompress(data, limits.max_bytes + 1 - length)
        except zlib.error as e:
            if parts:  # bytes behind a whole stream are ignored, as browsers do
                break
            if len(formats) > 1:
                return _inflate(data, formats[1:], limits)
            raise ImageError(Reason.DECODE_ERROR, f"the response's content encoding is damaged: {e}") from e
        parts.append(part)
        length += len(part)
        if length > limits.max_bytes:
            raise too_large(limits)
        if not decoder.eof:
            raise ImageError(Reason.TRUNCATED, "the response's content encoding ends too early")
        data = decoder.unused_data
    return b"".join(parts)
