"""XMP packets and C2PA manifests, found in files of every format and read through whatever bytes."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from preprocessing.photo.c2pa import Statement, statements
from preprocessing.photo.embedded import MAX_PACKET_BYTES, embedded
from preprocessing.photo.xmp import Property, properties

MARKED = Path(__file__).parent / "data" / "marked"
VALUE = "http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED"
PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    f'<rdf:Description xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" plus:DataMining="{VALUE}"/>'
    "</rdf:RDF></x:xmpmeta>"
)
PICTURE = Image.new("RGB", (8, 8), (200, 120, 90))


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    """A JPEG with segments of its own behind its start."""
    file = io.BytesIO()
    PICTURE.save(file, "JPEG")
    data = file.getvalue()
    own = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments
    )
    return data[:2] + own + data[2:]


def png(how: str) -> bytes:
    """A PNG with the packet in one of the chunks that may hold it."""
    info = PngImagePlugin.PngInfo()
    if how in ("plain", "deflated"):
        info.add_itxt("XML:com.adobe.xmp", PACKET, lang="en", tkey="x", zip=how == "deflated")
    elif how.startswith("text"):
        info.add_text("XML:com.adobe.xmp", PACKET, zip=how == "text deflated")
    else:
        hexed = f"\nxmp\n      {len(PACKET)}\n" + PACKET.encode().hex("\n", 36) + "\n"
        info.add_text("Raw profile type xmp", hexed, zip=how == "raw deflated")
    file = io.BytesIO()
    PICTURE.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def saved(kind: str) -> bytes:
    """A picture with the packet, as Pillow writes it."""
    file = io.BytesIO()
    if kind == "PNG":
        return png("plain")
    if kind == "HEIF":
        pillow_heif.from_pillow(PICTURE).save(file, xmp=PACKET.encode())
    elif kind == "TIFF":
        PICTURE.save(file, "TIFF", tiffinfo={700: PACKET.encode()})
    else:
        PICTURE.save(file, kind, xmp=PACKET.encode())
    return file.getvalue()


def said(data: bytes) -> list[Property]:
    """All that a file's XMP says."""
    return [one for packet in embedded(data).xmp for one in properties(packet)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_packets_are_found_in_every_format(kind: str) -> None:
    """A packet that Pillow writes is found in each format that photographs come in."""
    assert said(saved(kind)) == [Property("DataMining", VALUE)]


@pytest.mark.parametrize("how", ["plain", "deflated", "raw", "raw deflated", "text", "text deflated"])
def test_packets_are_found_in_every_chunk_of_a_png(how: str) -> None:
    """Deflated international text and ImageMagick's hexadecimal profiles are read too, and text that is not for it."""
    assert said(png(how)) == [Property("DataMining", VALUE)]


def test_a_webp_may_have_the_name_of_its_packet_wrong() -> None:
    """A zero in the place of the blank, as some write it, hides nothing."""
    data = saved("WEBP")
    assert b"XMP " in data
    assert said(data.replace(b"XMP ", b"XMP\0")) == [Property("DataMining", VALUE)]


def test_a_packet_in_many_segments_is_put_together() -> None:
    """Extended XMP comes in parts of any order, which their places put right."""
    name, packet = b"http://ns.adobe.com/xmp/extension/\0", PACKET.encode()
    parts = [(at, packet[at : at + 60]) for at in range(0, len(packet), 60)]
    segments = [
        (0xE1, name + b"0" * 32 + struct.pack(">II", len(packet), at) + part) for at, part in reversed(parts)
    ]
    assert said(jpeg(*segments)) == [Property("DataMining", VALUE)]


def test_a_packet_is_read_in_any_encoding() -> None:
    """UTF-16 says what UTF-8 says, with a mark or without one."""
    for packet in (PACKET.encode("utf-16"), b"\xef\xbb\xbf" + PACKET.encode()):
        assert properties(packet) == [Property("DataMining", VALUE)]
    for encoding in ("utf-16-le", "utf-16-be"):
        found = said(b"GIF89a" + PACKET.encode(encoding))
        assert {one.value.rpartition("/")[2] for one in found} == {"DMI-PROHIBITED"}, encoding


def test_an_inflation_is_bounded() -> None:
    """A chunk that inflates to a gigabyte is cut."""
    bomb = zlib.compress(b"\0" * 2**20 * 64)
    body = b"XML:com.adobe.xmp\0\1\0\0\0" + bomb
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(body)) + b"iTXt" + body + b"\0" * 4
    [packet] = embedded(data).xmp
    assert len(packet) == 16 * 2**20


def test_a_file_gives_no_more_than_is_bounded() -> None:
    """However many packets inflate, and however often a manifest is announced, all of them together are few bytes."""
    text = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(MAX_PACKET_BYTES // 2 + 1), 9)
    chunk = struct.pack(">I", len(text)) + b"iTXt" + text + bytes(4)
    found = embedded(b"\x89PNG\r\n\x1a\n" + chunk * 20)
    assert sum(map(len, found.xmp)) == MAX_PACKET_BYTES
    described = b"\0\0\0\x20jumdc2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71"
    announced = b"GIF89a" + (struct.pack(">I", 10**6) + b"jumb" + described) * 1000
    assert 0 < sum(map(len, embedded(announced).c2pa)) <= len(announced)


def test_what_fills_a_jpeg_is_passed_over() -> None:
    """A packet behind millions of filling bytes is found."""
    packet = b"http://ns.adobe.com/xap/1.0/\0" + PACKET.encode()
    data = jpeg((0xE1, packet))
    filled = data[:2] + b"\xff" * 2**23 + data[2:]
    assert embedded(filled).xmp == embedded(data).xmp == (PACKET.encode(),)


def test_entities_are_refused() -> None:
    """Neither a document type nor its entities are read, and what is plainly said beside them is."""
    doctype = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname"><!ENTITY f "&e;&e;">]>'
    packet = doctype + PACKET.replace(VALUE, "&e;")
    assert properties(packet.encode()) == []
    assert properties((doctype + PACKET).encode()) == [
        Property("DataMining", "DMI-PROHIBITED", is_parsed=False)
    ]


def test_manifests_of_another_writer_are_read() -> None:
    """All that c2pa-python wrote into a JPEG is read: the entries of its assertion and how the picture came to be."""
    [store] = embedded((MARKED / "not-allowed-in-parts.jpg").read_bytes()).c2pa
    assert {(one.name, one.value) for one in statements(store)} == {
        ("use", "data_mining=notAllowed"),
        ("use", "ai_training=notAllowed"),
        ("use", "ai_generative_training=notAllowed"),
        ("use", "ai_inference=allowed"),
        ("DigitalSourceType", "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"),
    }


def box(kind: bytes, body: bytes) -> bytes:
    """A box of JUMBF."""
    return struct.pack(">I", len(body) + 8) + kind + body


def manifest(label: str, kind: bytes, content: bytes) -> bytes:
    """A store with one assertion in one box."""
    store = b"c2pa\x00\x11\x00\x10\x80\x00\x00\xaa\x00\x38\x9b\x71"
    inner = box(b"jumb", box(b"jumd", b"\0" * 16 + b"\3" + label.encode() + b"\0") + box(kind, content))
    return box(b"jumb", box(b"jumd", store + b"\3c2pa\0") + inner)


def test_assertions_in_json_are_read() -> None:
    """JSON-LD metadata names a source type or a mining policy by prefix or address, in any nesting."""
    value = {
        "@context": {"plus": "http://ns.useplus.org/ldf/xmp/1.0/"},
        "plus:DataMining": {"@id": VALUE},
        "http://iptc.org/std/Iptc4xmpExt/2008-02-29/DigitalSourceType": ["trainedAlgorithmicMedia"],
    }
    store = manifest("c2pa.metadata", b"json", json.dumps(value).encode())
    assert {(one.name, one.value) for one in statements(store)} == {
        ("DataMining", VALUE),
        ("DigitalSourceType", "trainedAlgorithmicMedia"),
    }


def test_open_ended_cbor_is_read() -> None:
    """Maps and texts whose length is left open, tags, and entries that are plain texts are read."""
    text = b"\x7f\x67c2pa.ai\x69_training\xff"  # two chunks
    content = b"\xc1\xbf\x67entries\xbf" + text + b"\x6anotAllowed\xff\xff"
    store = manifest("c2pa.training-mining__1", b"cbor", content)
    assert statements(store) == [Statement("c2pa.training-mining__1", "use", "ai_training=notAllowed")]


@pytest.mark.parametrize(
    "content",
    [
        b"\x9a\xff\xff\xff\xff training",
        b"\xbf training",
        b"\x81" * 500 + b" training",
        b"\x7b" + b"\xff" * 8 + b"training",
    ],
    ids=["a list longer than the file", "an open map", "lists in lists", "a text longer than the file"],
)
def test_broken_cbor_says_nothing(content: bytes) -> None:
    """CBOR that claims more than it holds is left, at no cost."""
    assert statements(manifest("c2pa.training-mining", b"cbor", content)) == []


@given(st.binary(), st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF....WEBP", b"II*\0"]))
def test_no_file_raises(body: bytes, start: bytes) -> None:
    """Any bytes are a file that says something or nothing."""
    found = embedded(start + body)
    assert all(isinstance(packet, bytes) for packet in found.xmp + found.c2pa)


@given(st.data())
def test_no_damaged_file_raises(data: st.DataObject) -> None:
    """A marked file with bytes cut, changed or doubled is read, and what it says are statements still."""
    name = data.draw(st.sampled_from(["not-allowed.webp", "not-allowed.avif", "synthetic.jpg", "xmp"]))
    whole = saved("PNG") if name == "xmp" else (MARKED / name).read_bytes()
    at, stop = sorted(data.draw(st.tuples(st.integers(0, len(whole)), st.integers(0, len(whole)))))
    damaged = whole[:at] + data.draw(st.binary(max_size=8)) + whole[stop:]
    found = embedded(damaged)
    for packet in found.xmp:
        assert all(isinstance(one, Property) for one in properties(packet))
    for store in found.c2pa:
        assert all(isinstance(one, Statement) for one in statements(store))


@given(
    st.binary().map(b"DataMining".__add__)
    | st.text().map(lambda text: PACKET.replace(VALUE, text).encode("utf-8", "replace"))
)
def test_no_packet_raises(packet: bytes) -> None:
    """Any bytes that name a property are a packet, well-formed or not."""
    assert all(isinstance(one, Property) for one in properties(packet))


@given(st.binary(), st.sampled_from([b"json", b"cbor"]))
def test_no_assertion_raises(content: bytes, kind: bytes) -> None:
    """Any bytes are an assertion that says something or nothing."""
    assert isinstance(statements(manifest("c2pa.training-mining", kind, b"training" + content)), list)
    assert isinstance(statements(manifest("c2pa.training-mining", kind, content + b"training")), list)
