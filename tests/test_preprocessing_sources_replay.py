"""Photographs of each source, fetched in a replay of its host: busy, failing and cut short, and asked as it lets."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from api_web import NUM, SOURCES, Replay, replayed
from test_preprocessing_sources_services import FETCH, opened

from flows.stages.listing import LISTED_SCHEMA
from preprocessing.crawl.items import Asking, addressed_items, fetch_items
from preprocessing.crawl.ledger import Ledger
from preprocessing.sources import WebSource, open_source
from storage.store import Store, original_key
from storage.tables import table_of

SPEED = 1000.0
MEDIA = dict.fromkeys(("search", "wikidata"), "commons") | {"urls": "flickr"}
"""Whose photographs a source gives, where that is another's."""


def source_of(name: str, replay: Replay, num: int, folder: Path) -> WebSource:
    """A source of the replay, or a packed list of photographs in it."""
    if name != "urls":
        source = opened(name, replay, SPEED)
    else:
        listed = folder / "urls.jsonl.gz"
        rows = [{"url": replay.flickr.media(f"{number}.jpg"), "license": "CC0-1.0"} for number in range(num)]
        listed.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        source = open_source(f"urls:{listed}", FETCH)
    assert isinstance(source, WebSource)
    return source


@pytest.mark.parametrize("num", [30, pytest.param(NUM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*SOURCES, "urls"])
def test_no_photograph_is_lost_and_none_is_asked_for_against_the_rules(
    name: str, num: int, tmp_path: Path
) -> None:
    """Each photograph is in the store, or refused for what its host sent; limits and Retry-After are held to."""
    store = Store(tmp_path / "store")
    with replayed(SPEED, is_moody=False) as replay:
        replay.has_moody_media = True
        source = source_of(name, replay, num, tmp_path)
        items = source.items(num)
        assert len(items) == num
        listed = table_of((asdict(item) for item in items), LISTED_SCHEMA)
        wanted, bad = addressed_items(listed, source.address)
        found = fetch_items(wanted, source.address, source.fetch, store, Asking()).outcomes.to_pylist()
        of = replay.services[MEDIA.get(name, name)]
        assert bad.num_rows == 0
        assert replay.forbidden() == {}
        # three answers were none, and were asked for again
        assert replay.media == Counter({of.name: num + 3})
        again = fetch_items(wanted, source.address, source.fetch, store, Asking()).outcomes.to_pylist()
        assert replay.media == Counter({of.name: num + 3}), "what is on record was asked for again"
    assert again == found
    assert {row["ref"] for row in found} == {item.ref for item in items}
    refused = [(row["reason"], row["detail"]) for row in found if row["reason"]]
    assert refused == [("not_an_image", "HTML with status 200")]
    sha256s = [row["sha256"] for row in found if not row["reason"]]
    assert len(set(sha256s)) == num - 1
    assert all(store.exists(original_key(sha256)) for sha256 in sha256s)
    with Ledger(store).read() as held:
        assert Counter(entry.state for entry in held.each()) == {"kept": num - 1, "refused": 1}
