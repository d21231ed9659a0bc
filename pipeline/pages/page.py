"""The frame of a page: templates, and the formats of values in them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from labelbeam import __version__
from labelbeam.transforms.sources.secrets import HIDDEN

# Largest page. 5 MB, because a page is sent by mail and opened on phones.
MAX_BYTES = 5_000_000
# Most characters of one text. Longer ones are cut in the middle, because both ends of an address matter.
_LONGEST_TEXT = 300
# Control characters, as the pictures that Unicode has of them: a browser drops some of them, and NUL is no
# HTML.
_PICTURES = {**{n: 0x2400 + n for n in range(0x20)}, 0x7F: 0x2421, **dict.fromkeys(range(0x80, 0xA0), 0xFFFD)}


def render(template: str, **values: Any) -> str:
    """Return the page of a template in this folder, of which each value is escaped."""
    return _environment().get_template(template).render(version=__version__, **values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        autoescape=True,
        # An error, because a value that is missing would leave a hole in a page.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {f.__name__: f for f in (count, share, score, file_size, text, counted, address, percent)}
    )
    return environment


def count(number: float) -> str:
    """Return a whole number with commas."""
    return f"{number:,.0f}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 image`, `2 images`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def share(part: float, whole: float) -> str:
    """Return a part in percent of the whole: `12.3%`; `-` of nothing."""
    if not whole:
        return "–"  # noqa: RUF001  (a dash, as printed tables have it)
    percents = 100 * part / whole
    # Not 0.0% and 100.0%, because a few images among millions are not none.
    if 0 < percents < 0.05:
        return "<0.1%"
    if 99.95 <= percents < 100:
        return ">99.9%"
    return f"{percents:.1f}%"


def percent(part: float, whole: float) -> str:
    """Return a length in CSS: the part in percent of the whole."""
    return f"{100 * part / whole:.2f}%" if whole else "0%"


def score(value: float | None) -> str:
    """Return a score with three digits; `-` without one."""
    if value is None:
        return "–"  # noqa: RUF001
    # As above: a score of 0.99996 is not 1.
    return ">0.999" if 0.9995 <= value < 1 else "<0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def file_size(size_bytes: float) -> str:
    """Return a number of bytes in a unit that fits: `1.2 MB`."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:,.1f} {unit}"
    return f"{size_bytes:,.0f} B"


def text(value: object, most: int = _LONGEST_TEXT) -> str:
    """Return a text of others so that it can be seen: in one piece, its control characters as pictures."""
    visible = str(value).encode("utf-8", "replace").decode("utf-8").translate(_PICTURES)
    if len(visible) <= most:
        return visible
    return f"{visible[: most * 2 // 3]} … {visible[-most // 3 :]}"


def address(uri: str) -> str | None:
    """Return the address at which a person can open an image; None for local paths.

    Addresses that lack secrets are left out, because they lead to an error.
    """
    scheme, _, rest = uri.partition("://")
    if HIDDEN in uri or not rest:
        return None
    if scheme.lower() in ("http", "https"):
        # Quoted, because a browser drops line feeds and tabs, and goes on with another address.
        return quote(uri, safe="%/:=&?~#+!$,;'@()*[]")
    if scheme.lower() == "gs":
        return f"https://console.cloud.google.com/storage/browser/_details/{quote(rest)}"
    return None
