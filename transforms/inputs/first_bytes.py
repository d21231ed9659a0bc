"""First bytes of a list: signs of its format, and of files that are not read, with the remedies."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from typing import Final

# Enough for a header and some hundred lines.
START_BYTES: Final = 1 << 16

_AS_LINES = "Write its URIs to a text file, one a line, or to a CSV, Parquet or JSON file with a column uri"
# Formats in which lists are often kept. Other binary formats are refused for their NUL bytes.
_MAGICS = (
    (0, b"ARROW1", "Arrow"),
    (0, b"PARE", "an encrypted Parquet file"),
    (0, b"ORC", "ORC"),
    (0, b"Obj\x01", "Avro"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook"),
)
# Archives, whose images are labelled, with the remedies.
_ARCHIVES = (
    (
        *(0, b"PK\x03\x04", "a ZIP archive or an Excel workbook"),
        "Add --input_format=zip to label the images inside, or save the workbook's table as CSV",
    ),
    (257, b"ustar", "a tar archive", "Add --input_format=tar to label the images inside"),
)
_IMAGE_MAGICS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
# Bytes that text never has. Without one, ORC, PAR1 or GIF8 is the beginning of a name, as in "ORCID,uri".
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f]")
# A byte beyond ASCII within a word, as in Latin-1's "M\xfcnchen". A damaged byte rather stands elsewhere.
_NAME = re.compile(rb"[A-Za-z\x80-\xff][\x80-\xff]|[\x80-\xff][A-Za-z]")
PARQUET = b"PAR1"
# A bracket alone may begin a path, as in "[1].jpg".
_JSON_ARRAY = re.compile(rb"\[\s*([\[{\"\]]|$)")
_JSON_OBJECT = re.compile(rb"\{\s*([\"}]|$)")
# Compared before UTF-16, because the mark of UTF-32 begins with that of UTF-16.
_UTF_32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# Usual delimiters of tables, by name.
DELIMITERS: Final = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_DELIMITER = re.compile(r"[\t,;|]")
# Usual names of a column of URIs, most likely first.
URI_NAMES: Final = (
    *("uri", "url", "image_uri", "image_url", "image_path", "image", "path", "file_path", "filepath"),
    *("file_name", "filename", "file", "link", "href", "src"),
)


def explain_binary(start: bytes) -> str | None:
    """Explain why a file is not text in UTF-8, from its first bytes.

    Args:
      start: Up to `START_BYTES`, decompressed.

    Returns:
      A sentence without subject and final stop, with a remedy, to follow the file's name; None for text.
    """
    return _explain_magic(start) or _explain_encoding(start)


def _explain_magic(start: bytes) -> str | None:
    if not _BINARY.search(start):
        return None
    if is_parquet(start):
        return "is Parquet. Add --input_format=parquet to read it"
    for offset, magic, name in _MAGICS:
        if start[offset:].startswith(magic):
            return f"is {name}, which is not read as a list. {_AS_LINES}"
    for offset, magic, name, remedy in _ARCHIVES:
        if start[offset:].startswith(magic):
            return f"is {name}. {remedy}"
    if is_image(start):
        return "is an image. Add --input_format=images to label it"
    return None


def is_image(start: bytes) -> bool:
    """Return whether a file is an image of a usual format."""
    is_magic = start.startswith(_IMAGE_MAGICS) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP")
    return is_magic and _BINARY.search(start) is not None


def is_parquet(start: bytes) -> bool:
    """Return whether a file is Parquet."""
    return start.startswith(PARQUET) and _BINARY.search(start) is not None


def is_json_array(start: bytes) -> bool:
    """Return whether a text is one array in JSON."""
    return _JSON_ARRAY.match(_strip(start)) is not None


def is_json_object(start: bytes) -> bool:
    """Return whether a text begins with an object in JSON."""
    return _JSON_OBJECT.match(_strip(start)) is not None


def _strip(start: bytes) -> bytes:
    return without_mark(start).lstrip()


def _explain_encoding(start: bytes) -> str | None:
    if start.startswith(_UTF_32) or start.startswith(_UTF_16):
        name = "UTF-32" if start.startswith(_UTF_32) else "UTF-16"
        return f"is text in {name}. Convert it: iconv -f {name} -t UTF-8 FILE > NEW_FILE"
    if b"\0" in start:
        number = start[: start.index(b"\0")].count(b"\n") + 1
        return f"has NUL bytes, the first in line {number}, so it is no text in UTF-8. {_AS_LINES}, in UTF-8"
    lines = start.split(b"\n")
    if len(start) >= START_BYTES:
        lines.pop()  # it may be cut within a character
    others = [line for line in lines if not line.isascii()]
    broken = [line for line in others if not _is_utf_8(line)]
    names = [line for line in broken if _NAME.search(line)]
    # A few broken lines are bad rows. They show another encoding if most lines are broken, or if names of
    # another encoding outnumber the names that only UTF-8 has, because such a list is mostly ASCII, too.
    is_other = 2 * len(broken) > sum(map(bool, lines)) or len(names) > len(others) - len(broken)
    if is_other:
        line = next(iter(names or broken))
        return (
            f"is not UTF-8 text: line {lines.index(line) + 1} is {line[:80]!r}. Convert it, such as with "
            "iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW_FILE"
        )
    return None


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def explain_markup(start: bytes) -> str | None:
    """Explain why a text is not a list or a CSV: JSON, XML, or lines that end with CR alone."""
    if is_json_array(start) or is_json_object(start):
        return "is JSON. Add --input_format=jsonl (an object a line) or json (an array of objects) to read it"
    if _strip(start).startswith(b"<"):
        return f"is a web page or XML, which is not read as a list. {_AS_LINES}"
    if b"\r" in start and b"\n" not in start and start.count(b"\r") > start.endswith(b"\r"):
        return r"ends its lines with CR alone. Convert it: tr '\r' '\n' < FILE > NEW_FILE"
    return None


def first_line(start: bytes) -> str:
    """Return the first line of a text, without a byte order mark."""
    return without_mark(start).decode("utf-8", "replace").partition("\n")[0].removesuffix("\r")


def without_mark(text: bytes) -> bytes:
    """Return a text without a byte order mark."""
    return text.removeprefix(codecs.BOM_UTF8)


def strip_text(text: str) -> str:
    """Return a text without space around it, and byte order marks, which joined lists have inside."""
    return text.strip("\ufeff \t\r\n")


def plain_name(name: str) -> str:
    """Return the form in which spellings of a name, such as `Image URL` and `image_url`, are equal."""
    return "".join(c for c in name.casefold() if c.isalnum())


_PLAIN_URI_NAMES = frozenset(map(plain_name, URI_NAMES))


def find_uri_columns(names: Iterable[str]) -> list[str]:
    """Return the columns, or paths to values, whose names are usual for URIs."""
    # Of a path, the last part is compared, too, because `data.image` holds an image as `image` does.
    return [
        name for name in names if {plain_name(name), plain_name(name.rpartition(".")[2])} & _PLAIN_URI_NAMES
    ]


def has_uri_column(start: bytes) -> bool:
    """Return whether a text begins with a header that names a usual column of URIs."""
    # Not names with a slash, because they are addresses, such as `../image`.
    return bool(find_uri_columns(name for name in _DELIMITER.split(first_line(start)) if "/" not in name))
