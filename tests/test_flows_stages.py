"""flows.stages: the stages run on any workers, a plain loop among them, and give the version that a build gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.build import build, run_with
from flows.options import BuildOptions
from flows.stages.align import Aligned, align, align_chunk
from flows.stages.crawl import Crawled, crawl
from flows.stages.curate import curate
from flows.stages.publish import publish
from flows.stages.shard import ShardJob, pack_shard, shard
from flows.stages.work import Context, Inline, Progress, chunked, spread
from preprocessing.columns import FACE_FIELDS, REJECTED_SCHEMA
from preprocessing.config import BuildConfig
from preprocessing.curation.choose import columns_to_judge
from storage.code import code_digest
from storage.datasets.dataset import Dataset
from storage.datasets.verify import verify
from storage.errors import ConfigError
from storage.gathered import Gathered
from storage.store import Store
from storage.tables import fitted

CONFIG = BuildConfig.model_validate(
    {
        "source": "sample:8",
        "resolution": 32,
        "detect": {"min_quad_px": 128},
        "curate": {"pdq_max_distance": None},
        "shard": {"images_per_shard": 2},
    }
)


def silent(_: Progress) -> None:
    """A report to nobody."""


def context(store: Store, chunk_size: int = 3) -> Context:
    """Work in this process, without a cluster."""
    return Context(store, Inline(), chunk_size, refetch=False, gathered=Gathered)


def published(store: Store) -> tuple[Dataset, Crawled, Aligned]:
    """All stages in order, on a plain loop."""
    here = context(store)
    crawled = crawl(here, silent, CONFIG)
    columns = columns_to_judge(CONFIG.curation)
    aligned = align(here, silent, CONFIG, crawled.photos, FACE_FIELDS, columns)
    curated = curate(silent, CONFIG, crawled.photos, aligned)
    sharded = shard(here, silent, CONFIG, crawled, aligned, curated)
    found = (crawled.rejections, aligned.rejections, curated.rejections)
    rejections = pa.concat_tables([fitted(table, REJECTED_SCHEMA) for table in found])
    return publish(store, silent, CONFIG, crawled, rejections, sharded), crawled, aligned


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a version built by a plain loop."""
    made = Store(tmp_path_factory.mktemp("inline"))
    published(made)
    return made


def test_a_plain_loop_gives_the_version_of_a_cluster(store: Store, cluster: str, tmp_path: Path) -> None:
    """The same photographs and config give the same version on a loop and on Dask, and it is intact."""
    looped, _, _ = published(store)
    built = build(CONFIG, BuildOptions(store=tmp_path, scheduler=cluster, chunk_size=2), run_with(silent))
    assert built.dataset.version == looped.version
    assert verify(looped).problems == []


def test_a_second_run_reuses_every_photograph_and_shard(store: Store) -> None:
    """With the same code and config nothing is aligned or packed again."""
    again, crawled, aligned = published(store)
    assert aligned.reused == len(crawled.photos["sha256"].unique())
    curated = curate(silent, CONFIG, crawled.photos, aligned)
    reused = shard(context(store), silent, CONFIG, crawled, aligned, curated).reused
    assert reused == len(again.manifest.shards) > 1


def test_other_code_reuses_nothing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Under another version of a library that decodes, every photograph is aligned anew, and every shard packed."""
    (tmp_path / "pillow-99.dist-info").mkdir()
    (tmp_path / "pillow-99.dist-info" / "METADATA").write_text("Name: pillow\nVersion: 99\n")
    monkeypatch.syspath_prepend(tmp_path)
    request.addfinalizer(code_digest.cache_clear)
    code_digest.cache_clear()
    version, crawled, aligned = published(store)
    assert aligned.reused == 0
    curated = curate(silent, CONFIG, crawled.photos, aligned)
    again = shard(context(store), silent, CONFIG, crawled, aligned, curated)
    assert again.reused == len(version.manifest.shards)
    keys = list(store.keys("chunks/shard"))
    records = [key for key in keys if key.endswith(".json") and not key.endswith(".index.json")]
    assert len(records) == 2 * len(again.shards), keys
    assert len([key for key in keys if key.endswith(".tar")]) == len(again.shards), keys


@pytest.mark.parametrize("work", [align_chunk, pack_shard])
def test_a_worker_of_other_code_does_nothing(work: Callable[..., object], tmp_path: Path) -> None:
    """A chunk asked for under the digest of other code is refused before anything is read or written."""
    job = [("0" * 64, None)] if work is align_chunk else ShardJob(0, "all", pa.table({}), [])
    given: dict[str, Any] = {"suffix": "png", "chunks": None}
    if work is align_chunk:
        given = {"prefix": "chunks", "faces": lambda *_: [], "schema": pa.schema(FACE_FIELDS), "side_px": 32}
    with pytest.raises(ConfigError, match="other code or library versions"):
        work(job, store=Store(tmp_path), code="0" * 64, **given)
    assert not list(tmp_path.iterdir())


def test_chunks_hold_everything_once_in_order() -> None:
    """Chunks are of the size asked for, or smaller where workers would be idle."""
    elements = list(range(100))
    assert [e for chunk in chunked(elements, 7) for e in chunk] == elements
    spread_out = spread(elements, context(Store("unused"), chunk_size=64))
    assert [e for chunk in spread_out for e in chunk] == elements
    assert max(map(len, spread_out)) == 25
