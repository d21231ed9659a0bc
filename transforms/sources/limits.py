"""Limits of requests, and the result of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from labelbeam.transforms.errors import ImageError, Reason, UserError
from labelbeam.transforms.sources.public import AllowedHosts, HostError

# Longest wait for a connection. A constant, because a server that needs longer is down or unreachable.
_CONNECT_TIMEOUT_SEC = 10.0


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Settings of requests to web servers.

    Attributes:
      user_agent: Value of the header; by default the project's name and version.
      headers: Further headers, by name. They are left out of `repr`, because values may be secret.
      ignore_opt_out: Whether images are fetched whose server opts out by `X-Robots-Tag`.
    """

    user_agent: str | None = None
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ignore_opt_out: bool = False


@dataclass(frozen=True, slots=True)
class Manners:
    """How one worker process treats hosts.

    Attributes:
      attempts: Most requests for an image.
      host_connections: Most requests to a host at once.
      host_rate: Most requests to a host per second; None for no bound.
    """

    attempts: int = 5
    host_connections: int = 8
    host_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one request, how many run at once, and settings of requests.

    Attributes:
      total_timeout_sec: Longest time for a whole image.
      max_bytes: Largest length of an image.
      connections: Number of threads that fetch. Each thread has its own connections.
      http: Settings of requests to web servers.
      manners: How often and how fast hosts are asked.
      allow_hosts: Names, globs, addresses and CIDR blocks of hosts that may be fetched from, though their
        addresses are not public.
    """

    total_timeout_sec: float = 60.0
    max_bytes: int = 64_000_000
    connections: int = 32
    http: HttpSettings = HttpSettings()
    manners: Manners = Manners()
    allow_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            AllowedHosts(self.allow_hosts)
        except HostError as e:
            raise UserError(f"Limits: allow_hosts={self.allow_hosts!r} is not allowed: {e}.") from e

    @property
    def timeouts_sec(self) -> tuple[float, float]:
        """Longest wait for a connection, and for the bytes behind it."""
        return min(_CONNECT_TIMEOUT_SEC, self.total_timeout_sec), self.total_timeout_sec


class Fetched(NamedTuple):
    """An image's bytes, and a text that changes with them; None if the source has no versions."""

    data: bytes
    version: str | None


def too_large(limits: Limits, size_bytes: int | None = None) -> ImageError:
    """Return the error for an image over the byte limit."""
    size = f"{size_bytes / 1e6:,.1f} MB" if size_bytes else "the image"
    return ImageError(
        Reason.TOO_LARGE_BYTES, f"{size} is more than max_image_mb={limits.max_bytes / 1e6:g} allows"
    )


def timed_out(limits: Limits) -> ImageError:
    """Return the error for an image that took too long."""
    return ImageError(
        Reason.TIMEOUT,
        f"took longer than image_timeout_sec={limits.total_timeout_sec:g} allows, "
        f"or than {_CONNECT_TIMEOUT_SEC:g} s to connect",
    )
