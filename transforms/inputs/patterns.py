"""Patterns of globs, and their literal beginnings."""

from __future__ import annotations

import bisect
import os
import re

import regex

from labelbeam.transforms.files import translate_glob
from labelbeam.transforms.sources.addresses import split_gcs

# `escape_glob` writes a character that is meant literally as a set of one.
_ESCAPED = re.compile(r"\[([*?[])\]")
_PLAIN = re.compile(r"(?:\[[*?[]\]|[^*?[])*")
# Wildcards within a folder: `?` and sets are left out, because they match a slash, too.
_WITHIN_FOLDER = re.compile(r"(?:[^*?\[/]|\*(?!\*))*")
# Line breaks, which names of objects cannot have, and surrogates, which are no characters.
_LINE_BREAKS, _SURROGATES, _CODES = (0x0A, 0x0D), range(0xD800, 0xE000), 0x110000


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Translate a glob, in which `**/` stands for any number of folders, none included, as in shells.

    Raises:
      ValueError: A set has a range without members, such as `[b-a]`.
    """
    parts = [translate_glob(part) for part in pattern.split("/**/")]
    flags, end = "(?ms)", r"\Z"
    joined = "/(?:.*/)?".join(part.removeprefix(flags).removesuffix(end) for part in parts)
    try:
        # Beam's `*` excludes backslashes, which are part of names on Linux: such files would vanish.
        return re.compile(flags + joined.replace(r"[^/\\]*", "[^/]*") + end)
    except re.error as e:
        raise ValueError(f"{pattern!r} is no pattern: {e.msg}") from e


def root_of(pattern: str) -> tuple[str, int | None]:
    """Return the deepest folder that holds all matches of a pattern, and how far below it they can lie.

    The root of a pattern without wildcards is the file itself.
    """
    literal, rest = _split_literal(pattern)
    if not rest:
        return literal, 0
    return os.path.dirname(literal), None if "**" in pattern else rest.count("/")


def _split_literal(pattern: str) -> tuple[str, str]:
    """Return the literal beginning of a pattern without escapes, and the rest from the first wildcard on."""
    plain = _PLAIN.match(pattern)
    assert plain
    return _ESCAPED.sub(r"\1", plain.group()), pattern[plain.end() :]


class ObjectGlob:
    """A pattern over the names of a bucket.

    Attributes:
      bucket: The bucket.
      root: Address of the bucket, with a slash at its end.
      prefix: Literal beginning of all names that match.
      delimiter: A slash if no match has one behind the prefix; else empty.
    """

    def __init__(self, pattern: str) -> None:
        literal, rest = _split_literal(pattern)
        self.bucket, self.prefix = split_gcs(literal)
        self.root = literal[: len(literal) - len(self.prefix)]
        if not self.root.endswith("/") or not self.bucket:
            raise ValueError(f"{pattern!r} should be gs://BUCKET/NAME, and a bucket's name has no wildcards")
        self.delimiter = "/" if _WITHIN_FOLDER.fullmatch(rest) else ""
        compiled = compile_glob(pattern)
        self._matches = compiled.match
        # By `regex`, because `re` can't tell whether a text is the beginning of a match.
        self._can_begin = regex.compile(compiled.pattern, regex.VERSION0).fullmatch

    def matches(self, name: str) -> bool:
        """Return whether an object is a match.

        Names that end in a slash are none, because consoles make such empty objects to show folders.
        """
        return not name.endswith("/") and self._matches(self.root + name) is not None

    def next_match(self, name: str) -> str | None:
        """Return a name behind which the next match can lie.

        Returns:
          The name itself, or the name behind all that begin as no match does; None if there is none behind.
        """
        if self._can_match(name):
            return name
        # The shortest beginning that no match has, because the most names are skipped with it.
        lengths = range(len(name) + 1)
        length = bisect.bisect_left(lengths, True, key=lambda length: not self._can_match(name[:length]))
        return name_behind(name[:length])

    def _can_match(self, beginning: str) -> bool:
        return self._can_begin(self.root + beginning, partial=True) is not None


def name_behind(beginning: str) -> str | None:
    """Return the first name behind all with a beginning, in the order of UTF-8; None if there is none."""
    while beginning:
        code = ord(beginning[-1]) + 1
        if code in _LINE_BREAKS:
            code += 1
        elif code in _SURROGATES:
            code = _SURROGATES.stop
        beginning = beginning[:-1]
        if code < _CODES:
            return beginning + chr(code)
    return None
