"""Blocklists: what has a tombstone, or a hash on a list, is neither asked for nor kept, whatever its door."""

from __future__ import annotations

import hashlib
import io
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from preprocessing.crawl.blocklist import BlockConfig, Blocklist, open_blocklist, pdq_of
from preprocessing.crawl.ledger import Ledger
from preprocessing.crawl.looks import Looks, LooksTable
from preprocessing.crawl.urls import web_address
from preprocessing.records import Item
from preprocessing.reject import Reason
from storage.digest import bytes_digest
from storage.errors import SourceError
from storage.store import Store
from storage.tombstones import Tombstones


def picture(seed: int, quality: int = 90, size: int = 200) -> bytes:
    """Soft spots, as a JPEG."""
    noise = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    image = (
        Image.fromarray(noise)
        .resize((300, 300), Image.Resampling.BICUBIC)
        .filter(ImageFilter.GaussianBlur(2))
    )
    file = io.BytesIO()
    image.resize((size, size)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def opened(folder: Path, **lists: str) -> Blocklist:
    """The blocklist of a store in a folder, with lists of these texts."""
    paths = {}
    for kind, text in lists.items():
        path = folder / f"{kind}.txt"
        path.write_text(text)
        paths[kind] = (path,)
    return open_blocklist(Store(folder / "store"), BlockConfig.model_validate(paths))


def reason_of(blocklist: Blocklist, data: bytes) -> Reason | None:
    """Why these bytes are refused."""
    refused = blocklist.refusal_of_photograph(bytes_digest(data), lambda: data)
    return refused.reason if refused else None


def test_lists_of_hashes_refuse(tmp_path: Path) -> None:
    """A hash on a list of its kind refuses, as text or CSV, in either case, and each kind has its reason."""
    one, other = picture(1), picture(2)
    sha256 = opened(tmp_path, sha256=f"# removed\n{bytes_digest(one).upper()}  # asked for\n\n")
    assert [reason_of(sha256, data) for data in (one, other)] == [Reason.BLOCKED_SHA256, None]
    md5 = opened(tmp_path, md5=f"hash,when\n{hashlib.md5(one).hexdigest()},2026\n")
    assert [reason_of(md5, data) for data in (one, other)] == [Reason.BLOCKED_MD5, None]


def test_a_picture_is_known_by_its_looks(tmp_path: Path) -> None:
    """A smaller copy of lesser quality is refused by the PDQ hash of the picture, and another picture is not."""
    found = pdq_of(picture(1))
    assert found is not None
    listed = opened(tmp_path, pdq=found.astype(">u8").tobytes().hex())
    assert reason_of(listed, picture(1)) is Reason.BLOCKED_PDQ
    assert reason_of(listed, picture(1, quality=40, size=150)) is Reason.BLOCKED_PDQ
    assert reason_of(listed, picture(2)) is None
    assert reason_of(listed, b"no picture") is None


def test_bytes_are_read_only_where_they_must_be(tmp_path: Path) -> None:
    """A list of sha256 reads no photograph."""
    blocklist = opened(tmp_path, sha256="0" * 64)
    assert blocklist.refusal_of_photograph("1" * 64, lambda: 1 / 0) is None  # type: ignore[arg-type, return-value]


def test_hashes_that_were_worked_out_are_kept(tmp_path: Path) -> None:
    """A photograph is read once for all lists, another list of a kind reads nothing, and what is erased is gone."""
    data, sha256 = picture(1), bytes_digest(picture(1))
    look = pdq_of(data)
    assert look is not None
    store = Store(tmp_path / "store")

    def unread() -> bytes:
        raise AssertionError("a photograph was read again")

    with closing(LooksTable(store)) as table:
        blocklist = opened(tmp_path, md5="0" * 32)
        assert blocklist.refusal_of_photograph(sha256, lambda: data) is None
        table.put(blocklist.looks)
        blocklist = replace(opened(tmp_path, md5="0" * 32, pdq="0" * 64), looks=table.get([sha256, "1" * 64]))
        assert blocklist.refusal_of_photograph(sha256, lambda: data) is None
        table.put(blocklist.looks)
        lists = {"md5": hashlib.md5(data).hexdigest(), "pdq": look.astype(">u8").tobytes().hex()}
        for kind, text in lists.items():
            blocklist = replace(opened(tmp_path, **{kind: text}), looks=table.get([sha256]))
            assert blocklist.refusal_of_photograph(sha256, unread) is not None, kind
        assert table.get([sha256]) == {sha256: Looks(lists["md5"], bytes.fromhex(lists["pdq"]))}
        table.put({sha256: Looks()})
        assert table.get([sha256])[sha256].md5, "what is not known takes nothing away"
    Ledger(store).erase([], [sha256])
    files = store.path("ledger/working").glob("looks*")
    assert not any(lists["md5"].encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize("line", ["0" * 63, "g" * 64, "0" * 32])
def test_what_is_no_hash_is_named(tmp_path: Path, line: str) -> None:
    """A line that is none is told with its number, so that no list is half read."""
    with pytest.raises(SourceError, match=r"sha256\.txt:2"):
        opened(tmp_path, sha256=f"{'0' * 64}\n{line}\n")


def test_items_are_refused_by_address_host_and_author(tmp_path: Path) -> None:
    """Tombstones of an address, a host on any port, and an author refuse before anything is asked."""
    blocklist = opened(tmp_path)
    assert not blocklist.names_items
    Tombstones(Store(tmp_path / "store")).bury(
        [
            ("url", web_address("http://a.example/%7Ea").buried_as),
            ("host", "b.example"),
            ("author", "A. Author"),
        ]
    )
    blocklist = opened(tmp_path)
    assert blocklist.names_items

    def reason(url: str | None, author: str | None = None) -> Reason | None:
        refused = blocklist.refusal_of_item(Item("x", author=author), web_address(url) if url else None)
        return refused.reason if refused else None

    assert reason("HTTP://A.example:80/~a#x") is Reason.BLOCKED_URL
    assert reason("https://b.example:8443/x") is Reason.BLOCKED_HOST
    assert reason("http://c.example/x", "a.  author") is Reason.BLOCKED_AUTHOR
    assert reason(None, "A. Author") is Reason.BLOCKED_AUTHOR
    assert reason("http://c.example/x", "B. Author") is None


def test_a_per_cent_sign_is_no_other_door(tmp_path: Path) -> None:
    """Of an address with a lone per cent sign and the same with its escape, the tombstone of one is that of both."""
    for number, (buried, asked) in enumerate([("100%25", "100%"), ("100%", "100%25"), ("%zz", "%25zz")]):
        tombstones = Tombstones(Store(tmp_path / f"{number}" / "store"))
        tombstones.bury([("url", web_address(f"http://a.example/{buried}").buried_as)])
        refused = opened(tmp_path / f"{number}").refusal_of_address(web_address(f"http://a.example/{asked}"))
        assert refused is not None, (buried, asked)
        assert refused.reason is Reason.BLOCKED_URL, (buried, asked)
