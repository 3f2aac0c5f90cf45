"""What is not asked for, since its licence or its owner refuses it, before a byte of it is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from api_web import KEY, SOURCES, replayed
from raw_web import PICTURE, reply, serving

from flows.recurate import relicensed
from flows.stages.crawl import Crawled, crawl
from flows.stages.work import Context, Inline, Progress
from preprocessing.config import BuildConfig
from preprocessing.sources.licenses import LicensesConfig
from storage.gathered import Gathered
from storage.store import Store

LISTED: dict[str, tuple[dict[str, str], str | None]] = {
    "by": ({"license": "CC BY 4.0", "author": "<b>Ann</b>"}, None),
    "zero": ({"license_url": "https://creativecommons.org/publicdomain/zero/1.0/"}, None),
    "none": ({"author": "Ann"}, "no_license"),
    "nobody": ({"license": "CC-BY-4.0"}, "no_author"),
    "nd": ({"license": "CC BY-ND 4.0", "author": "Ann"}, "license_not_allowed"),
    "mine": ({"license": "ask me", "author": "Ann"}, "unknown_license"),
}

FETCH = {"user_agent": "test/1", "allow_networks": ["127.0.0.0/8"], "retries": 0}


def crawled(source: str, store: Path, **settings: Any) -> Crawled:
    """What the stage gives."""
    config = BuildConfig.model_validate({"source": source, "fetch": FETCH, **settings})
    return crawl(Context(Store(store), Inline(), 64, False, Gathered), silent, config)


def silent(_: Progress) -> None:
    """A report to nobody."""


def reasons(of: Crawled) -> dict[str, str | None]:
    """The reason of every photograph, by its name."""
    found: dict[str, str | None] = dict.fromkeys(
        (ref.rpartition("/")[2] for ref in of.items["ref"].to_pylist()), None
    )
    for row in of.rejections.to_pylist():
        found[row["ref"].rpartition("/")[2]] = row["reason"]
    return found


def test_licences_decide_before_anything_is_asked(tmp_path: Path) -> None:
    """Only what may be had is asked for; each refusal is counted, and what is declared stands for what is not said."""
    with serving(lambda request: reply(PICTURE)) as web:
        lines = [{"url": web.url(f"/{name}"), **said} for name, (said, _) in LISTED.items()]
        (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        source = f"urls:{tmp_path / 'list.jsonl'}"
        rules = {"/robots.txt", "/.well-known/tdmrep.json"}
        found = crawled(source, tmp_path / "store")
        assert reasons(found) == {name: reason for name, (_, reason) in LISTED.items()}
        assert web.counts().keys() - rules == {"/by", "/zero"}
        assert found.source["licenses"]["allow"] == ["CC-BY", "CC0", "PDM", "US-Gov"]
        [by] = [item for item in found.items.to_pylist() if item["ref"].endswith("/by")]
        assert (by["license"], by["author"]) == ("CC-BY-4.0", "Ann")
        assert json.loads(by["said"]) == {"license": "CC BY 4.0", "author": "<b>Ann</b>"}
        more = {"assume": "CC0-1.0", "assume_author": "Ann"}
        assert {
            name
            for name, reason in reasons(crawled(source, tmp_path / "store", licenses=more)).items()
            if reason
        } == {"nd", "mine"}


def test_fewer_licences_need_no_request(tmp_path: Path) -> None:
    """What a version by fewer licences is made of is what a crawl under these gives, and nobody is asked."""
    with serving(lambda request: reply(PICTURE)) as web:
        lines = [{"url": web.url(f"/{name}"), **said} for name, (said, _) in LISTED.items()]
        (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        source = f"urls:{tmp_path / 'list.jsonl'}"
        wide = crawled(source, tmp_path / "wide", licenses={"allow": "research"})
        num_asked = len(web.requests)
        less = relicensed(wide, LicensesConfig(allow=("CC0",)))
        assert len(web.requests) == num_asked
        narrow = crawled(source, tmp_path / "narrow", licenses={"allow": "CC0"})
    assert less.source == narrow.source
    assert less.photos["ref"].to_pylist() == narrow.photos["ref"].to_pylist() == [web.url("/zero")]
    assert less.items.sort_by("ref") == narrow.items.sort_by("ref")
    assert less.rejections.sort_by("ref") == narrow.rejections.sort_by("ref")


def test_an_owner_who_wants_no_computer_vision_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Flickr's photographers tag no_cv is counted and not asked for, unless opt-outs are not respected."""
    monkeypatch.setenv("FLICKR_API_KEY", KEY)
    told: list[Progress] = []
    with replayed(1000.0, is_moody=False) as replay:
        spec, settings = SOURCES["flickr"]
        config: dict[str, Any] = {"source": spec, "sources": settings(replay), "limit": 300, "fetch": FETCH}
        context = Context(Store(tmp_path), Inline(), 64, False, Gathered)
        found = crawl(context, told.append, BuildConfig.model_validate(config))
        rejections = found.rejections.to_pylist()
        assert {(row["reason"], row["detail"]) for row in rejections} == {
            ("opted_out", "no-cv: no_cv (tag nocv)")
        }
        assert len(rejections) == 3
        assert replay.media["flickr"] == 297
        config["fetch"] = {**FETCH, "respect_opt_out": False}
        assert crawl(context, silent, BuildConfig.model_validate(config)).photos.num_rows == 300
    assert [now.counts for now in told[:3]] == [{"listed": 100}, {"listed": 200}, {"listed": 300}]


@pytest.mark.parametrize("is_checked", [False, True])
def test_a_folder_is_refused_on_request_only(tmp_path: Path, is_checked: bool) -> None:
    """One's own photographs without licence are taken, unless they are to be checked."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(PICTURE)
    licenses = {"check_folder": is_checked}
    found = crawled(f"folder:{tmp_path / 'photos'}", tmp_path / "store", licenses=licenses)
    assert reasons(found) == {"a.jpg": "no_license" if is_checked else None}
