"""Bodies as they were before a server coded them (RFC 9110, section 8.4): gzip and deflate, alone or one in another.

They are asked for as they are, and a server that compresses them all the same is understood. What is no coding, as
`identity`, `utf-8` or `aws-chunked`, changes nothing. However much a block grows, it comes out in blocks.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterable

import aiohttp

BLOCK_BYTES = 64 * 1024
"""Of what comes out, at once."""
_MOST_MEMBERS = 1000
"""Of one gzip body; a bomb may be of many small ones."""
_UNREAD = frozenset({"br", "zstd", "compress", "dcb", "dcz"})


class Undecodable(aiohttp.ClientError):
    """Raised of a body that is not what its Content-Encoding says, or is cut short."""


class Unread(Exception):
    """Raised of a body that is coded in a way which is not read here, and which a server should not have chosen."""


def codings(fields: Iterable[str]) -> list[str]:
    """The names of codings in fields of Content-Encoding, in the order in which they were applied."""
    names = (name.strip(" \t\"'").lower() for field in fields for name in field.split(","))
    return [name for name in (name.removeprefix("x-") for name in names) if name in _READ | _UNREAD]


def decoded(blocks: AsyncIterator[bytes], fields: Iterable[str]) -> AsyncIterator[bytes]:
    """The body that `blocks` are, without its codings; `Undecodable` or `Unread` where that cannot be had."""
    for name in reversed(codings(fields)):
        blocks = _inflated(blocks, name)
    return blocks


_READ = frozenset({"gzip", "deflate"})


async def _inflated(blocks: AsyncIterator[bytes], name: str) -> AsyncIterator[bytes]:
    if name in _UNREAD:
        raise Unread(f"coded as {name}, which nobody asked for")
    inflater = None
    num_members = 0
    async for data in blocks:
        while data:
            if inflater is None:
                if num_members and not (name == "gzip" and data.startswith(b"\x1f")):
                    break  # what fills the body up behind its end
                num_members += 1
                if num_members > _MOST_MEMBERS:
                    raise Undecodable(f"more than {_MOST_MEMBERS} members")
                inflater = zlib.decompressobj(_window_bits(name, data))
            try:
                block = inflater.decompress(data, BLOCK_BYTES)
                while block:
                    yield block
                    block = (
                        b"" if inflater.eof else inflater.decompress(inflater.unconsumed_tail, BLOCK_BYTES)
                    )
            except zlib.error as error:
                raise Undecodable(f"{name}: {error}") from None
            data = inflater.unused_data
            if inflater.eof:
                inflater = None
    if inflater is not None:
        raise Undecodable(f"{name}, cut short")


def _window_bits(name: str, data: bytes) -> int:
    """As zlib wants it; of deflate, many servers leave out the head (RFC 9110, section 8.4.1.2)."""
    if name == "gzip":
        return 16 + zlib.MAX_WBITS
    return zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS
