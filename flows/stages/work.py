"""What stages are given to work with: a store, workers, a report of how far they are.

A stage hands chunks to `Workers` and takes their results as they finish, in any order. A Dask cluster is one kind of
workers (`flows.operations.cluster`), `Inline` another. Not here: any stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from storage.code import code_digest
from storage.errors import ConfigError
from storage.store import Store
from storage.tables import counted

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.gathered import Gathered

CHUNKS_PER_WORKER = 4

Element = TypeVar("Element")
Job = TypeVar("Job")
Result = TypeVar("Result")


class Workers(Protocol):
    """Whatever does chunks of work, in this process or in others."""

    @property
    def num(self) -> int:
        """How many chunks are worked on at once."""
        ...

    def map(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """`work(job)` of every job, as each finishes; jobs are made as workers ask for them.

        `work` and jobs can be pickled. The first exception ends it, and is raised.
        """
        ...


class Inline:
    """Workers that are this process: a plain loop."""

    num = 1

    def map(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """`work(job)` of every job, in order."""
        return map(work, jobs)


@dataclass(frozen=True)
class Progress:
    """How far a stage is: `done` of `total` units, and what became of them so far."""

    stage: str
    done: int
    total: int
    unit: str
    counts: Mapping[str, int]
    about: str = ""
    """More of it in a few words, as of the hosts that are asked."""


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Context:
    """Where a build works."""

    store: Store
    workers: Workers
    chunk_size: int
    refetch: bool
    gathered: Callable[[Store, str, pa.Schema, str, str], Gathered]
    """Opens the rows of all chunks of one kind. It is handed in since it changes none, so that what a chunk's code is
    does not hold it."""
    secret: Callable[[str], str | None] | None = None
    """Gives a secret by its name, such as a service's key; None: those of the environment."""


def check_code(entry: str, code: str) -> None:
    """Raise ConfigError where this process, a worker perhaps, runs the module `entry` by other code than `code`."""
    if code_digest(entry) != code:
        raise ConfigError("a worker has other code or library versions than this build: make them the same")


def reasons(rejections: pa.Table) -> dict[str, int]:
    """How many rejections have each reason."""
    return dict(sorted(counted(rejections["reason"]).items()))


def chunked(elements: Sequence[Element], size: int) -> list[Sequence[Element]]:
    """The elements in chunks of a size, the last perhaps smaller."""
    return [elements[start : start + size] for start in range(0, len(elements), size)]


def spread(elements: Sequence[Element], context: Context, most: int | None = None) -> list[Sequence[Element]]:
    """Chunks of the configured size, or of `most`, smaller where they would be too few to keep all workers busy.

    To hand out a chunk takes as long as to read a hundred photographs that are there already.
    """
    share = -(-len(elements) // (CHUNKS_PER_WORKER * max(context.workers.num, 1)))
    return chunked(elements, max(1, min(most or context.chunk_size, share)))
