"""First bytes of a list: signs that a file cannot be read as lines or CSV, and the remedies."""

from __future__ import annotations

import csv
import json
import re
import struct
from typing import Final

import google_crc32c

from labelbeam.transforms.inputs.corpus import CorpusKind

# Enough for a header and some hundred lines.
START_BYTES: Final = 1 << 16

_AS_LINES = "Write its URIs to a text file, one a line, or to a CSV with a column uri"
_MAGICS = (
    (0, b"PAR1", "Parquet"),
    (0, b"ORC", "ORC"),
    (0, b"Obj\x01", "Avro"),
    (0, b"ARROW1", "Arrow"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"PK\x03\x04", "a ZIP archive or an Excel workbook"),
    (0, b"\xd0\xcf\x11\xe0", "an Excel workbook"),
    (257, b"ustar", "a tar archive"),
)
_IMAGE_MAGICS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
# Bytes that text never has. Without one, ORC, PAR1 or GIF8 is the beginning of a name, as in "ORCID,uri".
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_UTF_32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# Delimiters of tables that are not CSV, by name.
_DELIMITERS = {"\t": "tabs", ";": "semicolons", "|": "bars"}
# What people call the column of URIs, most likely first.
_URI_NAMES = (
    *("uri", "url", "image_uri", "image_url", "image_path", "image", "path", "file_path", "filepath"),
    *("file_name", "filename", "file", "link", "href", "src"),
)


def explain_unreadable(start: bytes, kind: CorpusKind, is_declared: bool = False) -> str | None:
    """Explain why a list cannot be read, from its first bytes.

    Args:
      start: Up to `START_BYTES`, decompressed.
      kind: `lines` or `csv`.
      is_declared: Whether the user declared the kind, so that `lines` may begin like the header of a CSV.

    Returns:
      What the file is and a remedy, to follow the file's name; None if nothing speaks against it.
    """
    for explain in (_explain_binary, _explain_encoding, _explain_text):
        if message := explain(start):
            return message
    line = _first_line(start)
    if kind == "csv":
        return _explain_header(line)
    return None if is_declared else _explain_first_line(line)


def _explain_binary(start: bytes) -> str | None:
    if not _BINARY.search(start):
        return None
    for offset, magic, name in _MAGICS:
        if start[offset:].startswith(magic):
            return f"is {name}, which is not read as a list. {_AS_LINES}"
    if _is_tfrecord(start):
        return f"is a TFRecord file, which is not read as a list. {_AS_LINES}"
    if start.startswith(_IMAGE_MAGICS) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP"):
        return "is an image. Add --input_format=images to label it"
    return None


def _is_tfrecord(start: bytes) -> bool:
    """Check the masked CRC of the first record's length (tensorflow/core/lib/io/record_writer.h)."""
    if len(start) < 12:
        return False
    crc = google_crc32c.value(start[:8])
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.unpack_from("<I", start, 8)[0] == masked


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
    # A few broken lines among others that only UTF-8 has are bad rows. Where most lines that are not ASCII
    # are broken, and be it the only one, the encoding is another.
    if 2 * len(broken) > len(others):
        number = lines.index(broken[0]) + 1
        return (
            f"is not UTF-8 text: line {number} is {broken[0][:80]!r}. Convert it, such as with "
            "iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW_FILE"
        )
    return None


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _explain_text(start: bytes) -> str | None:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith((b"{", b"[")) and _is_json(text):
        return f"is JSON, which is not read as a list. {_AS_LINES}"
    if text.startswith(b"<"):
        return f"is a web page or XML, which is not read as a list. {_AS_LINES}"
    if b"\r" in start and b"\n" not in start and start.count(b"\r") > start.endswith(b"\r"):
        return r"ends its lines with CR alone. Convert it: tr '\r' '\n' < FILE > NEW_FILE"
    return None


def _is_json(text: bytes) -> bool:
    if text.startswith((b"[", b"{")) and text[1:].lstrip()[:1] in (b"{", b"[", b'"', b"]", b"}", b""):
        return True
    try:
        json.loads(text.split(b"\n")[0])
    except ValueError:
        return False
    return True


def _first_line(start: bytes) -> str:
    return start.decode("utf-8-sig", "replace").partition("\n")[0].removesuffix("\r")


def _explain_first_line(line: str) -> str | None:
    for delimiter in ("\t", ",", ";", "|"):
        names = [name.strip().strip('"').lower() for name in line.split(delimiter)]
        if len(names) > 1 and (delimiter == "\t" or set(names) & set(_URI_NAMES)):
            if delimiter == ",":
                return "begins with the header of a CSV. Add --input_format=csv"
            return f"has columns separated by {_DELIMITERS[delimiter]}. Save it as CSV, with commas"
    if line.strip().strip('"').lower() in _URI_NAMES:
        return f"begins with the header {line.strip()!r}. Add --input_format=csv, or delete the line"
    return None


def _explain_header(line: str) -> str | None:
    for delimiter, name in _DELIMITERS.items():
        if delimiter in line and "," not in line:
            return f"has columns separated by {name}. Save it as CSV, with commas"
    return None


def parse_header(start: bytes) -> tuple[str, ...]:
    """Return the column names of a CSV."""
    try:
        return tuple(next(csv.reader([_first_line(start)], strict=True), ()))
    except csv.Error:
        return ()


def explain_names(names: tuple[str, ...], line: str) -> str | None:
    """Explain what is wrong with a CSV's column names."""
    if not names or len({name.casefold() for name in names}) < len(names) or "" in names:
        return (
            f"begins with {line[:200]!r}, which is no header of distinct column names. Put a line with the "
            "columns' names first"
        )
    if any("://" in name or name.startswith("/") for name in names):
        return (
            f"begins with data where its header should be: {line[:200]!r}. Put a line with the columns' "
            "names first, or add --input_format=lines if each line is one URI"
        )
    return None


def suggest_uri_column(names: tuple[str, ...]) -> str | None:
    """Return the column that most likely holds the URIs."""
    by_name: dict[str, str] = {_plain(name): name for name in reversed(names)}
    return next((by_name[name] for name in map(_plain, _URI_NAMES) if name in by_name), None)


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
