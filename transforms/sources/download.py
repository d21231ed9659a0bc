"""Downloads of files of any size, piece by piece."""

from __future__ import annotations

import dataclasses
import random
import time
from typing import BinaryIO, Final
from urllib.parse import unquote, urlsplit

from labelbeam.transforms.errors import ImageError, Reason, may_heal
from labelbeam.transforms.sources.curl import HttpClient
from labelbeam.transforms.sources.limits import Limits
from labelbeam.transforms.sources.responses import refusal_of, secrets_in
from labelbeam.transforms.sources.urls import basic_login, to_ascii

_HEADERS: Final = (b"Accept: */*", b"Accept-Encoding: identity")
# Limits of a whole file; a server that falls silent is given up earlier.
_LONGEST_SEC, _LARGEST_BYTES = 24 * 3600.0, 1 << 50
_LONGEST_PAUSE_SEC = 60.0
# Encodings that show in the first bytes of a file, or that servers name and don't apply.
_LEGIBLE = frozenset(("", "identity", "gzip", "x-gzip", "zstd", "aws-chunked"))


def download(address: str, file: BinaryIO, limits: Limits) -> None:
    """Download a file, by the rules of images: redirects, certificates, public addresses and headers.

    Args:
      address: Address of `http://` or `https://`.
      file: Output file; bytes of failed attempts are removed.
      limits: Settings of requests, allowed hosts, and the number of attempts; the size has no limit.

    Raises:
      ImageError: The file can't be fetched.
      OSError: The file can't be written.
    """
    whole = dataclasses.replace(
        limits,
        total_timeout_sec=_LONGEST_SEC,
        max_bytes=_LARGEST_BYTES,
        # X-Robots-Tag is about images, and each image has its own X-Robots-Tag check.
        http=dataclasses.replace(limits.http, ignore_opt_out=True),
    )
    client = HttpClient(whole, lambda _: None)
    for attempt in range(1, limits.manners.attempts + 1):
        try:
            return _fetch(client, address, file)
        except ImageError as e:
            if not may_heal(e.reason) or attempt == limits.manners.attempts:
                raise
            pause_sec = 2 ** (attempt - 1) * random.uniform(0.5, 1)
            time.sleep(min(_LONGEST_PAUSE_SEC, max(pause_sec, e.retry_after_sec or 0.0)))
    return None


def _fetch(client: HttpClient, address: str, file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()
    login = basic_login(address)
    headers = client.limits.http.headers
    private = [
        f"{name}: {value.strip()}".encode()
        for name, value in headers
        if not (login and name.lower() == "authorization")
    ]
    response = client.get(to_ascii(address), _HEADERS, None, [*private, *login], sink=file.write)
    if response.status not in (200, 203):
        texts = [value for _, value in headers] + [unquote(urlsplit(address).netloc.rpartition("@")[0])]
        raise refusal_of(response, secrets={part for text in texts for part in secrets_in(text)})
    encoding = response.headers.get("content-encoding", "").lower().strip()
    if encoding not in _LEGIBLE:
        raise ImageError(Reason.BAD_RESPONSE, f"the server has compressed the file as {encoding!r:.50}")
