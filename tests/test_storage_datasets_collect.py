"""storage.datasets.collect: what nothing needs goes, whenever it is interrupted, and all that stays is whole."""

from __future__ import annotations

import json
import os
import shutil
import time
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import likeness
from flows.build import build, run_with
from flows.options import BuildOptions
from preprocessing.config import BuildConfig
from storage.datasets.collect import alone, delete, find_garbage
from storage.datasets.dataset import all_versions, open_dataset
from storage.errors import ConfigError, IntegrityError
from storage.lineage.trace import trace
from storage.runs import create_run, list_runs
from storage.store import Store, original_key
from storage.verify import verify

GOLDEN = Path(__file__).with_name("data") / "golden" / "store"
FIRST, SECOND, WEB = "golden@71485f1fada17d95", "golden@74bfd02313603afd", "golden-web@b440bae92356680e"
ORPHAN = b"a photograph of no version"


def copied(to: Path, *, with_runs: bool = False) -> Store:
    """The golden store, with a photograph that no version has, a file that was never finished, and perhaps no run."""
    store = Store(shutil.copytree(GOLDEN, to))
    store.put_original(ORPHAN)
    store.path("datasets/golden/.0123456789abcdef.partial").write_bytes(b"half")
    if not with_runs:
        shutil.rmtree(store.path("runs"))
    return store


def references(store: Store) -> list[str]:
    """The versions that are there."""
    return sorted(version.reference for version in all_versions(store))


def collect(store: Store, keep: int = 1) -> None:
    """Find and delete, however young."""
    with alone(store):
        delete(find_garbage(store, keep=keep, grace_s=0))


def test_what_is_needed_stays(tmp_path: Path) -> None:
    """The last versions, those of runs, and what is young are no garbage; a dry run deletes nothing."""
    store = copied(tmp_path / "store", with_runs=True)
    garbage = find_garbage(store, keep=1, grace_s=0)
    assert garbage.versions == []  # the run was trained on the first
    assert [path.read_bytes() for path in garbage.originals] == [ORPHAN]
    assert len(garbage.leftovers) == 1
    shutil.rmtree(store.path("runs"))
    assert [version.reference for version in find_garbage(store, keep=1, grace_s=0).versions] == [FIRST]
    assert find_garbage(store, keep=2, grace_s=0).versions == []
    young = find_garbage(store, keep=1, grace_s=1e9)
    assert (young.versions, young.originals, young.leftovers, young.chunks) == ([], [], [], [])
    assert references(store) == sorted([FIRST, SECOND, WEB])


def test_what_goes_is_gone_and_what_stays_is_whole(tmp_path: Path) -> None:
    """After it the last version of each name verifies, its photographs are traced, and nothing more is garbage."""
    store = copied(tmp_path / "store")
    collect(store)
    assert references(store) == sorted([SECOND, WEB])
    assert verify(store, None)[1].problems == []
    assert not store.path("datasets/golden/71485f1fada17d95").exists()
    assert not any(path.name.endswith(".partial") for path in store.root.rglob("*"))
    for row in open_dataset(store, SECOND).images():
        assert trace(store, row["photo_sha256"]).images
    again = find_garbage(store, keep=1, grace_s=0)
    assert (again.versions, again.chunks, again.originals, again.leftovers) == ([], [], [], [])


def test_what_a_kill_cut_off_goes(tmp_path: Path) -> None:
    """A tar, its table and crops whose index or table is gone are garbage too: of a killed build, or of a killed gc."""
    store = copied(tmp_path / "store")
    collect(store)
    kept = set(store.keys("chunks"))
    orphans = {f"chunks/shard/{'0' * 64}.tar", f"chunks/shard/{'0' * 64}.parquet", "chunks/align/a/b.images"}
    for key in orphans:
        store.put(key, b"half")
    assert find_garbage(store, keep=1, grace_s=3600).chunks == []
    collect(store)
    assert set(store.keys("chunks")) == kept


class Killed(BaseException):
    """No code of ours catches it."""


def test_a_kill_leaves_whole_versions_and_garbage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before any of its deletions, every version that is there verifies, and another run deletes the rest."""
    unlink = os.unlink
    left = 0

    def counted(*given: object, **settings: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        unlink(*given, **settings)  # type: ignore[arg-type]

    for number in count():
        store = copied(tmp_path / str(number))
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", counted)
            left = number
            try:
                collect(store)
                was_killed = False
            except Killed:
                was_killed = True
        assert verify(store, None)[1].problems == [], number
        if not was_killed:
            break
        collect(store)
        assert references(store) == sorted([SECOND, WEB])
        assert not store.path("datasets/golden/71485f1fada17d95").exists()
    assert number > 5


def test_what_was_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    """A photograph that the record of what was fetched names stays, though no version has it."""
    store = copied(tmp_path / "store")
    fetched = {row["photo_sha256"] for row in open_dataset(store, WEB).images()}
    shutil.rmtree(store.path("datasets/golden-web"))
    shutil.rmtree(store.path("datasets/golden"))
    collect(store)
    kept = {path.name for path in store.path("originals").rglob("*") if path.is_file()}
    assert fetched <= kept
    assert len(kept) < 11


@pytest.mark.parametrize(
    "victim",
    [
        "runs/*/run.json",
        "datasets/golden/builds/*-3ada.json",
        "datasets/golden/74bfd02313603afd/images.parquet",
    ],
)
def test_nothing_is_deleted_where_a_record_cannot_be_read(tmp_path: Path, victim: str) -> None:
    """What a damaged run, build or table named is not known, so that all of it may be needed."""
    store = copied(tmp_path / "store", with_runs=True)
    [path] = store.root.glob(victim)
    path.write_bytes(b"")
    before = sorted(store.root.rglob("*"))
    with pytest.raises(IntegrityError, match=str(path)):
        find_garbage(store, keep=1, grace_s=0)
    assert sorted(store.root.rglob("*")) == before


def test_answers_go_when_they_do_not_stand_any_more(tmp_path: Path) -> None:
    """Answers of the last day stay, whatever the grace, since they count against how often a service may be asked."""
    store = copied(tmp_path / "store")
    for hours in (1, 25, 50):
        key = f"answers/api.example/{hours // 30}/{hours}.json"
        store.put(key, b"{}")
        os.utime(store.path(key), (time.time() - 3600 * hours,) * 2)
    assert [path.stem for path in find_garbage(store, keep=1, grace_s=30 * 3600).answers] == ["50"]
    collect(store)
    assert [path.name for path in store.path("answers").rglob("*")] == ["api.example", "0", "1.json"]


def test_nothing_is_deleted_beside_a_build(tmp_path: Path) -> None:
    """While a build works in the store, deleting is refused, and a new run waits for neither."""
    store = copied(tmp_path / "store")
    with store.in_use():
        create_run(store, open_dataset(store, SECOND).summary(), {"preset": "smoke"})
        with pytest.raises(ConfigError, match="a build works in"), alone(store):
            pass
    with alone(store):
        pass
    assert len(list_runs(store)) == 1


def test_the_command_deletes_when_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --delete it says what would go; with it that is gone."""
    store = copied(tmp_path / "store")
    words = ("gc", "--keep", "1", "--grace-h", "0", "--store", store.root)
    status, out, _ = likeness(capsys, *words)
    assert (status, out.splitlines()[0]) == (0, f"version {FIRST}")
    assert "would go: 1 version, 1 original, " in out
    assert store.exists(original_key(next(p.name for p in store.path("originals").rglob("*") if p.is_file())))
    assert references(store) == sorted([FIRST, SECOND, WEB])
    status, out, _ = likeness(capsys, *words, "--delete", "--json")
    found = json.loads(out)
    assert (status, found["deleted"], found["versions"]) == (0, True, [FIRST])
    assert references(store) == sorted([SECOND, WEB])
    assert likeness(capsys, "gc", "--keep", "0", "--store", store.root)[0] == 1


def test_what_versions_share_stays(tmp_path: Path, cluster: str) -> None:
    """Of two versions the older one goes, and with it the shards and parts of tables that only it had."""
    store = Store(tmp_path)
    config = {"source": "sample:6", "resolution": 32, "curate": {"pdq_max_distance": None}}
    config["detect"] = {"min_quad_px": 128}
    config["shard"] = {"images_per_shard": 2}
    whole, fewer = (
        build(
            BuildConfig.model_validate({**config, "limit": limit}),
            BuildOptions(store=store.root, scheduler=cluster),
            run_with(print),
        )
        for limit in (6, 5)
    )
    kept = {path.stat().st_ino for path in fewer.dataset.folder.rglob("*") if path.is_file()}
    shared = {
        path for path in whole.dataset.folder.rglob("*") if path.is_file() and path.stat().st_ino in kept
    }
    assert any(path.suffix == ".tar" for path in shared)
    collect(store)
    assert references(store) == [fewer.dataset.reference]
    assert verify(store, None)[1].problems == []
    left = [path for folder in ("shard", "table") for path in store.path(f"chunks/{folder}").iterdir()]
    tars = [path for path in left if path.suffix == ".tar"]
    assert sorted(path.stat().st_ino for path in tars) == sorted(
        path.stat().st_ino for path in fewer.dataset.shard_paths
    )
    assert len(left) == 4 * len(tars) + 2


def test_a_chunk_of_other_kinds_stays(tmp_path: Path) -> None:
    """A chunk whose photographs are numbers is none that can be judged: it stays, and everything else is collected."""
    store = copied(tmp_path / "store")
    path = store.path("chunks/align/a/b.parquet")
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"photo_sha256": [5]}), path)
    collect(store)
    assert references(store) == sorted([SECOND, WEB])
    assert path.is_file()
