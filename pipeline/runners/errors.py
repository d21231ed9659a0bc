"""What went wrong, in one line, from all that runners say."""

from __future__ import annotations

import re

_OURS = re.compile(r"transforms\.errors\.(RunError|UserError): (.*)$", re.M)
# What Beam adds to a worker's message, and Dataflow after it.
_STAGE = re.compile(r" \[while running [^]]*\]$", re.M)
_PASSED_THROUGH = re.compile(r"^passed through:$.*", re.M | re.S)
# What Java adds, where a runner is written in it.
_JAVA_FRAME = re.compile(r"\s*(at [\w.$/<>]+\(|\.\.\. \d+ more)")
_TRACEBACK = "Traceback (most recent call last)"


def own_words(text: str) -> str:
    """A message without what Beam adds to it."""
    return _STAGE.sub("", text.strip())


def own_error(text: str) -> str | None:
    """The message of an error of ours that a runner has wrapped."""
    found = _OURS.findall(own_words(text))
    return found[-1][1] if found else None


def cause_of(text: str) -> str:
    """The line that says what went wrong; empty where none does."""
    if ours := own_error(text):
        return ours
    lines = _PASSED_THROUGH.sub("", own_words(text)).splitlines()
    said = [line.strip() for line in lines if line.strip() and not _JAVA_FRAME.match(line)]
    if not said:
        return ""
    return said[-1] if is_traceback(text) else said[0]


def cause_of_error(error: BaseException) -> str:
    """The same of an exception; gRPC's tell it in a method of their own."""
    details = getattr(error, "details", None)
    text = details() if callable(details) else str(error)
    return cause_of(text or "") or repr(error)


def is_traceback(text: str) -> bool:
    """Whether a text is what a worker's exception looks like."""
    return _TRACEBACK in text
