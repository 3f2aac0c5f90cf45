"""Sources that ask services, against a replay of each: everything is listed, nothing that is forbidden is asked."""

from __future__ import annotations

import json
import logging
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from api_web import KEY, NUM, SOURCES, Replay, replayed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.stages.listing import LISTED_SCHEMA
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.records import Item, Rejection
from preprocessing.sources import AskingSource, Source, open_source
from preprocessing.sources.access import Access
from preprocessing.sources.licenses import LicensesConfig, licensed
from preprocessing.sources.service import STAMP
from preprocessing.sources.settings import SourcesConfig
from storage.errors import ConfigError, PipelineError, SourceError
from storage.store import Store
from storage.tables import table_of

FETCH = FetchConfig(
    user_agent="test/1 (+mailto:test@example.org)",
    allow_networks=("127.0.0.0/8",),
    backoff_s=0.01,
    timeout_s=10,
)
SPEEDS = {"europeana": 100.0, "loc": 200.0, "smithsonian": 100.0, "wikidata": 20.0}
KEYS = {
    "EUROPEANA_API_KEY",
    "FLICKR_API_KEY",
    "OPENVERSE_CLIENT_ID",
    "OPENVERSE_CLIENT_SECRET",
    "SMITHSONIAN_API_KEY",
}


def secret(name: str) -> str | None:
    """The keys of the replay."""
    return KEY if name in KEYS else None


def no_secret(name: str) -> None:
    """Nobody's keys."""


def opened(name: str, replay: Replay, speed: float, **access: Any) -> Source:
    """A source of the replay."""
    spec, settings_of = SOURCES[name]
    means: dict[str, Any] = {"secret": secret, "speed": speed, **access}
    return open_source(spec, FETCH, SourcesConfig.model_validate(settings_of(replay)), Access(**means))


def expected(name: str, replay: Replay) -> set[str]:
    """The photographs that there are."""
    if name == "congress":
        members = [*replay.congress.members("current"), *replay.congress.members("historical")]
        return {f"{replay.congress.base}/images/congress/original/{member}.jpg" for member in members}
    if name in ("commons", "search", "wikidata"):
        return {replay.commons.media(f"1280px-{number}.jpg") for number in range(NUM)}
    if name == "flickr":
        return {replay.flickr.media(f"{number}.jpg") for number in range(replay.flickr.TOTAL)}
    if name == "openverse":
        return {replay.openverse.media(f"{number}.jpg") for number in range(NUM)}
    if name == "europeana":
        return {replay.europeana.media(f"{number}.jpg") for number in range(NUM)}
    if name == "loc":
        return {replay.loc.media(f"{number}_v.jpg") for number in range(NUM)}
    if name == "smithsonian":
        return {replay.smithsonian.media(f"{number}.jpg") for number in range(1200) if number % 6}
    return {
        replay.nasa.media(f"{year}-{number}~{'orig' if number % 2 else 'large'}.jpg")
        for year in range(1968, 1983)
        for number in range(replay.nasa.count(year))
    }


LICENSES = {
    "congress": {"PDM-1.0": 1000},
    "commons": {"CC-BY-4.0": 250, "CC-BY-SA-3.0-DE": 250, "CC0-1.0": 250, "PD": 249, "In-Copyright": 1},
    "flickr": {"CC-BY-2.0": 1040, "US-Gov": 1040, "CC0-1.0": 1040, "PDM-1.0": 1040, "CC-BY-4.0": 1040},
    "openverse": {"CC-BY-4.0": 500, "CC0-1.0": 500},
    "nasa": {"US-Gov-NASA": 1000},
    "smithsonian": {"CC0-1.0": 1000},
    "europeana": {"PDM-1.0": 500, "CC-BY-SA-4.0": 500},
    "loc": {"NKC": 500, "Rights status not evaluated.": 500},
}
LICENSES["search"] = LICENSES["wikidata"] = LICENSES["commons"]


@pytest.mark.parametrize("name", SOURCES)
def test_all_is_listed_and_nothing_forbidden_is_asked(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A thousand photographs or more of a moody service: none lost, none twice, each licence read, no limit broken.

    A second listing of the day asks nothing, and no key is kept or said.
    """
    speed = SPEEDS.get(name, 10.0)
    caplog.set_level(logging.DEBUG)
    store = Store(tmp_path)
    with replayed(speed) as replay:
        items = opened(name, replay, speed, store=store).items()
        assert {item.ref for item in items} == expected(name, replay)
        assert len({item.ref for item in items}) == len(items) >= NUM
        assert replay.forbidden() == {}
        num_requests = Counter({name: len(of.requests) for name, of in replay.services.items()})
        assert opened(name, replay, speed, store=store).items() == items
        asked_again = Counter({name: len(of.requests) for name, of in replay.services.items()})
        assert asked_again - num_requests == Counter(
            {"openverse": 1} if name == "openverse" else {}
        )  # a token
        assert replay.media == {}
    found = Counter(licensed(item, LicensesConfig())[0].license for item in items)
    assert found == LICENSES[name]
    assert all(licensed(item, LicensesConfig())[0].author for item in items)
    assert all(item.page for item in items)
    assert sum(item.opt_out is not None for item in items) == (52 if name == "flickr" else 0)
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in kept
    assert KEY not in caplog.text
    assert KEY not in repr(items)


def test_a_source_travels_without_its_secrets(tmp_path: Path) -> None:
    """What fetches photographs elsewhere is given no store, no secrets and no answers, and the same addresses."""
    with replayed(1000.0, is_moody=False) as replay:
        source = opened("flickr", replay, 1000.0, secret=lambda _: KEY, store=Store(tmp_path))
        items = source.items(10)
        again = pickle.loads(pickle.dumps(source))
        assert KEY.encode() not in pickle.dumps(source)
    assert [again.address(item) for item in items] == [source.address(item) for item in items]  # type: ignore[attr-defined]
    assert again.access.store is None
    assert again.description() == source.description()


@pytest.mark.parametrize("name", ["congress", "commons"])
def test_photographs_are_fetched_as_politely_as_listed(name: str, tmp_path: Path) -> None:
    """A thousand photographs are fetched, no more at once than their host lets."""
    with replayed(1000.0, is_moody=False) as replay:
        source = opened(name, replay, 1000.0)
        items = source.items(NUM)
        outcomes = list(source.read(items))
        assert len(items) == len(outcomes) == NUM
        assert not [outcome for outcome in outcomes if isinstance(outcome, Rejection)]
        assert replay.media[name] == NUM
        assert [text for text in replay.services[name].forbidden if "photographs" in text] == []


def test_a_limit_asks_for_no_more_than_it_needs(tmp_path: Path) -> None:
    """The first ten photographs cost one answer, and are the first ten of all."""
    with replayed(100.0, is_moody=False) as replay:
        few = opened("openverse", replay, 100.0).items(10)
        assert len(replay.openverse.requests) == 2  # a token, a page
        assert few == opened("openverse", replay, 100.0).items()[:10]


def test_without_a_token_openverse_ends_at_240(caplog: pytest.LogCaptureFixture) -> None:
    """Pages are of 20, none beyond the 240th result is asked for, and what is cut off is said."""
    with replayed(1000.0, is_moody=False) as replay:
        items = opened("openverse", replay, 1000.0, secret=no_secret).items()
        assert len(items) == 240
        assert len(replay.openverse.requests) == 12
        assert replay.openverse.forbidden == []


def test_a_day_has_so_many_requests(tmp_path: Path) -> None:
    """What was asked within a day counts, by whichever build; answers that are older do not, and the rest is asked."""
    store = Store(tmp_path)
    with replayed(1000.0, is_moody=False) as replay:
        now = datetime.now(UTC)
        for number in range(300):
            asked_at = now - timedelta(hours=25 if number < 105 else 5)
            store.put(f"answers/127.0.0.1/{number}/{asked_at.strftime(STAMP)}.json", b"{}")
        source = opened("openverse", replay, 1000.0, secret=no_secret, store=store)
        with pytest.raises(SourceError, match="may be asked 200 times a day, and was: it goes on from 2"):
            source.items()
        assert len(replay.openverse.requests) == 5


def test_keys_that_are_missing_or_wrong_are_said(tmp_path: Path) -> None:
    """Flickr needs a key; a service's own words about a wrong one are in the error, the key is not."""
    with replayed(1000.0, is_moody=False) as replay:
        with pytest.raises(ConfigError, match="set FLICKR_API_KEY"):
            opened("flickr", replay, 1000.0, secret=no_secret).items()
        for name, said in (
            ("flickr", "Invalid API Key"),
            ("smithsonian", "status 403"),
            ("europeana", r"Invalid API key \.\.\."),
            ("openverse", "401"),
        ):
            with pytest.raises(SourceError, match=said) as raised:
                opened(name, replay, 1000.0, secret=lambda _: "wr0ng").items()
            assert "wr0ng" not in str(raised.value)


def test_a_service_that_wants_to_be_left_alone_is_left_alone(tmp_path: Path) -> None:
    """A Retry-After beyond max_wait_s ends the listing, says from when it may go on, and keeps what there is.

    The next run asks nothing before that, and waits where it may.
    """
    with replayed(10.0) as replay:
        spec, settings_of = SOURCES["congress"]
        sources = SourcesConfig.model_validate(settings_of(replay))

        def asked(max_wait_s: float) -> Source:
            fetch = FETCH.model_copy(update={"max_wait_s": max_wait_s})
            access = Access(secret=no_secret, speed=10.0, store=Store(tmp_path), is_fresh=True)
            return open_source(spec, fetch, sources, access)

        for _ in range(2):
            with pytest.raises(SourceError, match=r"asks to be left alone until 2.*answers so far are kept"):
                asked(0.1).items()
        assert len(replay.congress.requests) == 1
        assert {item.ref for item in asked(60).items()} == expected("congress", replay)
        assert replay.forbidden() == {}


def test_public_services_must_know_who_asks() -> None:
    """Without a user agent of one's own nothing is asked."""
    source = open_source("congress:", FetchConfig())
    with pytest.raises(ConfigError, match=r"unitedstates\.github\.io is a public host"):
        source.items()


@pytest.mark.parametrize("name", SOURCES)
def test_quotas_are_what_is_asked(name: str) -> None:
    """What a dry run says of a thousand photographs is near what they ask."""
    with replayed(1000.0, is_moody=False) as replay:
        source = opened(name, replay, 1000.0)
        assert isinstance(source, AskingSource)
        quota = source.quota(NUM)
        source.items(NUM)
        asked = sum(len(of.requests) for of in replay.services.values())
    assert quota.photographs == NUM
    assert quota.rule
    assert quota.requests / 3 <= asked <= 3 * quota.requests, (asked, quota)
    assert quota.seconds < 3600


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("congress:senate", "congress:historical"),
        ("commons:", "lacks what to look for"),
        ("wikidata:politicians", "such as P106=Q82955"),
        ("flickr:", "lacks what to look for"),
        ("openverse:", "lacks what to look for"),
        ("europeana:", "lacks what to look for"),
        ("loc:", "lacks what to look for"),
        ("nasa:", "lacks what to look for"),
        ("tumblr:x", "is none of folder:PATH, urls:LIST, congress:"),
    ],
)
def test_names_that_say_nothing_are_refused(spec: str, message: str) -> None:
    """Each source says what its name needs."""
    with pytest.raises(ConfigError, match=message):
        open_source(spec, FETCH)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Source, dict[str, Any]]]:
    """A source whose service is gone, and what it answered, by the keys of its store."""
    found: dict[str, tuple[Source, dict[str, Any]]] = {}

    def of(name: str) -> tuple[Source, dict[str, Any]]:
        if name not in found:
            store = Store(tmp_path_factory.mktemp(name))
            with replayed(1000.0, is_moody=False) as replay:
                means: dict[str, Any] = {"secret": secret, "store": store}
                if name == "openverse":  # a token would be asked for
                    means["secret"] = no_secret
                source = opened(name, replay, 1000.0, **means)
                source.items(120)
                spec, settings_of = SOURCES[name]
                sources = SourcesConfig.model_validate(settings_of(replay))
            fetch = FETCH.model_copy(update={"allow_networks": ()})  # so that nothing is asked any more
            answers = {key: json.loads(store.get(key))["body"] for key in store.keys("answers")}
            found[name] = open_source(spec, fetch, sources, Access(**means)), answers
        return found[name]

    return of


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


def changed(value: Any, draw: Callable[[Any], Any]) -> Any:
    """JSON with one part of it, anywhere, replaced by another."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: changed(value[key], draw)}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        number = draw(st.integers(0, min(len(value), 5) - 1))
        return [*value[:number], changed(value[number], draw), *value[number + 1 :]]
    return draw(JSON)


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_answer_is_read_or_one_sentence(
    name: str, recorded: Callable[[str], tuple[Source, dict[str, Any]]], data: st.DataObject
) -> None:
    """Whatever a part of an answer is, there is a list of photographs of Unicode text, or a short error."""
    source, answers = recorded(name)
    store = source.access.store  # type: ignore[attr-defined]
    key = data.draw(st.sampled_from(sorted(answers)))
    now = datetime.now(UTC).isoformat()
    record = {"format": 1, "request": "x", "asked_at": now, "body": answers[key]}
    store.put(key, json.dumps({**record, "body": changed(answers[key], data.draw)}).encode())
    message = ""
    try:
        items = source.items(120)
    except PipelineError as error:
        message = str(error)
    else:
        table_of((asdict(item) for item in items), LISTED_SCHEMA)
    finally:
        store.put(key, json.dumps(record).encode())
    assert len(message) < 600, message


def test_what_a_service_means_may_change_but_not_raise(tmp_path: Path) -> None:
    """Answers of another shape are one error that names the source; odd values become text."""
    with replayed(1000.0, is_moody=False) as replay:
        source = opened("congress", replay, 1000.0)

        async def odd(request: Any, path: str) -> Any:
            from aiohttp import web

            members = [None, {}, {"id": {"bioguide": "../../x"}, "name": {"first": "A", "last": "B"}}]
            good = {"id": {"bioguide": "A000001"}, "name": {"official_full": ["\ud800", 7]}}
            return web.Response(text=json.dumps([*members, good]), content_type="application/json")

        replay.congress.answer = odd  # type: ignore[method-assign]
        [item] = source.items()
        assert isinstance(item, Item)
        assert (item.title or "").encode()
