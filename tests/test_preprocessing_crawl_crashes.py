"""A crawl that dies at any step, and its disk with it: what is on record is true, and the next crawl ends as if nothing
had happened.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from preprocessing.crawl import crawler as crawler_module
from preprocessing.crawl import database
from preprocessing.crawl import ledger as ledger_module
from preprocessing.crawl.fetch import FetchConfig, Visit, Wanted
from preprocessing.crawl.items import ITEM_COLUMNS, Asking, addressed_items, fetch_items
from preprocessing.crawl.ledger import Ledger
from preprocessing.crawl.readers import read_headers
from preprocessing.crawl.rows import Entry, partition_of
from preprocessing.crawl.spool import Spooled
from preprocessing.crawl.urls import host_of, web_address
from preprocessing.records import Item
from preprocessing.reject import Reason, Rejected
from storage.digest import bytes_digest
from storage.store import Store, original_key
from storage.tables import table_of

HOSTS = ("a.example", "b.example")
URLS = [f"http://{host}/{number}" for host in HOSTS for number in range(4)]
PARTITIONS = sorted({partition_of(host_of(web_address(url))) for url in URLS})
CONFIG = FetchConfig(user_agent="test/1")
ANSWERS = st.sampled_from(["photograph", "other photograph", "half", 403, 404, 410, 503, "noai"])


class Killed(BaseException):
    """The process is dead: nothing that it does after this has an effect."""


class Machine:
    """A process and its disk, which dies before its step number `dies_at`; what was not synced is lost then."""

    def __init__(self, dies_at: int | None) -> None:
        self.left = dies_at
        self.unsynced: list[Path] = []

    def step(self) -> None:
        """One more thing that reaches the disk."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have everything that a crawl does to the disk be a step, or two: before it and after it."""
        adopt, put, discard = Store.adopt_original, Store.put, Store.discard
        transaction, rmtree = database.transaction, shutil.rmtree

        def adopt_original(store: Store, path: str, sha256: str) -> None:
            self.step()
            self.unsynced.append(store.path(original_key(sha256)))
            adopt(store, path, sha256)
            self.step()

        def sync_all(folder: Path) -> None:
            self.step()
            self.unsynced.clear()

        def put_whole(store: Store, *arguments: Any, **options: Any) -> None:
            self.step()
            put(store, *arguments, **options)
            self.step()

        @contextmanager
        def whole_transaction(db: Any) -> Iterator[None]:
            self.step()
            with transaction(db):
                yield
                self.step()
            self.step()

        def discard_file(store: Store, key: str) -> None:
            self.step()
            discard(store, key)
            self.step()

        def remove(*arguments: Any, **options: Any) -> None:
            self.step()
            rmtree(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "adopt_original", adopt_original)
            patch.setattr(Store, "put", put_whole)
            patch.setattr(crawler_module, "sync_all", sync_all)
            patch.setattr(ledger_module, "transaction", whole_transaction)
            patch.setattr(Store, "discard", discard_file)
            patch.setattr(ledger_module, "MOST_SMALL", 1)
            patch.setattr(shutil, "rmtree", remove)
            try:
                yield
            except Killed:
                for path in self.unsynced:
                    path.unlink(missing_ok=True)


class Crawls(RuleBasedStateMachine):
    """A store, a web that changes, and crawls of it, each once to its end and once killed and resumed."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")  # which no sync waits for
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.store = Store(self.folder / "store")
        self.web: dict[str, Any] = dict.fromkeys(URLS, "photograph")
        self.asked: Counter[str] = Counter()

    def teardown(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.folder)

    @initialize(answers=st.lists(ANSWERS, min_size=len(URLS), max_size=len(URLS)))
    def begin(self, answers: list[Any]) -> None:
        """The web as it is at first."""
        self.web = dict(zip(URLS, answers, strict=True))

    @rule(url=st.sampled_from(URLS), answer=ANSWERS)
    def change(self, url: str, answer: Any) -> None:
        """An address answers something else from now on."""
        self.web[url] = answer

    @rule()
    def lose_local_files(self) -> None:
        """The ledger's SQLite files are gone, and its segments are there."""
        shutil.rmtree(self.store.path("ledger/working"), ignore_errors=True)

    @rule(
        deaths=st.lists(st.integers(0, 40), min_size=1, max_size=3),
        asking=st.sampled_from([Asking(), Asking(refetch=True), Asking(retry=frozenset({"http_status"}))]),
    )
    def crawl(self, deaths: list[int], asking: Asking) -> None:
        """Killed at some steps and resumed, a crawl ends where it ends undisturbed, and asks little again."""
        undisturbed = Store(self.folder / "undisturbed")
        shutil.rmtree(undisturbed.root, ignore_errors=True)
        if self.store.root.exists():
            shutil.copytree(self.store.root, undisturbed.root)
        whole = self.crawled(undisturbed, asking, None)
        asked_once, self.asked = self.asked, Counter()
        num_whole = 0  # which died too late
        for dies_at in deaths:
            num_whole += bool(self.crawled(self.store, asking, dies_at))
            self.check(self.store)
        assert self.crawled(self.store, asking, None) == whole
        assert self.rows(self.store) == self.rows(undisturbed)
        if not asking.retry:
            # at most what one batch held is asked again by each resumed crawl, and what passes by each of them
            again = sum((self.asked - asked_once).values())
            passing = sum(answer == 503 for answer in self.web.values())
            anew = num_whole * len(URLS) if asking.refetch else 0
            assert again <= len(deaths) * (BATCH + passing) + anew, (self.asked, asked_once)
        self.asked.clear()

    @invariant()
    def what_is_on_record_is_there(self) -> None:
        """Every row of a photograph leads to its bytes, and nothing else lies about."""
        self.check(self.store)

    def check(self, store: Store) -> None:
        """As the invariant says, of the ledger as a kill has left it."""
        for entry in self.rows(store).values():
            if entry.state == "kept":
                assert entry.sha256 is not None
                assert bytes_digest(store.original(entry.sha256)) == entry.sha256
        assert not list(store.root.glob("**/*.partial"))

    def rows(self, store: Store) -> dict[str, Entry]:
        """All rows, without what time and luck say in them."""
        with Ledger(store).held(PARTITIONS) as held:
            return {
                entry.url: entry._replace(
                    attempts=0, status=None, seconds=0.0, asked_at="", first_asked_at=""
                )
                for entry in held.each()
            }

    def crawled(self, store: Store, asking: Asking, dies_at: int | None) -> list[dict[str, Any]]:
        """The outcomes of one crawl; none where it dies."""
        schema = pa.schema([pa.field(name, pa.string()) for name in ITEM_COLUMNS])
        items, _ = addressed_items(
            table_of((asdict(Item(url)) for url in URLS), schema), lambda item: web_address(item.ref)
        )
        outcomes: list[dict[str, Any]] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(crawler_module, "arriving", self.arriving)
            with Machine(dies_at).running():
                found = fetch_items(items, lambda item: web_address(item.ref), CONFIG, store, asking)
                outcomes = found.outcomes.to_pylist()
        return outcomes

    def arriving(
        self, wanted: Iterable[Wanted], config: FetchConfig, memory: Any, folder: Path, refusal: Any
    ) -> Iterator[list[Visit]]:
        """The web: what would come of each address, some at a time."""
        visits: list[Visit] = []
        for number, one in enumerate(wanted):
            self.asked[one.address.recorded] += 1
            visits.append(self.visit(one, folder / str(number)))
            if len(visits) == BATCH:
                yield visits
                visits = []
        if visits:
            yield visits

    def visit(self, wanted: Wanted, path: Path) -> Visit:
        """What comes of one address."""
        answer = self.web[wanted.address.recorded]
        visit = Visit(wanted, attempts=1, status=200, place=wanted.address.recorded, ip="192.0.2.1")
        if isinstance(answer, int):
            visit.status = answer
            reason = Reason.SERVER_ERROR if answer >= 500 else Reason.HTTP_STATUS
            visit.rejected = Rejected(reason, str(answer))
            return visit
        body = f"{answer} {wanted.address.recorded}".encode()
        tag = json.dumps(answer)
        visit.headers = (("ETag", tag), *((("X-Robots-Tag", "noai"),) if answer == "noai" else ()))
        visit.signals = read_headers(visit.headers, ["test"])
        if answer == "noai":
            visit.rejected = Rejected(Reason.OPTED_OUT, "x-robots-tag: noai")
        elif wanted.known and ("ETag", tag) in wanted.known.headers:
            visit.status, visit.is_unchanged = 304, True
        else:
            visit.body = Spooled(str(path), bytes_digest(body), len(body), answer != "half", body)
        return visit


BATCH = 3
TestCrawls = Crawls.TestCase
TestCrawls.settings = settings(max_examples=20, stateful_step_count=6, deadline=None)
