"""The cause of a failure, in one line, from the messages of runners."""

from __future__ import annotations

import re

# Runners and clients of services raise exceptions of any type, which change with their versions. All broad
# `except` clauses around them use this name, because one without it is then a mistake.
FOREIGN_ERRORS = (Exception,)

_OURS = re.compile(r"transforms\.errors\.(RunError|UserError): (.*)$", re.M)
# Text that Beam appends to a worker's message, and text that Dataflow appends to that.
_STAGE = re.compile(r" \[while running [^]]*\]$", re.M)
_PASSED_THROUGH = re.compile(r"^passed through:$.*", re.M | re.S)
# Lines of a Java stack trace, because some runners are written in Java.
_JAVA_FRAME = re.compile(r"\s*(at [\w.$/<>]+\(|\.\.\. \d+ more)")
_TRACEBACK = "Traceback (most recent call last)"
# Remedies by words of Beam's messages.
_REMEDIES = {"fetch remote prism binary": "Check the network, or set --prism_location to a copy of Prism."}


def without_step(text: str) -> str:
    """Return a message without the names of steps that Beam appends."""
    return _STAGE.sub("", text.strip())


def own_message(text: str) -> str | None:
    """Return the message of labelbeam's own error in a runner's text; None if there is none."""
    messages = _OURS.findall(without_step(text))
    # The last one, because in a chained traceback it is the error that was raised at last.
    return messages[-1][1] if messages else None


def cause_of(text: str) -> str:
    """Return the line with the cause of a failure; empty if there is none."""
    if ours := own_message(text):
        return ours
    lines = _PASSED_THROUGH.sub("", without_step(text)).splitlines()
    lines = [line.strip() for line in lines if line.strip() and not _JAVA_FRAME.match(line)]
    if not lines:
        return ""
    # Python prints the exception below its traceback; other messages begin with the cause.
    return lines[-1] if is_traceback(text) else lines[0]


def cause_of_error(error: BaseException) -> str:
    """Return the line with the cause of an exception."""
    # gRPC's errors have the cause in a method, because their text spans many lines.
    details = getattr(error, "details", None)
    text = details() if callable(details) else str(error)
    return cause_of(text or "") or repr(error)


def remedy_of(cause: str) -> str:
    """Return the remedy for a cause that Beam names without one; empty if none is known."""
    return next((remedy for words, remedy in _REMEDIES.items() if words in cause), "")


def is_traceback(text: str) -> bool:
    """Return whether a text holds the traceback of a worker."""
    return _TRACEBACK in text
