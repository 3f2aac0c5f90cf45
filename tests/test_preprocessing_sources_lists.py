"""Lists of photographs: packed, remote, and with names of their own."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from raw_web import Request, reply, serving

from preprocessing.crawl.fetch import FetchConfig
from preprocessing.records import Item
from preprocessing.sources import open_source
from preprocessing.sources.access import Access
from preprocessing.sources.lists import web_place
from preprocessing.sources.settings import SourcesConfig
from storage.errors import SourceError
from storage.store import Store

FETCH = FetchConfig(user_agent="test/1", allow_networks=("127.0.0.0/8",), retries=0, backoff_s=0.01)
ITEMS = [
    Item("https://h/1.jpg", author="Änn", license="CC0-1.0"),
    Item("https://h/2.jpg", author="Bob", license="CC-BY-4.0"),
]
ROWS = [{"url": item.ref, "author": item.author, "license": item.license, "width": 7} for item in ITEMS]
CSV = "url,author,license,width\n" + "".join(f"{','.join(map(str, row.values()))}\n" for row in ROWS)
TEXTS = {
    ".csv": CSV,
    ".tsv": CSV.replace(",", "\t"),
    ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
}


def items(place: object, columns: dict[str, str] | None = None, **access: Any) -> list[Item]:
    """What a list gives."""
    sources = SourcesConfig.model_validate({"urls": {"columns": columns or {}}})
    return open_source(f"urls:{place}", FETCH, sources, Access(**access)).items()


@pytest.mark.parametrize("suffix", TEXTS)
def test_gzip_is_known_by_its_bytes(tmp_path: Path, suffix: str) -> None:
    """A list is the same with gzip, by its name or without, and without gzip under a name that says it."""
    plain, packed = TEXTS[suffix].encode(), gzip.compress(TEXTS[suffix].encode())
    for name, data in (
        (suffix, plain),
        (f"{suffix}.gz", packed),
        (f"x{suffix}", packed),
        (f"x{suffix}.gz", plain),
    ):
        (tmp_path / f"list{name}").write_bytes(data)
        assert items(tmp_path / f"list{name}") == ITEMS
    (tmp_path / f"cut{suffix}.gz").write_bytes(packed[:-9])
    with pytest.raises(SourceError, match="is not whole"):
        items(tmp_path / f"cut{suffix}.gz")
    (tmp_path / f"bad{suffix}.gz").write_bytes(packed[:20] + b"\0\0\0" + packed[23:])
    with pytest.raises(SourceError, match="is not whole"):
        items(tmp_path / f"bad{suffix}.gz")


def test_columns_may_have_names_of_their_own(tmp_path: Path) -> None:
    """A setting names the list's columns, and is held to them; without one, usual names are found."""
    names = {"url": "link", "author": "by", "license": "terms"}
    renamed = [{names.get(key, key): value for key, value in row.items()} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(renamed), tmp_path / "list.parquet")
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in renamed))
    assert items(tmp_path / "list.parquet", names) == items(tmp_path / "list.jsonl", names) == ITEMS
    with pytest.raises(SourceError, match=r"no column url, but link, by.*--sources\.urls\.columns\.url NAME"):
        items(tmp_path / "list.parquet")
    with pytest.raises(SourceError, match="no column photographer, but link"):
        items(tmp_path / "list.parquet", {"url": "link", "author": "photographer"})
    with pytest.raises(ValidationError, match="link is none of url, license, license_url"):
        items(tmp_path / "list.parquet", {"link": "url"})
    (tmp_path / "usual.csv").write_text(CSV.replace("url,author,license", "Image_URL,Author,LICENCE"))
    assert items(tmp_path / "usual.csv") == ITEMS


def test_a_list_of_the_web_is_fetched_once_a_day(tmp_path: Path) -> None:
    """It is had through a redirect, kept in the store, and asked for again where a build starts afresh."""
    packed = gzip.compress(CSV.encode())

    def answer(request: Request) -> bytes:
        if request.target == "/list.csv.gz?v=1":
            return reply(status=302, Location=f"http://127.0.0.2:{web.port}/files/abc")
        return reply(packed) if request.target == "/files/abc" else reply(status=404)

    with serving(answer, "127.0.0.1", "127.0.0.2") as web:
        place, store = web.url("/list.csv.gz?v=1"), Store(tmp_path)
        assert items(place, store=store) == ITEMS
        assert items(place, store=store) == ITEMS
        assert [request.target for request in web.requests] == ["/list.csv.gz?v=1", "/files/abc"]
        assert items(place, store=store, is_fresh=True) == ITEMS
        assert len(web.requests) == 4
        assert items(place) == ITEMS
        with pytest.raises(SourceError, match="cannot be fetched: status 404"):
            items(web.url("/none.csv"))
        assert not list(tmp_path.rglob("*none*"))
    with pytest.raises(SourceError, match="cannot be fetched: address_refused: loopback"):
        open_source(f"urls:{place}", FETCH.model_copy(update={"allow_networks": ()})).items()


def test_a_host_of_lists_that_wants_to_be_left_alone_is_left_alone(tmp_path: Path) -> None:
    """One error says from when it may be asked, and until then no later run asks it."""
    with serving(lambda _: reply(status=429, Retry_After="3600")) as web:
        for _ in range(2):
            with pytest.raises(SourceError, match="429, asks to be left alone until 2"):
                items(web.url("/list.csv"), store=Store(tmp_path), is_fresh=True)
        assert len(web.requests) == 1


def test_a_list_of_s3_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object of a bucket, by the environment's endpoint and credentials; one that is not there is one sentence."""
    packed = gzip.compress(TEXTS[".jsonl"].encode())

    def answer(request: Request) -> bytes:
        if request.target == "/bucket/lists/a.jsonl.gz":
            return reply(packed, ETag='"x"', Last_Modified="Thu, 26 Nov 2026 10:00:00 GMT")
        return reply(b"<Error><Code>NoSuchKey</Code></Error>", status=404)

    with serving(answer) as web:
        for name, value in {
            "AWS_ENDPOINT": web.url(""),
            "AWS_ALLOW_HTTP": "true",
            "AWS_SKIP_SIGNATURE": "true",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        assert items("s3://bucket/lists/a.jsonl.gz", store=Store(tmp_path)) == ITEMS
        with pytest.raises(SourceError, match=r"s3://bucket/lists/b\.jsonl cannot be fetched"):
            items("s3://bucket/lists/b.jsonl")


def test_hugging_face_has_names_of_its_own() -> None:
    """A dataset's file is at its revision, main where none is said; what is no file of a dataset is refused."""
    base = "https://huggingface.co/datasets/ann/faces/resolve"
    assert web_place("hf://datasets/ann/faces/data/a.parquet") == f"{base}/main/data/a.parquet"
    assert web_place("hf://datasets/ann/faces@v1/a.csv") == f"{base}/v1/a.csv"
    with pytest.raises(SourceError, match="is not hf://datasets/OWNER/NAME/FILE"):
        items("hf://ann/a.csv")
