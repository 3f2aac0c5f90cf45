"""What a photograph's file says of itself beside its pixels: XMP packets and C2PA manifest stores, found in the bytes.

JPEG, PNG and WebP are walked block by block; in other containers (TIFF, HEIF, AVIF, GIF) a packet stands in one piece
and is searched for, as the XMP specification (part 3) allows. Nothing is decoded, nothing is read twice, and whatever
the bytes are, nothing raises.
Not here: what the packets (`preprocessing.photo.xmp`) and the manifests (`preprocessing.photo.c2pa`) say.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_PACKET_BYTES = 16 * 2**20
"""Of all packets of a file together, after inflation; what is longer is cut."""
_MAX_SEGMENTS = 2**16
"""Of a JPEG, those before the first scan that are looked at."""
_FILLING = re.compile(rb"\xff+")
_MAX_FOUND = 64
"""Packets or stores that are searched for in one file."""

_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_JPEG_MORE_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_PNG_XMP = b"XML:com.adobe.xmp\0"
_PNG_RAW_XMP = b"Raw profile type xmp\0"
_WEBP_XMP = (b"XMP ", b"XMP\0")
"""The latter is wrong, and has been seen."""
_SCANNED = [
    (text.encode(encoding), f"</{text[1:]}>".encode(encoding))
    for text in ("<x:xmpmeta", "<rdf:RDF")
    for encoding in ("utf-8", "utf-16-le", "utf-16-be")
]
_STORE = b"jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71"
"""How the description of a C2PA manifest store begins (JUMBF, ISO 19566-5): its type follows the box's."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """XMP packets as XML, and C2PA manifest stores as JUMBF boxes, each as the file has them."""

    xmp: tuple[bytes, ...]
    c2pa: tuple[bytes, ...]


def embedded(data: bytes) -> Embedded:
    """What stands in a file; never raises."""
    if data.startswith(b"\xff\xd8"):
        return _of_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        xmp: Iterator[bytes] = (
            packet for kind, body in _png_chunks(data) if (packet := _png_packet(kind, body))
        )
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        xmp = (body for kind, body in _webp_chunks(data) if kind in _WEBP_XMP)
    else:
        xmp = _packets(data)
    return Embedded(_bounded(xmp), tuple(_stores(data)))


def _bounded(packets: Iterable[bytes]) -> tuple[bytes, ...]:
    """The first packets that are no more than `MAX_PACKET_BYTES` together; no further one is inflated."""
    kept: list[bytes] = []
    left = MAX_PACKET_BYTES
    for packet in packets:
        kept.append(packet[:left])
        left -= len(packet)
        if left <= 0:
            break
    return tuple(kept)


def _of_jpeg(data: bytes) -> Embedded:
    xmp: list[bytes] = []
    more: dict[bytes, list[tuple[int, bytes]]] = {}
    boxes: dict[bytes, list[tuple[int, bytes]]] = {}
    for marker, body in _jpeg_segments(data):
        if marker == 0xE1 and body.startswith(_JPEG_XMP):
            xmp.append(body[len(_JPEG_XMP) :])
        elif marker == 0xE1 and body.startswith(_JPEG_MORE_XMP):
            # a digest of 32 characters names the packet; 4 bytes of its length, 4 of the part's place
            rest = body[len(_JPEG_MORE_XMP) :]
            more.setdefault(rest[:32], []).append((int.from_bytes(rest[36:40], "big"), rest[40:]))
        elif marker == 0xEB and body.startswith(b"JP"):
            # 2 bytes number the box, 4 the part
            boxes.setdefault(body[2:4], []).append((int.from_bytes(body[4:8], "big"), body[8:]))
    xmp += [b"".join(part for _, part in sorted(parts)) for parts in more.values()]
    stores = [store for parts in boxes.values() for store in _stores(_whole_box(parts))]
    return Embedded(_bounded(xmp), tuple(stores))


def _whole_box(parts: list[tuple[int, bytes]]) -> bytes:
    """A box of JUMBF from its numbered parts, each of which begins with the box's header again."""
    first, *rest = (part for _, part in sorted(parts))
    header = 16 if first[:4] == b"\0\0\0\1" else 8
    return b"".join([first, *(part[header:] for part in rest)])


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The segments up to the first scan that may hold either: their markers and bodies."""
    at, end = 2, len(data) - 4
    for _ in range(_MAX_SEGMENTS):
        if at <= end and (data[at] != 0xFF or data[at + 1] == 0xFF):
            filling = _FILLING.search(data, at)  # at least the first byte of a marker
            at = filling.end() - 1 if filling else end + 1
        if at > end:
            return
        marker = data[at + 1]
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # no marker, or one without a body
            at += 2
            continue
        if marker in (0xD9, 0xDA):
            return
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (0xE1, 0xEB):
            yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length if length > 2 else 4


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def _png_packet(kind: bytes, body: bytes) -> bytes | None:
    if kind == b"iTXt" and body.startswith(_PNG_XMP):
        is_deflated = body[len(_PNG_XMP) :][:1] == b"\1"
        *_, text = body[len(_PNG_XMP) + 2 :].split(b"\0", 2)  # after language and translated keyword
        return _inflated(text) if is_deflated else text
    if kind in (b"zTXt", b"tEXt") and body.startswith(_PNG_XMP):  # which iTXt is meant for
        text = body[len(_PNG_XMP) :]
        return _inflated(text[1:]) if kind == b"zTXt" else text
    if kind in (b"zTXt", b"tEXt") and body.startswith(
        _PNG_RAW_XMP
    ):  # as ImageMagick writes it: in hexadecimal
        text = body[len(_PNG_RAW_XMP) :]
        if kind == b"zTXt":
            text = _inflated(text[1:])
        words = text.split()
        try:
            return bytes.fromhex(b"".join(words[2:]).decode("ascii"))
        except ValueError:
            return None
    return None


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MAX_PACKET_BYTES)
    except zlib.error:
        return b""


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _packets(data: bytes) -> Iterator[bytes]:
    """Packets that stand in the bytes in one piece; one without an end is cut."""
    for start, end in _SCANNED:
        at, found = 0, 0
        while found < _MAX_FOUND and (at := data.find(start, at)) >= 0:
            stop = data.find(end, at)
            stop = at + MAX_PACKET_BYTES if stop < 0 else stop + len(end)
            yield data[at:stop]
            at, found = stop, found + 1
        if found:
            return


def _stores(data: bytes) -> Iterator[bytes]:
    """Manifest stores that stand in the bytes in one piece: box length, `jumb`, and their description."""
    at = 0
    for _ in range(_MAX_FOUND):
        at = data.find(_STORE, at)
        if at < 0:
            return
        header = at - 4  # the length of the description stands before its type
        if data[header - 4 : header] == b"jumb":
            start = header - 8
            length = int.from_bytes(data[start : start + 4], "big")
        else:  # a box longer than 32 bits can say: type, then 8 bytes of length
            start = header - 16
            length = int.from_bytes(data[header - 8 : header], "big")
        at += len(_STORE)
        if start >= 0:
            yield data[start : start + length]
            at = max(at, start + length)
