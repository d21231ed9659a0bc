"""Errors of the project: one small tree.

| error | cause | effect |
|---|---|---|
| `ImageError` | one image | a `Failure` row |
| `UserError` | a mistake that the user can correct | exit status 2 |
| `RunError` | a run that cannot keep its promises | exit status 1 |
| any other | a defect | the bundle fails |
"""

from __future__ import annotations

import enum
import errno


class Reason(enum.StrEnum):
    """Reasons why an image has no labels: the closed set of the `reason` column."""

    BAD_ROW = "bad_row"  # a line of the input that cannot be read
    AMBIGUOUS_ID = "ambiguous_id"  # one id, several URIs
    BAD_URI = "bad_uri"  # an unsupported scheme, or no URI at all
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    OPTED_OUT = "opted_out"  # X-Robots-Tag
    HOST_DOWN = "host_down"  # not requested, because its host does not respond
    RATE_LIMITED = "rate_limited"  # status 429
    HTTP_4XX = "http_4xx"  # other refusals, which stay
    HTTP_5XX = "http_5xx"  # errors of the server, which may pass
    BAD_RESPONSE = "bad_response"  # no HTTP, or a response that no client can use, such as 501
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"  # temporary DNS failure, refused or broken connection
    FORBIDDEN_ADDRESS = "forbidden_address"  # not public, and not in --allow_hosts
    UNKNOWN_HOST = "unknown_host"  # a name that does not exist
    TLS_ERROR = "tls_error"  # a certificate that is not trusted or names another host
    TOO_LARGE_BYTES = "too_large_bytes"
    TOO_LARGE_PIXELS = "too_large_pixels"
    OUTSIDE_IMAGE = "outside_image"  # less than half of a box lies in its image
    EMPTY = "empty"  # zero bytes
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    UNSUPPORTED = "unsupported"  # an image, in a format or mode we can't read
    DECODE_ERROR = "decode_error"
    DECODE_MEMORY = "decode_memory"  # more memory than its loader may take
    DECODE_TIMEOUT = "decode_timeout"
    DECODER_CRASHED = "decoder_crashed"  # it ended its process, twice
    MODEL_ERROR = "model_error"
    MODEL_OOM = "model_oom"  # memory does not suffice for one image


# Reasons that lie in a line of the input. Rows of these reasons are selected again in every run, because the
# user may have corrected the line. Nothing was fetched for them.
FAULTS_OF_THE_INPUT = frozenset((Reason.BAD_ROW, Reason.AMBIGUOUS_ID))


# `truncated` of a response's body; images whose bytes all arrived are not fetched again.
_MAY_HEAL = frozenset(
    (
        *(Reason.RATE_LIMITED, Reason.HTTP_5XX, Reason.TIMEOUT, Reason.UNREACHABLE, Reason.HOST_DOWN),
        Reason.TRUNCATED,
    )
)


def may_heal(reason: Reason) -> bool:
    """Return whether a request that failed for a reason may succeed when it is repeated."""
    return reason in _MAY_HEAL


# Numbers of OSErrors for a full disk, or an exhausted quota.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class LabelbeamError(Exception):
    """The root of the tree."""


class ImageError(LabelbeamError):
    """An image that cannot be labelled; the run goes on.

    Attributes:
      reason: Reason, one of the closed set.
      retry_after_sec: Time after which a server that is overloaded expects the next request, 0 if it names
        none; None if no server has said that it is overloaded.
    """

    def __init__(self, reason: Reason, message: str, retry_after_sec: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_sec = retry_after_sec


class UserError(LabelbeamError):
    """A mistake that the user can correct; the message has the value and the remedy."""


class RunError(LabelbeamError):
    """A run that cannot go on, or that does not account for every input."""


def describe_error(error: Exception) -> str:
    """Return the message of an error without number, type and final stop."""
    # The first of a BeamIOError's errors, because it has one per path, and its own text is a dictionary.
    if details := getattr(error, "exception_details", None):
        error = next(iter(details.values()))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename!r}" if error.filename else error.strerror
    return str(error).rstrip(".")
