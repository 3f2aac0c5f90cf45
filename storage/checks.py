"""Checks of what is stored, many at once: what was looked at, and every difference found, a sentence each.

    with Digests(store, fast=False) as digests:
        checked = run_checks(checks_of_version(dataset, digests))

Hashing lets other threads work, so that a check takes all cores. Not here: what is checked (`storage.datasets.verify`,
`storage.verify`).
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.digest import file_digest
from storage.errors import PipelineError
from storage.local import here
from storage.store import Store
from storage.wording import numbered, plural

logger = logging.getLogger(__name__)

AT_ONCE = 1000
"""Checks that wait for threads, so that few are held in memory."""
KNOWN = "cache/digests.txt"
"""Of each file that was hashed a line: sha256, size, time in nanoseconds, path in the store."""


@dataclass(frozen=True)
class Check:
    """One thing to look at: its kind, as people call one of it, and what finds every problem of it."""

    kind: str
    problems: Callable[[], Iterable[str]]
    name: str = ""
    """What tells it from others of its kind, where several ask for the same."""


@dataclass(frozen=True)
class Checked:
    """How many things of each kind were looked at, and every problem found."""

    counts: Counter[str]
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        counts = {plural(2, kind): num for kind, num in self.counts.items()}
        return {"intact": not self.problems, **counts, "problems": self.problems}

    def summary(self) -> str:
        """For people: what was looked at."""
        return ", ".join(numbered(num, kind) for kind, num in self.counts.items())


class Digests:
    """sha256 of files, each hashed once, and of a `fast` check only where size or time say that it has changed since.

    What was hashed is kept for the next fast check, when the block ends.
    """

    def __init__(self, store: Store, *, fast: bool = False) -> None:
        self._store = store
        self._seen: dict[tuple[int, int], str] = {}
        self._known: dict[str, tuple[int, int, str]] = {}
        try:
            lines = os.fsdecode(store.get(KNOWN)).splitlines() if store.exists(KNOWN) else []
            for sha256, size, modified_ns, path in (line.split(" ", 3) for line in lines):
                self._known[path] = (int(size), int(modified_ns), sha256)
        except (PipelineError, OSError, ValueError) as error:
            logger.info("%s: it is made again: %s", store.path(KNOWN), error)
        self._trusted = dict(self._known) if fast else {}

    def of(self, path: Path) -> str:
        """The sha256 of a file; FileNotFoundError where there is none."""
        stat = path.stat()
        place = (stat.st_dev, stat.st_ino)
        name = os.path.relpath(path, self._store.root)
        size, modified_ns, sha256 = self._trusted.get(name, (-1, -1, ""))
        if (size, modified_ns) != (stat.st_size, stat.st_mtime_ns) or not os.access(path, os.R_OK):
            sha256 = self._seen.get(place) or file_digest(path)
        self._seen[place] = sha256
        self._known[name] = (stat.st_size, stat.st_mtime_ns, sha256)
        return sha256

    def problems(self, path: Path, sha256: str, what: str = "its recorded sha256") -> Iterator[str]:
        """Why a file is not the one that has this sha256; nothing where it is."""
        if not here(path).is_file():
            yield f"{path} is missing"
        elif self.of(path) != sha256:
            yield f"{path} no longer has {what}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        lines = (f"{sha256} {size} {time} {path}\n" for path, (size, time, sha256) in self._known.items())
        self._store.put_derived(KNOWN, os.fsencode("".join(lines)))


def run_checks(checks: Iterable[Check]) -> Checked:
    """Look at everything, in threads; problems come in the order of the checks."""
    found = Checked(Counter())
    waiting = iter(checks)
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="check") as pool:
        while batch := list(islice(waiting, AT_ONCE)):
            found.counts.update(check.kind for check in batch)
            for problems in pool.map(_problems, batch):
                found.problems.extend(problems)
    return found


def guarded(checks: Iterator[Check]) -> Iterator[Check]:
    """Checks as far as they can be listed; why no more of them can be is the last one's problem."""
    try:
        yield from checks
    except (PipelineError, OSError) as error:
        yield Check("list", partial(list, [sentence(error)]))


def _problems(check: Check) -> list[str]:
    problems: list[str] = []
    try:
        problems.extend(check.problems())
    except (PipelineError, OSError) as error:
        problems.append(sentence(error))
    return problems


def sentence(error: Exception) -> str:
    """An error in one line: of the system, the file and what it says of it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)} cannot be read: {error.strerror}"
    return " ".join(str(error).split())


def sound(kind: str, read: Callable[[], object]) -> Check:
    """A check of what is sound if it can be read."""
    return Check(kind, partial(_read, read))


def _read(read: Callable[[], object]) -> Iterator[str]:
    read()
    yield from ()
