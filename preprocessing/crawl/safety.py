"""Which addresses a crawler may connect to: those of the public internet, however they are spelled.

Every address is judged, the one that a URL names and each one that a name resolves to, so that no list, redirect or
resolver leads behind the operator's own firewall. The networks are those of IANA's registries of special-purpose
addresses (RFC 6890 and its updates), written out: what Python calls global differs between its releases.
Not here: sockets and resolvers, which ask `refusal` before they connect.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Annotated

from pydantic import AfterValidator

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


def _checked_network(text: str) -> str:
    return str(ip_network(text, strict=False))


Network = Annotated[str, AfterValidator(_checked_network)]
"""A config's field for a network, such as 127.0.0.0/8 or a single address."""

_NOT_GLOBAL_4 = [
    (ip_network(text), name)
    for text, name in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud's own"),  # Azure's, public in form alone
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
]
_GLOBAL_6 = IPv6Network("2000::/3")
"""What has been given out so far: anything else is local, multicast or reserved."""
_NOT_GLOBAL_6 = [
    (ip_network(text), name)
    for text, name in (
        ("2001::/32", "Teredo"),
        ("2001::/23", "protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
    )
]
_LOCAL_6 = [
    (ip_network(text), name)
    for text, name in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
]
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)
_LOOPBACK_NAMES = re.compile(r"(?:.+\.)?localhost(?:\.localdomain)?|ip6-(?:localhost|loopback)")
_PART = re.compile(r"0x[0-9a-f]*|[0-9]+")
_LAST_IS_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")


def networks(texts: Sequence[str]) -> tuple[IPNetwork, ...]:
    """The networks of a config's `Network` fields."""
    return tuple(ip_network(text, strict=False) for text in texts)


def refusal(address: IPAddress, allowed: Sequence[IPNetwork] = ()) -> str | None:
    """Why not to connect to `address`, in a few words; None where it is public or in an `allowed` network.

    An IPv4 address mapped into IPv6 (RFC 4291) is judged as itself. One that a translator would reach (RFC 6052) is
    refused where it is not public, and an allowed IPv4 network does not open it: that is another machine's.
    """
    if isinstance(address, IPv6Address):
        address = IPv6Address(int(address))  # without its zone
        if address in _MAPPED:
            return refusal(_last_32_bits(address), allowed)
    if any(address in network for network in allowed if network.version == address.version):
        return None
    if isinstance(address, IPv4Address):
        return _named(address, _NOT_GLOBAL_4)
    if address in _NAT64:
        inside = refusal(_last_32_bits(address))
        return inside and f"NAT64 of {inside}"
    if address not in _GLOBAL_6:
        return _named(address, _LOCAL_6) or "reserved"
    if name := _named(address, _NOT_GLOBAL_6):
        return name
    if int(address) >> 32 & 0xFFFFFFFF in _ISATAP and (inside := refusal(_last_32_bits(address))):
        return f"ISATAP of {inside}"
    return None


def host_refusal(host: str, allowed: Sequence[IPNetwork] = ()) -> str | None:
    """Why not to connect to a host as it may be written, before any name is resolved; None where nothing says so.

    Never raises. A name other than the machine's own passes: what it resolves to is judged by `refusal`.
    """
    name = plain_host(host)
    if _LOOPBACK_NAMES.fullmatch(name):  # RFC 6761, section 6.3
        return refusal(IPv4Address(0x7F000001), allowed)
    address = address_of(host)
    if address is not None:
        return refusal(address, allowed)
    if not name:
        return "no host"
    if ":" in name or _LAST_IS_NUMBER.fullmatch(name):
        return "not an address"
    return None


def address_of(host: str) -> IPAddress | None:
    """The address that `host` spells, as the C library and browsers read it; None where it is a name or nothing.

    IPv4 in one to four parts, each decimal, octal (017) or hexadecimal (0x7f), the last one filling what is left;
    digits of other scripts, dots at the end, brackets and zones. Never raises.
    """
    name = plain_host(host)
    if ":" in name:
        try:
            return IPv6Address(name.partition("%")[0])
        except ValueError:
            return None
    parts = name.split(".")
    if len(parts) > 4 or not all(len(part) <= 64 and _PART.fullmatch(part) for part in parts):
        return None
    try:
        *first, last = (_number(part) for part in parts)
    except ValueError:  # 08 is no octal number
        return None
    if any(number > 255 for number in first) or last >= 256 ** (4 - len(first)):
        return None
    return IPv4Address(sum(number << 8 * (3 - i) for i, number in enumerate(first)) + last)


def plain_host(host: str) -> str:
    """`host` in lower case, in plain digits and dots, without brackets and the dot of the root."""
    name = unicodedata.normalize("NFKC", host).replace("\u3002", ".").lower().strip()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    return name.rstrip(".") if ":" not in name else name


def _number(part: str) -> int:
    if part.startswith("0x"):
        return int(part[2:] or "0", 16)
    return int(part, 8 if part.startswith("0") and part != "0" else 10)


def _last_32_bits(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFFFFFF)


def _named(address: IPAddress, table: Sequence[tuple[IPNetwork, str]]) -> str | None:
    return next((name for network, name in table if address in network), None)
