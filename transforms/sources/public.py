"""Addresses of the Internet that are public, and hosts that are the user's own."""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

import idna

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Blocks that are not public; the first that fits counts. From IANA's registries of special-purpose addresses
# (https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry) and of
# multicast. Not `ipaddress.is_global`, because its blocks depend on Python's patch version.
_NOT_PUBLIC: Final = {
    ipaddress.ip_network(block): kind
    for kind, blocks in (
        ("an unspecified address", "0.0.0.0/8 ::/128"),
        ("a loopback address", "127.0.0.0/8 ::1/128"),
        ("a private address", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10"),
        # With the metadata servers of clouds.
        ("a link-local address", "169.254.0.0/16 fe80::/10"),
        ("an address of Azure's platform", "168.63.129.16/32"),
        ("a shared address of providers", "100.64.0.0/10"),
        (
            "an address for documentation",
            "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20",
        ),
        ("an address for benchmarks", "198.18.0.0/15 2001:2::/48"),
        ("a multicast address", "224.0.0.0/4 ff00::/8"),
        # 2001::/23 has Teredo, ORCHID and anycast services. The last three are all of IPv6 but 2000::/3, the
        # only block with public addresses: with IPv4-compatible addresses and 64:ff9b:1::/48.
        ("a reserved address", "192.0.0.0/24 192.88.99.0/24 240.0.0.0/4 2001::/23 ::/3 4000::/2 8000::/1"),
    )
    for block in blocks.split()
}
# Blocks of IPv6 in which an IPv4 address is packed, and the number of bits behind that: IPv4-mapped, NAT64
# (RFC 6052) and 6to4. They are public if the packed address is.
_PACKED: Final = {
    ipaddress.IPv6Network("::ffff:0:0/96"): 0,
    ipaddress.IPv6Network("64:ff9b::/96"): 0,
    ipaddress.IPv6Network("2002::/16"): 80,
}
_NAME = re.compile(r"[a-z0-9_*?.-]+")
# Globs of addresses are refused, because names such as 10.0.evil.example match 10.0.*, too.
_LIKE_ADDRESS = re.compile(r"[0-9*?.]*[0-9.][0-9*?.]*")


class HostError(ValueError):
    """A text that names no host or network."""


class AllowedHosts:
    """Hosts that may be connected to, though their addresses are not public."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Parse names, globs, addresses and CIDR blocks.

        Raises:
          HostError: An entry is none of these.
        """
        if isinstance(entries, str):
            raise HostError(f"{entries!r} is a text: give a tuple of texts")
        parsed = [_parse(entry) for entry in entries]
        self._names = [entry for entry in parsed if isinstance(entry, str)]
        self._networks = [entry for entry in parsed if not isinstance(entry, str)]

    def has(self, host: str, address: str) -> bool:
        """Return whether a host is allowed by its name, or by its address.

        Args:
          host: Name in ASCII and lower case, as URLs have it.
          address: Address of the host that is connected to.
        """
        ip = ipaddress.ip_address(address)
        name = host.removesuffix(".")
        return any(ip in network for network in self._networks) or any(
            fnmatchcase(name, pattern) for pattern in self._names
        )


# Cached, because a list has few hosts, and some of them close the connection behind each image.
@functools.lru_cache(1024)
def describe_fault(address: str) -> str:
    """Return why an address is not public, as "a loopback address"; empty if it is public."""
    ip = ipaddress.ip_address(address)
    for block, bits in _PACKED.items():
        if ip in block:
            packed = ipaddress.IPv4Address((int(ip) >> bits) & 0xFFFFFFFF)
            fault = describe_fault(str(packed))
            return f"{packed} in another form, {fault}" if fault else ""
    return next((kind for block, kind in _NOT_PUBLIC.items() if ip in block), "")


def entry_of(host: str, address: str) -> str:
    """Return the entry of `AllowedHosts` for one host: its name, or the address of a host without one."""
    try:
        _parse(host)
    except HostError:
        return address
    return host


def _parse(text: str) -> str | _Network:
    entry = text.strip().lower()
    if network := _network_of(entry):
        if ipaddress.ip_interface(entry).ip != network.network_address:
            raise HostError(f"{text!r} is no CIDR block: write {network}")
        return network
    try:
        # Label by label, because idna would refuse the asterisk of a glob.
        labels = entry.removesuffix(".").split(".")
        name = ".".join(label if label.isascii() else idna.encode(label).decode() for label in labels)
    except UnicodeError as e:
        raise HostError(f"{text!r} is no name: {e}") from e
    if _LIKE_ADDRESS.fullmatch(name):
        raise HostError(f"{text!r} is no address: write several as a CIDR block, such as 10.0.0.0/8")
    if not _NAME.fullmatch(name):
        raise HostError(
            f"{text!r} is no name, glob, address or CIDR block; names have no scheme, port or path"
        )
    return name


def _network_of(entry: str) -> _Network | None:
    if "%" in entry:  # the zone of an IPv6 address, which networks would ignore
        return None
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None
