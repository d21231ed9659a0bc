"""Sockets of a request, to addresses that are public or allowed."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

from labelbeam.transforms.sources.libcurl import pycurl
from labelbeam.transforms.sources.public import AllowedHosts, describe_fault, entry_of


class Sockets:
    """The sockets that libcurl uses for one request.

    Attributes:
      refused: The message for the address that was refused last; empty if none was.
    """

    def __init__(self, allowed: AllowedHosts | None, url: str) -> None:
        """Prepare for a request.

        Args:
          allowed: Hosts that are allowed besides public addresses; None for all hosts.
          url: URL of the request in ASCII.
        """
        self.refused = ""
        self._allowed = allowed
        self._url = url
        self._sockets: list[socket.socket] = []

    def open(self, _purpose: int, address: tuple[int, int, int, Any]) -> socket.socket | int:
        """Open a socket for libcurl, or refuse.

        The check is made here, because libcurl passes the very address that it connects to. A lookup before
        the request could have another result.
        """
        family, kind, protocol, (ip, *_) = address
        if self._allowed and (message := self._fault_of(ip, self._allowed)):
            self.refused = message
            return pycurl.SOCKET_BAD
        try:
            opened = socket.socket(family, kind, protocol)
        except OSError:  # a machine without IPv6
            return pycurl.SOCKET_BAD
        self._sockets.append(opened)
        return opened

    def close(self) -> None:
        """Close the sockets. libcurl has copies of their descriptors, and closes these itself."""
        for opened in self._sockets:
            opened.close()

    def _fault_of(self, ip: str, allowed: AllowedHosts) -> str:
        fault = describe_fault(ip)
        if not fault:
            return ""
        host = urlsplit(self._url).hostname or ""
        if allowed.has(host, ip):
            return ""
        name = ip if host == ip else f"{host} has the address {ip}, which"
        remedy = f"rerun with --allow_hosts={entry_of(host, ip)}"
        return f"{name} is {fault}, and not public. If it is yours, {remedy}"
