"""What hosts publish of how they may be asked holds, whatever the settings say."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from raw_web import PICTURE, Request, reply, serving

from preprocessing.crawl.fetch import FetchConfig, Wanted
from preprocessing.crawl.hosts import Memory
from preprocessing.crawl.published import FREE, PUBLISHED, Published, published
from preprocessing.crawl.queues import arriving
from preprocessing.crawl.urls import web_address


def test_a_name_stands_for_the_names_below_it() -> None:
    """The nearest name with an entry decides; a name that only ends alike has none."""
    assert published("upload.wikimedia.org").at_once == 2
    assert published("commons.wikimedia.org") == PUBLISHED["wikimedia.org"]
    assert published("de.m.wikipedia.org") == PUBLISHED["wikipedia.org"]
    assert published("tile.loc.gov") != published("www.loc.gov") == PUBLISHED["loc.gov"]
    assert published("notloc.gov") == published("example.org") == published("127.0.0.1") == FREE


@pytest.mark.parametrize("rule", [Published(1, delay_s=0.1), Published(8, bytes_per_s=100_000)])
def test_no_faster_than_published(rule: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six photographs of 10 kB take five delays, or the time that five of them may be sent in, and none is lost."""
    starts: list[float] = []

    def answer(request: Request) -> bytes:
        starts.append(time.monotonic())
        return reply(PICTURE.ljust(10_000))

    with serving(answer, "127.0.0.3") as web:
        monkeypatch.setitem(PUBLISHED, "127.0.0.3", rule)
        wanted = [Wanted(web_address(web.url(f"/{number}.jpg", "127.0.0.3"))) for number in range(6)]
        config = FetchConfig(
            user_agent="test/1",
            allow_networks=("127.0.0.0/8",),
            per_host_concurrency=1,
            respect_robots=False,
            respect_opt_out=False,
        )
        began = time.monotonic()
        visits = [visit for batch in arriving(wanted, config, Memory(), tmp_path) for visit in batch]
    assert all(visit.body for visit in visits)
    assert max(starts) - began >= 0.5
    assert len(starts) == 6
