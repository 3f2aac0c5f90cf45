"""Addresses of the web as lists and `Location` headers give them, and as they go out: byte for byte.

    address = web_address("https://H.Example:443/a b.jpg?Signature=ab%2Fcd%3D#top")
    address.target      /a%20b.jpg?Signature=ab%2Fcd%3D     what the request line carries
    address.recorded    https://h.example/a%20b.jpg?Signature=ab%2Fcd%3D

What is percent-encoded stays as it is, since a signature may cover it, and so does a per cent sign that begins no
escape; only what a request line cannot carry is quoted. Nothing that a list or a server writes raises anything but
`Rejected`.
Not here: whether an address may be connected to (`preprocessing.crawl.safety`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address
from urllib.parse import unquote, urljoin

from yarl import URL

from preprocessing.crawl.safety import address_of
from preprocessing.reject import Reason, Rejected

_DEFAULT_PORTS = {"http": 80, "https": 443}
_SPLIT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.DOTALL)
_PLAIN = re.compile(
    r"(https?)://([a-z0-9.:-]+)((?:/(?!\.)[A-Za-z0-9_.~!$&'()*+,;=:@-]*)*(?:\?[A-Za-z0-9_.~!$&'()*+,;=:@/?-]*)?)"
)
"""Most addresses: nothing of them is another spelling of anything, but of the host."""
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*")
_UNCARRIED = re.compile(r"[^!-~]|[\"<>\\^`{|}]")
"""All but the characters that RFC 3986 reserves or leaves free, and per cent signs."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_LONE_PER_CENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(r"(?<!%)(?<!%[0-9A-Fa-f])%[0-9A-Fa-f]{2}")
"""But not one that would make an escape of the lone per cent sign before it."""
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_BLANK = " \t\r\n\f\v"


@dataclass(frozen=True, slots=True)
class WebAddress:
    """One place of the web; `target` is the path and query exactly as the request line carries them.

    `host` is in lower case and ASCII, an IPv6 address without brackets. `credentials` (user and password) are for
    this host alone, and stand in no record: neither `recorded` nor `key` nor the repr has them.
    """

    scheme: str
    host: str
    port: int
    target: str
    credentials: tuple[str, str] | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        """Scheme, host, and the port where it is not the scheme's own: what robots.txt speaks for (RFC 6454)."""
        return _origin(self.scheme, self.host, self.port)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def recorded(self) -> str:
        """The address as records and reports show it."""
        return self.origin + self.target

    @property
    def key(self) -> str:
        """One text for all spellings of this address: `recorded`, its percent-encoding normalised (RFC 3986, 6.2.2)."""
        return self.origin + _normalised(self.target)

    @property
    def buried_as(self) -> str:
        """What a tombstone knows it by: `key`, a lone per cent sign as `%25`, since servers take both for one."""
        target = self.target
        return self.origin + _normalised(_LONE_PER_CENT.sub("%25", target) if "%" in target else target)

    @property
    def wire(self) -> URL:
        """The URL to hand to aiohttp, which sends it unchanged; credentials are handed over by themselves."""
        # All of the target is the path: yarl drops a query that is empty.
        host = f"[{self.host}]" if ":" in self.host else self.host
        return URL.build(scheme=self.scheme, host=host, port=self.port, path=self.target, encoded=True)


def web_address(text: str, base: WebAddress | None = None) -> WebAddress:
    """The address that `text` is, relative to `base` if given; raises `Rejected` and nothing else.

    From a `Location`, bytes that are not UTF-8 stand as surrogates (PEP 383), and go out as those bytes.
    """
    where = "" if base is None else "redirect to "
    try:
        return _parsed(text.strip(_BLANK), base)
    except _Unfit as error:
        raise Rejected(Reason.BAD_URL, where + str(error)) from None


def host_of(address: WebAddress) -> str:
    """The server that an address is on, whose limits hold for it: http and https together, other ports apart."""
    return f"{address.host}:{address.port}" if address.port not in (80, 443) else address.host


@lru_cache(maxsize=65536)
def _origin(scheme: str, host: str, port: int) -> str:
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" if port == _DEFAULT_PORTS[scheme] else f"{scheme}://{host}:{port}"


class _Unfit(Exception):
    """What is wrong with an address, without any of its text: that may hold a password."""


def _parsed(text: str, base: WebAddress | None) -> WebAddress:
    if plain := _PLAIN.fullmatch(text):
        host, port = _plain_place(plain[2], _DEFAULT_PORTS[plain[1]])
        target = plain[3]
        return WebAddress(plain[1], host, port, target if target.startswith("/") else "/" + target)
    if _CONTROL.search(text):
        raise _Unfit("an address with control characters")
    if base is not None:
        text = _absolute(_ascii_location(text), base)
    if _LONE_SURROGATE.search(text):
        raise _Unfit("an address that is not Unicode text")
    split = _SPLIT.fullmatch(text)
    if split is None:
        raise _Unfit("no scheme, not http or https")
    scheme, slashes, authority, path, query, _ = split.groups()
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise _Unfit(f"{scheme[:20]}, not http or https")
    if not slashes:
        raise _Unfit("an address without a host")
    userinfo, at, place = authority.rpartition("@")
    if "\\" in authority:  # where the host begins, readers differ
        raise _Unfit("an address with a broken host")
    host, port = _host_and_port(place, _DEFAULT_PORTS[scheme])
    target = _quoted(_without_dots(path or "/") + (query or ""))
    user, _, password = userinfo.partition(":")
    credentials = (unquote(user), unquote(password)) if at and userinfo else None
    return WebAddress(scheme, host, port, target, credentials)


@lru_cache(maxsize=65536)
def _plain_place(place: str, default_port: int) -> tuple[str, int]:
    return _host_and_port(place, default_port)


def _host_and_port(place: str, default_port: int) -> tuple[str, int]:
    if place.startswith("["):
        host, bracket, port = place.partition("]")
        host += bracket
        if not bracket or (port and not port.startswith(":")):
            raise _Unfit("an address with a broken host")
        port = port[1:]
    else:
        host, _, port = place.partition(":")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 8 and 0 < int(port) < 65536):
        raise _Unfit("an address with a port that is none")
    return _plain_host(host), int(port) if port else default_port


@lru_cache(maxsize=4096)
def _plain_host(host: str) -> str:
    """The host in one form, an internationalised name as DNS has it (IDNA)."""
    if not host.startswith("["):
        host = unquote(host)
    if (address := address_of(host)) is not None:
        return str(IPv6Address(int(address))) if isinstance(address, IPv6Address) else str(address)
    try:
        name = URL.build(scheme="http", host=host).raw_host or ""
    except ValueError:  # UnicodeError among them
        raise _Unfit("an address with a host that is no name") from None
    name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise _Unfit("an address with a host that is no name")
    return name


def _ascii_location(text: str) -> str:
    """A header's text with every byte beyond ASCII quoted as it came, but for the host's, which IDNA is for."""
    if text.isascii():
        return text
    host = _HOST.match(text)
    kept = host[0] if host else ""
    try:
        data = text[len(kept) :].encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise _Unfit("an address that is not Unicode text") from None
    return kept + "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in data)


def _absolute(text: str, base: WebAddress) -> str:
    if _ABSOLUTE.match(text):
        return text
    try:
        return urljoin(base.recorded, text)
    except ValueError:  # broken brackets
        raise _Unfit("an address with a broken host") from None


def _without_dots(path: str) -> str:
    """The path with `.` and `..` resolved (RFC 3986, section 5.2.4), as every client does before it asks."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _quoted(target: str) -> str:
    return _UNCARRIED.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), target)


def _normalised(target: str) -> str:
    if "%" not in target:
        return target
    path, mark, query = _ESCAPE.sub(_plain_escape, target).partition("?")
    return _without_dots(path) + mark + query  # %2E is a dot


def _plain_escape(match: re.Match[str]) -> str:
    character = chr(int(match[0][1:], 16))
    return character if character in _UNRESERVED else match[0].upper()
