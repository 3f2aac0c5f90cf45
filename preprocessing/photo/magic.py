"""What a file is by its first bytes, before the rest of it has arrived.

Not here: whether it can be read (`preprocessing.photo.decode`), which alone knows.
"""

from __future__ import annotations

HEAD_BYTES = 512
"""How much of a file decides; less is enough where the file is shorter."""

_PICTURES = (
    b"\xff\xd8",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\0",  # TIFF, and its large form
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
)
_BRANDS = (
    b"avif",
    b"avis",
    b"mif1",
    b"msf1",
    b"heic",
    b"heix",
    b"heim",
    b"heis",
    b"hevc",
    b"hevx",
    b"hevm",
    b"hevs",
)
"""Of the ISO base media files (ISO 14496-12), those that hold pictures (HEIF, AVIF)."""
_OTHERS = (
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<head", "HTML"),
    (b"<body", "HTML"),
    (b"<script", "HTML"),
    (b"<title", "HTML"),
    (b"<!--", "HTML"),
    (b"<svg", "SVG"),
    (b"<", "XML"),
    (b"{", "JSON"),
    (b"[", "JSON"),
    (b"%pdf-", "PDF"),
)


def is_picture(head: bytes) -> bool:
    """Whether a file that begins so is of a format that is read."""
    if head.startswith(_PICTURES):
        return True
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        size = int.from_bytes(head[:4], "big")
        brands = head[8 : size if 16 <= size <= len(head) else len(head)]
        return any(brands[at : at + 4] in _BRANDS for at in range(0, len(brands), 4))
    return False


def is_whole(data: bytes) -> bool:
    """Whether a picture reaches its end, as far as its container says: a JPEG, a PNG, a WebP; others always do."""
    if data.startswith(b"\xff\xd8"):
        # A marker cannot stand in what a scan holds, so the end of a preview, which comes before it, is told apart.
        return data.endswith(b"\xff\xd9") or data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda")
    if data.startswith(b"\x89PNG"):
        return data.rfind(b"IEND") > 0
    if data.startswith(b"RIFF"):
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    return len(data) > 0


def named(head: bytes) -> str:
    """What a file that is no picture seems to be, in a word or two."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<") and b"<html" in text:
        return "HTML"
    return next((name for start, name in _OTHERS if text.startswith(start)), "no image format")
