"""A crawl: addresses asked, their photographs put into the store, and what came of each written into the ledger.

A photograph's bytes are on the disk before its row is written, and a row is written within about a second of its last
byte. So a crawl that is killed asks again for what was under way, and for that second, and for nothing else. Where the
whole machine dies, so are the rows of the last batch, which only the next one's sync brings to the disk.
Not here: which addresses to ask (`preprocessing.crawl.standing`), and one address (`preprocessing.crawl.fetch`).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path

from preprocessing.crawl.blocklist import BlockConfig, Blocklist, open_blocklist
from preprocessing.crawl.fetch import DEFAULT_USER_AGENT, FetchConfig, Headers, Known, Visit, Wanted
from preprocessing.crawl.hosts import Memory
from preprocessing.crawl.ledger import Held
from preprocessing.crawl.queues import arriving
from preprocessing.crawl.retry import DOUBTFUL, PASSING, outcome_of
from preprocessing.crawl.rows import GONE, KEPT, REFUSED, Entry, timestamp
from preprocessing.crawl.safety import host_refusal
from preprocessing.crawl.signals import Place, Signal, Signals
from preprocessing.crawl.standing import Rule
from preprocessing.crawl.urls import WebAddress, host_of
from preprocessing.reject import Reason, Rejected
from storage.errors import ConfigError
from storage.local import make_folder, sync_all
from storage.store import Store

INCOMING = "incoming"
"""Where bodies are written as they arrive, on the store's own disk."""


def crawl(
    wanted: Iterable[Wanted],
    config: FetchConfig,
    held: Held,
    *,
    blocklist: Blocklist | None = None,
    is_fresh: bool = False,
    memory: Memory | None = None,
) -> Generator[list[tuple[Wanted, Entry]], None, None]:
    """Ask for addresses, and give the new row of each, in batches, when it is written.

    A batch is empty where nothing has come for a while. Closed, it asks for nothing more. `memory` is what is known of
    the hosts, where that is not what the ledger knows. With `is_fresh` hosts are asked for their rules again, whatever
    they said within the last day. ConfigError where a host is public, and the user agent does not say who asks.
    """
    wanted = list(wanted)
    if not wanted:
        return
    check_contact(config, (one.address for one in wanted))
    store = held.store
    blocklist = blocklist or open_blocklist(store, BlockConfig())
    memory, rule = memory or held.memory(), Rule.of(config).model_dump_json(exclude_defaults=True)
    if is_fresh:
        memory.origins.clear()
    with (
        _folder(store) as folder,
        closing(arriving(wanted, config, memory, folder, blocklist.refusal_of_address)) as batches,
    ):
        for visits in batches:
            if not visits:
                held.remember(memory)
                yield []
                continue
            keys = [visit.address.key for visit in visits]
            entries = held.get(visit.address for visit in visits)
            for key, visit in zip(keys, visits, strict=True):
                _settle(visit, store, blocklist)
                entries[key] = entry_of(visit, key, entries.get(key), rule)
            sync_all(store.root)
            held.put(entries.values())
            held.keep_looks(blocklist.looks)
            held.remember(memory)
            yield [(visit.wanted, entries[key]) for key, visit in zip(keys, visits, strict=True)]


def known_of(address: WebAddress, entry: Entry) -> Known | None:
    """What a row, whole, says of an address whose photograph is in the store, so that only another one is sent."""
    if entry.status not in (200, 304) or entry.headers is None:
        return None
    headers = tuple((str(name), str(value)) for name, value in json.loads(entry.headers))
    return Known(entry.place or address.recorded, headers, _signals(entry.signals))


def entry_of(visit: Visit, key: str, before: Entry | None, rule: str) -> Entry:
    """The row that a visit makes of the one before it; `key` is its address's, `rule` what it was asked under."""
    address, rejected, body = visit.address, visit.rejected, visit.body
    at = timestamp(visit.started_at)
    entry = before or Entry(key, host_of(address), REFUSED, first_asked_at=at)
    attempts, seconds = entry.attempts + visit.attempts, round(entry.seconds + visit.seconds, 6)
    if rejected and entry.state == KEPT and outcome_of(rejected) == PASSING:
        # that a server fails today takes nothing from what it gave
        return entry._replace(attempts=attempts, seconds=seconds)
    state, reason, detail = KEPT, None, None
    outcome = entry.outcome if entry.state == KEPT else None
    if rejected:
        is_gone = rejected.reason is Reason.HTTP_STATUS and rejected.detail == "410"
        state, outcome = GONE if is_gone else REFUSED, outcome_of(rejected)
        reason, detail = rejected.reason.value, rejected.detail
    elif body:
        outcome = None if body.is_whole else DOUBTFUL
    answer = entry.status, entry.etag, entry.last_modified, entry.place, entry.address
    headers = entry.headers
    if visit.status is not None:
        place = visit.place if visit.place != address.recorded else None
        answer = visit.status, *_versions(visit.headers), place, visit.ip
        headers = _json(visit.headers)
    signals = _said(visit, before)
    return Entry(
        entry.url,
        entry.host,
        state,
        outcome,
        reason,
        detail,
        attempts,
        body.sha256 if body else entry.sha256,
        body.num_bytes if body else entry.num_bytes,
        *answer,
        _robots_line(signals),
        entry.first_asked_at,
        at,
        seconds,
        rule,
        _signals_text(signals),
        headers,
    )


def check_contact(config: FetchConfig, addresses: Iterable[WebAddress]) -> None:
    """Raise ConfigError where a host is public, and the user agent does not say who asks."""
    if config.user_agent != DEFAULT_USER_AGENT:
        return
    public = next((address.host for address in addresses if host_refusal(address.host) is None), None)
    if public is not None:
        raise ConfigError(
            f"fetch.user_agent names nobody, and {public} is a public host, whose operator must be able to reach "
            f"you: --fetch.user-agent 'NAME/VERSION (+https://YOUR-PAGE; YOU@YOUR-DOMAIN)'"
        )


def _settle(visit: Visit, store: Store, blocklist: Blocklist) -> None:
    """Put the photograph of a visit into the store, or reject it: it is blocked, or every item wants another one."""
    body, promised = visit.body, visit.wanted.promised
    if body is None:
        return
    if promised is not None and body.sha256 not in promised:
        body.discard()
        visit.rejected = Rejected(Reason.CHECKSUM_MISMATCH, f"expected {', '.join(sorted(promised))}")
        return
    if blocked := blocklist.refusal_of_photograph(body.sha256, lambda: body.path.read_bytes()):
        body.discard()
        visit.rejected = blocked
        return
    store.adopt_original(body.file, body.sha256)


def _said(visit: Visit, before: Entry | None) -> Signals:
    """What is known to have been said: by this visit, and where it did not get as far, by those before."""
    if visit.body or visit.is_unchanged or before is None or before.sha256 is None or before.signals is None:
        return visit.signals
    looked = {Place.ROBOTS_TXT} if Signal.ROBOTS in visit.signals.looked_at else set()
    if Signal.TDM_RESERVATION in visit.signals.looked_at:
        looked.add(Place.TDMREP)
    left = _signals(before.signals).of(*(set(Place) - looked))
    return visit.signals + (left.model_copy(update={"hops": ()}) if visit.signals.hops else left)


def _versions(headers: Headers) -> tuple[str | None, str | None]:
    """ETag and Last-Modified, as any record can hold them: bytes that were no UTF-8 are escaped."""
    found: dict[str, str] = {}
    for name, value in headers:
        if (key := name.lower()) in ("etag", "last-modified") and key not in found:
            found[key] = value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    return found.get("etag"), found.get("last-modified")


_json = json.JSONEncoder(separators=(",", ":")).encode


def _signals(text: str | None) -> Signals:
    return Signals.model_validate_json(text) if text else Signals()


def _signals_text(signals: Signals) -> str:
    is_silent = not (signals.evidence or signals.hops)
    return _silent_text(signals.looked_at) if is_silent else _spoken_text(signals)


@lru_cache(maxsize=1024)
def _silent_text(looked_at: tuple[Signal, ...]) -> str:
    return _spoken_text(Signals(looked_at=looked_at))


@lru_cache(maxsize=1024)
def _spoken_text(signals: Signals) -> str:
    return signals.model_dump_json(exclude_defaults=True)


def _robots_line(signals: Signals) -> str | None:
    """The line of robots.txt that decided, as `line 3: Disallow: /x`."""
    if not signals.evidence:
        return None
    lines = [one for one in signals.evidence if one.signal is Signal.ROBOTS]
    if not lines:
        return None
    refusing = next((one for one in lines if one.says != ("allow",)), lines[0])
    return f"line {refusing.line}: {refusing.text}" if refusing.line else refusing.text


@contextmanager
def _folder(store: Store) -> Iterator[Path]:
    """A new folder for bodies; those that killed crawls have left are removed."""
    incoming = store.path(INCOMING)
    make_folder(incoming)
    _spread(incoming)
    with _locked(incoming):
        for left in incoming.iterdir():
            with _locked(left, wait=False) as is_left:
                if is_left:
                    shutil.rmtree(left, ignore_errors=True)
        folder = incoming / secrets.token_hex(8)
        folder.mkdir()
        mine = os.open(folder, os.O_RDONLY)
        fcntl.flock(mine, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(mine)


def _spread(folder: Path) -> None:
    """Have each folder of this one lie elsewhere on the disk, as `chattr +T` does, where that is ext4.

    Beside files that were deleted within minutes ext4 takes ten times as long to make one: it looks at each of them.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        found = bytearray(8)
        fcntl.ioctl(descriptor, _GET_FLAGS, found)
        flags = int.from_bytes(found, sys.byteorder)
        if not flags & _TOP_OF_FOLDERS:
            fcntl.ioctl(descriptor, _SET_FLAGS, (flags | _TOP_OF_FOLDERS).to_bytes(8, sys.byteorder))
    except OSError:  # another kind of disk
        pass
    finally:
        os.close(descriptor)


_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602
"""FS_IOC_GETFLAGS and FS_IOC_SETFLAGS of Linux, where a long has 8 bytes."""
_TOP_OF_FOLDERS = 0x20000
"""FS_TOPDIR_FL."""


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Be the only one that holds a folder; False where another does, and this does not wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)
