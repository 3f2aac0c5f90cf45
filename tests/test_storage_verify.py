"""storage.verify: whatever is stored and has changed is named, and what has not is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import likeness
from flows.build import build, run_with
from flows.options import BuildOptions
from preprocessing.config import BuildConfig
from storage.checks import KNOWN
from storage.datasets.dataset import open_dataset
from storage.datasets.lookup import lookup_key, write_lookup
from storage.store import Store
from storage.verify import verify

GOLDEN = Path(__file__).with_name("data") / "golden" / "store"
FIRST = "golden@71485f1fada17d95"
RUN = "20261126-131151-golden-smoke-d82a"
NEWEST = f"runs/{RUN}/checkpoints/000000096"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The golden store."""
    return Store(shutil.copytree(GOLDEN, tmp_path / "store"))


def problems(store: Store, reference: str | None = None, *, fast: bool = False) -> list[str]:
    """What verify finds."""
    return verify(store, reference, fast=fast)[1].problems


def test_a_store_that_is_intact_is_looked_through(store: Store) -> None:
    """All kinds of things are counted, each once, and nothing is found."""
    what, checked = verify(store, None)
    assert (what, checked.problems) == ({"store": str(store.root)}, [])
    num_originals = len(list(store.keys("originals")))
    assert checked.counts == {
        "manifest": 3, "table": 6, "lookup": 3, "shard": 5, "original": num_originals, "name": 2, "build": 3,
        "run": 1, "grid": 2, "record": 4, "checkpoint": 2, "chunk": 12, "layout": 1,
    }  # fmt: skip


def flipped(path: Path) -> None:
    """Another byte in the middle; not in a file that others share."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


def cut(path: Path) -> None:
    """As by a full disk."""
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    """As by a power cut."""
    path.write_bytes(b"")


DAMAGES: list[tuple[str, tuple[Callable[[Path], None], ...]]] = [
    ("datasets/golden/71485f1fada17d95/manifest.json", (flipped, cut, emptied)),
    ("datasets/golden/71485f1fada17d95/rejections.parquet", (cut, emptied, Path.unlink)),
    ("datasets/golden/71485f1fada17d95/shards/00001.tar", (flipped, cut, emptied, Path.unlink)),
    ("datasets/golden/71485f1fada17d95/shards/00001.index.json", (flipped, cut, emptied, Path.unlink)),
    ("datasets/golden/latest.json", (cut, emptied)),
    ("datasets/golden-web/builds/20261126-131209-golden-web-f870.json", (cut, emptied)),
    (f"runs/{RUN}/run.json", (cut, emptied)),
    (f"runs/{RUN}/grids/000000096.png", (flipped, cut, emptied)),
    (f"runs/{RUN}/result.json", (cut, emptied)),
    (f"runs/{RUN}/metrics/000000096.json", (cut, emptied)),
    (f"runs/{RUN}/audit/000000096.json", (cut, emptied)),
    (f"{NEWEST}/state.json", (cut, emptied)),
    (f"{NEWEST}/optimizers.safetensors", (flipped, cut, emptied, Path.unlink)),
    ("originals/69/69b40f2bb6409c5d4c2141c1b09b3a20ce509d463e0e266b2d3255f48834ebf0", (flipped, cut, Path.unlink)),
    ("chunks/shard/268f289121fc01a970c78e73604fa6876fab40116208190d23f35c51a2b64398.tar", (flipped, Path.unlink)),
    ("chunks/shard/268f289121fc01a970c78e73604fa6876fab40116208190d23f35c51a2b64398.index.json", (cut, emptied)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "harm"), [(name, harm) for name, harms in DAMAGES for harm in harms],
    ids=lambda value: getattr(value, "__name__", str(value)[-40:]),
)  # fmt: skip
def test_every_damage_is_named(store: Store, name: str, harm: Callable[[Path], None]) -> None:
    """A file that was altered, cut, emptied or deleted is named, whether or not all is hashed again."""
    verify(store, None)
    path = store.path(name)
    harm(path)
    for fast in (False, True):
        found = problems(store, fast=fast)
        assert any(str(path) in problem for problem in found), found
        assert all("\n" not in problem for problem in found)


@pytest.mark.parametrize("suffix", [".images", ".parquet"])
def test_a_damaged_chunk_is_named(store: Store, suffix: str) -> None:
    """Of aligned chunks the crops and the table."""
    path = next(
        path for path in sorted(store.path("chunks/align").rglob(f"*{suffix}")) if path.stat().st_size
    )
    flipped(path) if suffix == ".images" else cut(path)
    assert any(str(path.with_suffix("")) in problem for problem in problems(store))


def test_a_lookup_that_hides_a_row_is_named(store: Store) -> None:
    """A lookup is derived, but one that was altered would hide a photograph: it is held to the tables."""
    dataset = open_dataset(store, FIRST)
    write_lookup(dataset)
    assert problems(store, FIRST) == []
    path = store.path(lookup_key(dataset))
    file = pq.ParquetFile(path)
    parts = [file.read_row_group(number) for number in range(file.num_row_groups)]
    with pq.ParquetWriter(path, file.schema_arrow, write_page_checksum=True) as writer:
        for part in parts:
            bits = pa.array([bits + 1 for bits in part["bits"].to_pylist()], pa.uint64())
            writer.write_table(part.set_column(0, "bits", bits).cast(file.schema_arrow))
    [problem] = problems(store, FIRST)
    assert problem.startswith(f"{path} is not what its version's tables give")


def as_folder(path: Path) -> None:
    """A folder with something in it, where a file is or may be."""
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)
    (path / "mine.txt").write_text("mine")


def as_file(path: Path) -> None:
    """A file, where a folder is or may be."""
    if path.is_dir():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")


def as_pipe(path: Path) -> None:
    """What a reader would wait for without end."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def as_link_out(path: Path) -> None:
    """A link that leads out of the store."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/")


SHA256 = "0" * 64
MISPLACED: dict[str, Callable[[Path], object]] = {
    **dict.fromkeys(
        ("datasets", "runs", "chunks", "originals", "ledger", "tombstones", "forgets", "promotions", "exports",
         "imports", "cache", "incoming", "lineage", "answers", "mlartifacts", "chunks/shard", "chunks/table",
         "chunks/align", "datasets/golden", "datasets/golden/builds", "datasets/golden/71485f1fada17d95/shards",
         "originals/69", "ledger/segments", "ledger/working", f"runs/{RUN}/checkpoints", f"runs/{RUN}/metrics",
         "runs/notes.txt", "datasets/notes.txt", "datasets/golden/notes.txt", "datasets/golden/builds/notes.txt",
         "tombstones/notes.txt", "tombstones/key.jsonl", "forgets/one/notes.txt", "promotions/golden/notes.txt",
         "exports/golden/notes.txt", "chunks/notes.txt", "originals/notes.txt", f"originals/01/{SHA256}",
         "withdrawn.json", "datasets/withdrawn.json", "datasets/golden/withdrawn.json", f"runs/{RUN}/withdrawn.json",
         "forgets/one/withdrawn.json", "datasets/golden/71485f1fada17d95/shards/withdrawn.json"),
        as_file,
    ),
    **dict.fromkeys(
        ("datasets/golden/builds/x.json", "datasets/golden/latest.json", "datasets/golden/rechecks/x.json",
         "datasets/golden/71485f1fada17d95/manifest.json", "datasets/golden/71485f1fada17d95/shards.txt",
         "datasets/golden/71485f1fada17d95/withdrawn.json", f"runs/{RUN}/run.json", f"{NEWEST}/state.json",
         "tombstones/key", f"tombstones/{SHA256}.jsonl", "tombstones/mine", f"originals/00/{SHA256}",
         "originals/mine", "chunks/mine", "chunks/shard/x.tar", f"chunks/table/{SHA256}.parquet",
         "promotions/golden/champion.json", "promotions/golden/decisions/x.json", "exports/golden/x.json",
         "forgets/one/certificate.json", "imports/ffhq/import.json", f"ledger/segments/00/{SHA256}.parquet",
         "datasets/not a name", ".lock", "mlflow.db"),
        as_folder,
    ),
    "tombstones/pipe": as_pipe,
    f"runs/{RUN}/pipe": as_pipe,
    "datasets/golden/71485f1fada17d95/images.parquet": as_pipe,
    "datasets/golden/elsewhere": as_link_out,
    "originals/ff": as_link_out,
    f"tombstones/{'1' * 64}.jsonl": as_link_out,
    "datasets/golden/round": lambda path: path.symlink_to(".."),
    "chunks/align/round": lambda path: path.symlink_to("."),
    f"originals/00/{'1' * 64}": lambda path: (path.parent.mkdir(), path.symlink_to(path.name)),
}  # fmt: skip
"""What is of the wrong kind, or lies where nothing of the store's does."""


@pytest.mark.parametrize("name", MISPLACED)
def test_what_does_not_belong_is_named(store: Store, name: str) -> None:
    """Every place that a store has is held to its kind, each in one sentence, whether or not all is hashed again."""
    path = store.path(name)
    MISPLACED[name](path)
    for fast in (True, False):
        found = problems(store, fast=fast)
        assert any(f"{path} " in f"{problem} " for problem in found), found
        assert all("\n" not in problem for problem in found)


def test_what_belongs_is_not_named(store: Store) -> None:
    """Files that people put beside a run or into a version, what is hidden, and what a killed process left, are no
    problem, and neither is a link that stays within the store."""
    for name in (
        "notes.txt", f"runs/{RUN}/notes.txt", "datasets/golden/71485f1fada17d95/review/page.html", ".DS_Store",
        "tombstones/.DS_Store", "datasets/golden/builds/.0123456789abcdef.partial", "cache/anything/at/all", ".lock",
        "datasets/golden/.lock", f"runs/{RUN}/checkpoints/damaged-000000096-1f2e/state.json", "lineage/events.jsonl",
        "datasets/golden/0123456789abcdef/images.parquet",
    ):  # fmt: skip
        store.put(name, b"mine")
    original = min(store.path("originals").glob("*/*"))
    moved = store.path("mine")
    original.rename(moved)
    original.symlink_to(moved)
    assert problems(store) == []


MISSING = {
    f"runs/{RUN}/run.json": "runs",
    f"{NEWEST}/state.json": "a checkpoint",
    "datasets/golden/71485f1fada17d95/manifest.json": "a version that a build names",
}
"""Records without which a folder is none of its kind."""


@pytest.mark.parametrize("name", MISSING)
def test_a_record_that_is_gone_is_named(store: Store, name: str) -> None:
    """What it was the record of does not vanish with it."""
    store.path(name).unlink()
    for fast in (True, False):
        assert f"{store.path(name)} is missing" in problems(store, fast=fast)


def test_a_damaged_record_hides_no_other_damage(store: Store) -> None:
    """Records that cannot be read, one of each kind, and a damaged original: all of them are named at once."""
    names = (
        "datasets/golden/71485f1fada17d95/manifest.json", "datasets/golden-web/latest.json", f"runs/{RUN}/run.json",
        "datasets/golden/0123456789abcdef/withdrawn.json", "forgets/one/certificate.json", "forgets/one/intent.json",
        "promotions/golden/champion.json", "promotions/golden/decisions/x.json", "exports/golden/x.json",
        f"tombstones/{SHA256}.jsonl", "tombstones/key", "imports/ffhq/import.json", "chunks/table/x.parquet",
        "chunks/crawl/a/b.parquet", "datasets/golden/rechecks/x.json", f"ledger/segments/00/{SHA256}.parquet",
    )  # fmt: skip
    for data in (b"", b"{}", b'{"format": 99}', b"[]", b"\xff\xfe", b"[" * 100_000):
        for name in names:
            store.put(name, data)
        original = min(store.path("originals").glob("*/*"))
        store.put(original.relative_to(store.root).as_posix(), data)
        found = problems(store)
        for path in (*map(store.path, names), original):
            if (
                not data.startswith(b"{") or path.parent.name != "rechecks"
            ):  # of which storage knows that they are JSON
                assert any(str(path) in problem for problem in found), (path, data[:9], found)
        assert all("\n" not in problem for problem in found)


def test_a_fast_check_hashes_what_has_changed(store: Store) -> None:
    """A file of the same size and time is taken for the same, by a fast check alone."""
    verify(store, None)
    path = store.path(f"{NEWEST}/generator_ema.safetensors")
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert problems(store, fast=True) == []
    assert problems(store) == [f"{path} no longer has its recorded sha256"]
    store.path(KNOWN).write_bytes(b"no table")
    assert problems(store, fast=True) == [f"{path} no longer has its recorded sha256"]


def test_a_checkpoint_of_another_run_is_named(store: Store) -> None:
    """A checkpoint that was put into a run of other data is told by its record."""
    path = store.path(f"{NEWEST}/state.json")
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps({**value, "run_id": "another"}))
    assert problems(store, RUN) == problems(store, str(path.parent))
    [problem] = problems(store, RUN)
    assert problem.startswith(f"{path} is of another run")


def test_the_command_says_a_problem_a_line(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Each problem is a line, or an entry of the JSON, and the status says whether there is any."""
    where = ("--store", store.root)
    for reference in ("golden", FIRST, RUN, store.path(NEWEST), "--all"):
        status, out, _ = likeness(capsys, "verify", reference, *where)
        assert status == 0
        assert " is intact: " in out
    victims = [store.path(f"{NEWEST}/{name}.safetensors") for name in ("discriminator", "generator")]
    for victim in victims:
        emptied(victim)
    for words in ((RUN,), ("--all",), (store.path(NEWEST), "--fast")):
        status, out, err = likeness(capsys, "verify", *words, *where)
        assert (status, out.splitlines()) == (
            1,
            [f"{victim} no longer has its recorded sha256" for victim in victims],
        )
        assert err.endswith("is not intact: 2 problems\n")
    status, out, _ = likeness(capsys, "verify", RUN, "--json", *where)
    found = json.loads(out)
    assert (status, found["run"], found["intact"], len(found["problems"])) == (1, RUN, False, 2)
    assert likeness(capsys, "verify", FIRST, *where)[0] == 0
    for unclear in ([], ["golden", "--all"]):
        status, _, err = likeness(capsys, "verify", *unclear, *where)
        assert status == 1
        assert "say what to verify" in err


def test_what_is_packed_is_checked(tmp_path: Path, cluster: str) -> None:
    """Of a build's tars, their records and parts of tables, and of a version's list of shards, damage is named."""
    config = BuildConfig.model_validate(
        {"source": "sample:4", "resolution": 32, "detect": {"min_quad_px": 128}}
    )
    store = Store(tmp_path)
    built = build(config, BuildOptions(store=store.root, scheduler=cluster), run_with(lambda _: None))
    assert problems(store) == []
    whole = [path for path in store.path("chunks/shard").iterdir() if path.suffix != ".parquet"]
    for path in [*whole, *store.path("chunks/table").iterdir(), built.dataset.folder / "shards.txt"]:
        intact = path.read_bytes()
        cut(path)
        assert any(str(path).removesuffix(".tar") in problem for problem in problems(store)), path
        path.write_bytes(intact)
    assert problems(store) == []
