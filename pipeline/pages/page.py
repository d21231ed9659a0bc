"""The frame of a page: templates, and the formats of values in them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from labelbeam import __version__
from labelbeam.pipeline.results.text import counted
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import exists, file_errors_as, is_folder, open_file, write_file
from labelbeam.transforms.sources.secrets import HIDDEN

# Largest page. 5 MB, because a page is sent by mail and opened on phones.
MAX_BYTES = 5_000_000
# Beginning of a page's element that names its program, by which an older page is recognised.
GENERATOR = '<meta name="generator" content="labelbeam'
# Most characters of one text. Longer ones are cut in the middle, because both ends of an address matter.
_LONGEST_TEXT = 300
# Control characters, as the pictures that Unicode has of them, because a browser drops some of them.
# Those that turn the direction are replaced, because "gpj.exe" must not be seen where "exe.jpg" stands.
_TURNS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_PICTURES = {
    **{n: 0x2400 + n for n in range(0x20)},
    **{0x7F: 0x2421, **dict.fromkeys((*range(0x80, 0xA0), *_TURNS), 0xFFFD)},
}


def render(template: str, **values: Any) -> str:
    """Return the page of a template in this folder, of which each value is escaped."""
    return _environment().get_template(template).render(version=__version__, **values)


def check_page(path: str) -> None:
    """Check that a page can be written without loss: its path is free, or holds a page of labelbeam.

    Raises:
      UserError: The path is a folder, or holds another file.
    """
    if is_folder(path):
        raise UserError(f"page={path!r} is a folder. Give the name of a file.")
    if not exists(path):
        return
    with (
        file_errors_as(UserError, f"page={path!r} cannot be read", "Give another --page."),
        open_file(path) as f,
    ):
        beginning = f.read(2_000)
    if GENERATOR.encode() not in beginning:
        raise UserError(f"page={path!r} is there already and is no page of labelbeam. Give another --page.")


def write_page(path: str, html: str) -> None:
    """Write a page, local or `gs://`.

    Raises:
      UserError: It can't be written.
    """
    with file_errors_as(UserError, f"page={path!r} cannot be written", "Check its folder and rights."):
        write_file(path, html.encode())


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
        {f.__name__: f for f in (count, share, score, file_size, text, counted, address, fraction)}
    )
    return environment


def count(number: float) -> str:
    """Return a whole number with commas."""
    return f"{number:,.0f}"


def share(part: float, whole: float) -> str:
    """Return a part in percent of the whole: `12.3%`, `0.12%`; a dash of nothing."""
    if not whole:
        return "–"  # noqa: RUF001  (a dash, as printed tables have it)
    percents = 100 * part / whole
    # Not 0.0% and 100.0%, because a few images among millions are not none.
    if 0 < percents < 0.005:
        return "<0.01%"
    if 99.95 <= percents < 100:
        return ">99.9%"
    return f"{percents:.2f}%" if 0 < percents < 1 else f"{percents:.1f}%"


def fraction(part: float, whole: float) -> str:
    """Return a number in CSS: the part as a fraction of the whole."""
    return f"{part / whole:.4f}" if whole else "0"


def score(value: float | None) -> str:
    """Return a score with three digits; a dash without one."""
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
