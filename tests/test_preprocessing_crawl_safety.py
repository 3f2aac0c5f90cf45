"""Which addresses a crawler connects to, by cases and by properties."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from preprocessing.crawl.safety import Network, address_of, host_refusal, networks, refusal

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "cases" / "addresses.jsonl").read_text().splitlines()
]
PUBLIC = IPv4Address("93.184.215.14")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['host']!a} {case.get('allow', '')}")
def test_hosts_are_judged(case: dict[str, Any]) -> None:
    """Each host is connected to or refused as its case says."""
    refused = host_refusal(case["host"], networks(case.get("allow", ())))
    assert (refused is None) == case["connects"], f"{refused}: {case['why']}"


def spellings(address: IPv4Address) -> list[str]:
    """Ways to write one address that C libraries and browsers read."""
    number = int(address)
    a, b, c, d = address.packed
    return [
        str(address),
        f"{number}",
        f"{number:#x}",
        f"0{number:o}",
        f"{a}.{number & 0xFFFFFF}",
        f"{a:#x}.{b:#o}.{(c << 8) + d}".replace("0o", "0"),
        f"00{a:o}.0X{b:X}.{c}.{d}.",
        str(address).translate({ord("0") + i: 0xFF10 + i for i in range(10)}),
        str(address).replace(".", "\u3002"),
    ]


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_every_spelling_of_an_address_is_that_address(address: IPv4Address) -> None:
    """Decimal, octal, hexadecimal, short and full-width spellings are all judged as the one they stand for."""
    for text in spellings(address):
        assert address_of(text) == address, text
        assert host_refusal(text) == refusal(address), text


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_wrapping_an_address_opens_nothing(address: IPv4Address) -> None:
    """Mapped, translated or tunnelled into IPv6, an address that is not public stays refused."""
    number = int(address)
    mapped = IPv6Address(0xFFFF << 32 | number)
    assert refusal(mapped) == refusal(address)
    wrapped = [
        IPv6Address(number),
        IPv6Address(0x64FF9B << 96 | number),
        IPv6Address(0x2002 << 112 | number << 80),
        IPv6Address(0x20010000 << 96 | number ^ 0xFFFFFFFF),
        IPv6Address(int(IPv6Address("2606:2800:21f:cb07:0:5efe::")) | number),
    ]
    if refusal(address) is not None:
        assert all(refusal(one) for one in wrapped), wrapped


@given(st.integers(0, 2**128 - 1).map(IPv6Address) | st.integers(0, 2**32 - 1).map(IPv4Address))
def test_what_python_knows_as_not_global_is_refused(address: IPv4Address | IPv6Address) -> None:
    """Nothing that the standard library calls private, loopback, multicast or reserved is connected to."""
    if address.is_private or address.is_multicast or address.is_reserved or not address.is_global:
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        assert refusal(address) or (mapped and not refusal(mapped)), address


@given(st.text() | st.from_regex(r"\[?[0-9a-fxA-FX.:%\[\]]{0,40}\]?", fullmatch=True))
def test_no_host_raises(host: str) -> None:
    """Whatever stands for a host is judged, and judged alike with the root's dot."""
    refused = host_refusal(host)
    if ":" not in host and host.strip() and not host.strip().endswith("]"):
        assert host_refusal(host.strip() + ".") == refused


def test_an_allowed_network_opens_that_network_alone() -> None:
    """127.0.0.0/8 opens loopback; private addresses and ::1 stay closed."""
    allowed = networks(["127.0.0.0/8"])
    assert refusal(IPv4Address("127.8.8.8"), allowed) is None
    assert refusal(IPv4Address("10.0.0.1"), allowed) == "private"
    assert refusal(IPv6Address("::1"), allowed) == "loopback"
    assert refusal(PUBLIC, allowed) is None


def test_a_config_takes_networks_and_refuses_what_is_none() -> None:
    """A network is brought into one form, a single address is one too, and anything else is an error."""
    adapter = TypeAdapter(Network)
    assert adapter.validate_python("127.0.0.1/8") == "127.0.0.0/8"
    assert adapter.validate_python("::1") == "::1/128"
    with pytest.raises(ValidationError):
        adapter.validate_python("loopback")
