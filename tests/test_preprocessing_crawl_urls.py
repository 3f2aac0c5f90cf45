"""Addresses as they are given, sent and recorded: by cases, by properties, and on the wire."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.crawl.urls import WebAddress, web_address
from preprocessing.reject import Reason, Rejected

CASES = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "cases" / "urls.jsonl").read_text().splitlines()
]
BASE = web_address("https://h.example/x/y.jpg?z=1")


def address_or_rejection(case: dict[str, Any]) -> WebAddress | Rejected:
    """What becomes of a case's address."""
    base = web_address(case["base"]) if "base" in case else None
    try:
        return web_address(case["url"], base)
    except Rejected as rejected:
        return rejected


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['url']!a:.60}")
def test_addresses_are_read(case: dict[str, Any]) -> None:
    """Each address is sent, recorded, compared or rejected as its case says."""
    got = address_or_rejection(case)
    if case.get("rejected"):
        assert isinstance(got, Rejected), f"{got}: {case['why']}"
        assert got.reason is Reason.BAD_URL
    elif "never_recorded" not in case:
        assert isinstance(got, WebAddress), f"{got}: {case['why']}"
    if "never_recorded" in case:
        shown = str(got) + repr(got)
        shown += f"{got.key} {got.recorded} {got.wire}" if isinstance(got, WebAddress) else ""
        assert case["never_recorded"] not in shown
    if isinstance(got, WebAddress):
        assert got.target == case.get("request", got.target), case["why"]
        assert got.recorded == case.get("becomes", got.recorded), case["why"]
        if "same_as" in case:
            assert got.key == web_address(case["same_as"]).key, case["why"]
        if "differs_from" in case:
            assert got.key != web_address(case["differs_from"]).key, case["why"]


def test_credentials_are_kept_for_their_host_alone() -> None:
    """Credentials are unescaped for the header, and a redirect, even to the same host, does not inherit them."""
    address = web_address("https://al%40ice:s%3Acret@h.example/a.jpg")
    assert address.credentials == ("al@ice", "s:cret")
    assert web_address("/b.jpg", address).credentials is None
    assert web_address("https://o.example/", address).credentials is None


def test_an_ipv6_host_stands_in_brackets_on_the_wire() -> None:
    """An address of version 6 is handed over as aiohttp reads it, with its port and without."""
    for text in ("http://[2606:2800:21f::1]/a.jpg?x", "http://[2606:2800:21f::1]:8080/a.jpg"):
        address = web_address(text)
        assert str(address.wire) == text
        assert (address.wire.host, address.wire.port) == (address.host, address.port)


def test_the_wire_carries_the_target_byte_for_byte() -> None:
    """aiohttp sends the request line of every case as its target says, and no credentials of its own accord."""
    targets = [case["request"] for case in CASES if "request" in case]
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head)
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, aiohttp.ClientSession() as session:
            for target in targets:
                url = web_address(f"http://user:secret@127.0.0.1:{port}{target}").wire
                async with session.get(url, allow_redirects=False):
                    pass

    asyncio.run(ask())
    assert [head.split(b" ")[1].decode() for head in seen] == targets
    assert not any(b"Authorization" in head for head in seen)


@given(
    st.text()
    | st.text().map("https://".__add__)
    | (st.text() | st.text("%0134aAfF/.2eE?", max_size=12)).map("http://h.example/".__add__)
)
def test_no_address_raises(text: str) -> None:
    """Whatever a list or a Location holds is an address that a request line carries, or a rejection."""
    for base in (None, BASE):
        try:
            address = web_address(text, base)
        except Rejected:
            continue
        assert address.target.startswith("/")
        assert all("!" <= character <= "~" for character in address.recorded), address
        assert str(address.wire) == address.recorded
        assert address.wire.raw_path_qs == address.target
        assert web_address(address.recorded).target == address.target
        assert web_address(address.key).key == address.key
        assert web_address(address.buried_as).key == address.buried_as


@given(
    st.sampled_from(["http", "https"]),
    st.from_regex(r"[a-z0-9-]{1,10}\.example", fullmatch=True),
    st.none() | st.integers(1, 65535),
    st.from_regex(
        r"(/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}){0,8}){1,3}(\?[a-z/?&=%20'+]*)?", fullmatch=True
    ),
)
def test_reading_what_was_written_changes_nothing(
    scheme: str, host: str, port: int | None, target: str
) -> None:
    """A record is its own address, and its key is the key of its key."""
    text = f"{scheme}://{host}{'' if port is None else f':{port}'}{target}"
    address = web_address(text)
    assert web_address(address.recorded) == address
    assert web_address(address.key).key == address.key
    assert web_address(f"{scheme.upper()}://u:p@{host.upper()}:{address.port}{target}#f").key == address.key
