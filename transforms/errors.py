"""The project's own errors: one small tree.

`ImageError` is an image's fault and becomes a `Failure` row. `UserError` is a
mistake the user can mend and ends the command with exit status 2. `RunError`
is a run that could not keep its promises and ends with exit status 1.
Anything else is a defect, and fails the bundle it happens in.
"""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """Why an image has no labels: the closed set of the `reason` column."""

    BAD_ROW = "bad_row"  # a line of the input that cannot be read
    AMBIGUOUS_ID = "ambiguous_id"  # one id, several URIs
    BAD_URI = "bad_uri"  # no such scheme, or not a URI at all
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"  # DNS, refused or broken connection, TLS
    TOO_LARGE_BYTES = "too_large_bytes"
    TOO_LARGE_PIXELS = "too_large_pixels"
    EMPTY = "empty"  # zero bytes
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    UNSUPPORTED = "unsupported"  # an image, in a format or mode we can't read
    DECODE_ERROR = "decode_error"
    MODEL_ERROR = "model_error"
    MODEL_OOM = "model_oom"  # memory does not suffice for one image


# Failures of the input, not of an image: nothing was fetched.
FAULTS_OF_THE_INPUT = frozenset((Reason.BAD_ROW, Reason.AMBIGUOUS_ID))


class LabelbeamError(Exception):
    """The root of the tree."""


class ImageError(LabelbeamError):
    """One image cannot be labelled; the rest of the run is not concerned.

    Attributes:
      reason: The kind of fault, one of the closed set.
      attempts: How often the failing step was tried.
    """

    def __init__(self, reason: Reason, message: str, attempts: int = 1) -> None:
        super().__init__(message)
        self.reason = reason
        self.attempts = attempts

    def __reduce__(self) -> tuple[type, tuple[Reason, str, int]]:
        return type(self), (self.reason, str(self), self.attempts)


class UserError(LabelbeamError):
    """A mistake the user can mend; the message shows the value and the remedy."""


class RunError(LabelbeamError):
    """A run that cannot go on, or that does not account for every input."""


def told_by(error: Exception) -> str:
    """What an error says, without its number, its type and a stop at the end."""
    if details := getattr(error, "exception_details", None):  # Beam's, by path
        error = next(iter(details.values()))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
    return str(error).rstrip(".")
