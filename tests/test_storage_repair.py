"""storage.repair and flows.rebuild: each kind of damage is mended to the byte, or named with what is missing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from commands import likeness
from flows.build import build, run_with
from flows.options import BuildOptions
from flows.rebuild import rebuild
from flows.repair import repaired, version_asked
from preprocessing.columns import IMAGE_SCHEMA
from preprocessing.config import BuildConfig
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.sources import open_source
from storage.datasets.dataset import open_dataset
from storage.errors import NotFoundError, PipelineError
from storage.repair import repair
from storage.store import Store
from storage.verify import verify

GOLDEN = Path(__file__).with_name("data") / "golden" / "store"
OLD = "datasets/golden/71485f1fada17d95"
RUN = "runs/20261126-131151-golden-smoke-d82a"
NEWEST = f"{RUN}/checkpoints/000000096"

Harm = Callable[[Path], None]


def flipped(path: Path) -> None:
    """Another bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    replaced(path, data)


def cut(path: Path) -> None:
    """As by a full disk."""
    replaced(path, path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    """As by a power cut."""
    replaced(path, b"")


def deleted(path: Path) -> None:
    """As by a slip."""
    path.unlink()


def flipped_digit(path: Path) -> None:
    """Another digest of an entry: an index that can be read."""
    data = path.read_text()
    replaced(path, data[:-4].encode() + (b"0" if data[-4] != "0" else b"1") + data[-3:].encode())


def made_a_folder(path: Path) -> None:
    """As by somebody's mistake."""
    path.unlink()
    path.mkdir()


def made_a_loop(path: Path) -> None:
    """A link that leads to itself."""
    path.unlink()
    path.symlink_to(path.name)


def altered(path: Path) -> None:
    """As by somebody who would rather have another licence: a table that reads well."""
    table = pq.read_table(path)
    licenses = pa.array(["CC0-1.0"] * table.num_rows, pa.string())
    path.unlink()
    pq.write_table(table.set_column(table.column_names.index("license"), "license", licenses), path)


def replaced(path: Path, data: bytes | bytearray) -> None:
    """Another file of this name; those that were linked to it stay."""
    path.unlink()
    path.write_bytes(data)


def digests(store: Store) -> dict[str, str]:
    """Every file of a store but for what is noted on the way."""
    return {
        key: hashlib.sha256(store.path(key).read_bytes()).hexdigest()
        for top in ("datasets", "chunks", "originals", "runs", "ledger")
        for key in store.keys(top)
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs, made from the sample."""
    folder = tmp_path_factory.mktemp("photos")
    source = open_source("sample:9", FetchConfig())
    for item, data in source.read(source.items()):  # type: ignore[misc]
        (folder / Path(item.ref).name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def built(photos: Path, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one version of today's format, which no test changes."""
    store = Store(tmp_path_factory.mktemp("built") / "store")
    config = BuildConfig.model_validate(
        {
            "source": f"folder:{photos}", "name": "faces", "resolution": 32,
            "detect": {"min_quad_px": 128}, "curate": {"pdq_max_distance": None}, "shard": {"images_per_shard": 4},
        }
    )  # fmt: skip
    build(config, BuildOptions(store=store.root, scheduler=cluster), run_with(lambda _: None))
    assert verify(store, None)[1].problems == []
    return store


@pytest.fixture
def store(built: Store, tmp_path: Path) -> Store:
    """A copy of it, whose files are no links to each other."""
    return Store(shutil.copytree(built.root, tmp_path / "store"))


@pytest.fixture
def golden(tmp_path: Path) -> Store:
    """A store of the first format, with a run."""
    return Store(shutil.copytree(GOLDEN, tmp_path / "golden"))


def only(store: Store, pattern: str) -> Path:
    """The first file of a pattern."""
    return min(store.root.glob(pattern))


MENDED = {
    "datasets/faces/*/shards/*.tar": (flipped, cut, emptied, deleted),
    "datasets/faces/*/shards/*.index.json": (flipped, cut, emptied, deleted),
    "datasets/faces/*/shards.txt": (flipped, emptied, deleted),
    "datasets/faces/*/images.parquet": (altered, cut, emptied, deleted),
    "datasets/faces/*/rejections.parquet": (cut, emptied, deleted),
    "datasets/faces/*/images.parts.json": (flipped, cut, emptied, deleted),
    "datasets/faces/*/rejections.parts.json": (flipped, cut, deleted),
    "datasets/faces/*/manifest.json": (flipped,),
    "datasets/faces/latest.json": (cut, emptied),
    "originals/*/*": (flipped, cut, emptied, deleted),
    "chunks/align/*/*.images": (flipped,),
    "chunks/shard/*.tar": (flipped, cut, deleted),
}
"""What is mended to the byte, without a build."""
DROPPED = {
    "datasets/faces/*/lookup.parquet": (cut, emptied),
    "chunks/align/*/*.parquet": (cut, emptied, made_a_folder, made_a_loop),
    "chunks/align/*/gathered/*.parquet": (cut, emptied, made_a_folder),
    "chunks/table/*.parquet": (altered, cut, made_a_folder),
    "chunks/shard/*[0-9a-f].json": (flipped, emptied, made_a_folder),
    "chunks/shard/*.index.json": (cut, flipped_digit, made_a_folder, made_a_loop),
    "chunks/shard/*.tar": (made_a_folder, made_a_loop),
}
"""What only makes something quicker: it is mended, or deleted and made again by whoever needs it."""


def cases(damages: Mapping[str, tuple[Harm, ...]]) -> list[tuple[str, Harm]]:
    """Each damage by itself."""
    return [(pattern, harm) for pattern, harms in damages.items() for harm in harms]


def named(value: object) -> str:
    """A damage, as a test is called."""
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("pattern", "harm"), cases(MENDED), ids=named)
def test_damage_is_mended_to_the_byte(built: Store, store: Store, pattern: str, harm: Harm) -> None:
    """A dry run names the file and changes nothing; then all of the store holds, and is what it was."""
    before = digests(built)
    path = only(store, pattern)
    harm(path)
    if harm is MENDED[pattern][0]:
        harmed = digests(store)
        dry = repair(store, None, IMAGE_SCHEMA, dry=True)
        assert digests(store) == harmed
        assert str(path) in dry.mended
    done = repair(store, None, IMAGE_SCHEMA, dry=False)
    assert (str(path) in done.mended, done.left) == (True, [])
    assert digests(store) == before


@pytest.mark.parametrize(("pattern", "harm"), cases(DROPPED), ids=named)
def test_what_is_derived_is_dropped(store: Store, pattern: str, harm: Harm) -> None:
    """What a build would make again is no damage any more; versions are what they were."""
    path = only(store, pattern)
    harm(path)
    done = repair(store, None, IMAGE_SCHEMA, dry=False)
    assert (str(path) in done.mended, done.left) == (True, [])
    assert verify(store, None)[1].problems == []


@pytest.mark.parametrize("harm", [flipped, cut, emptied, deleted], ids=named)
def test_a_tar_that_is_gone_everywhere_is_packed_again(built: Store, store: Store, harm: Harm) -> None:
    """Without the packed chunk a tar is made of the table and the crops, its index of the tar; both to the byte."""
    shutil.rmtree(store.path("chunks/shard"))
    path = only(store, "datasets/faces/*/shards/*.tar")
    harm(path)
    deleted(path.with_name(path.name.replace(".tar", ".index.json")))
    done = repair(store, "faces", IMAGE_SCHEMA, dry=False)
    assert done.left == []
    before, after = digests(built), digests(store)
    assert all(before[key] == after[key] for key in before if key.startswith("datasets"))


LEFT = {
    f"{RUN}/run.json": ((cut, emptied), "restore it from a backup"),
    f"{RUN}/metrics/000000096.json": ((cut, emptied), "likeness evaluate measures again"),
    f"{RUN}/audit/000000096.json": ((cut, emptied), "likeness audit looks again"),
    f"{RUN}/result.json": ((cut,), "as training goes on"),
    f"{NEWEST}/optimizers.safetensors": ((flipped, deleted), "goes on from the newest intact checkpoint"),
    f"{NEWEST}/state.json": ((cut,), "goes on from the newest intact checkpoint"),
    "datasets/golden/builds/20261126-131140-golden-6d3f.json": ((cut, emptied), "restore it from a backup"),
    "originals/69/69b40f2bb6409c5d4c2141c1b09b3a20ce509d463e0e266b2d3255f48834ebf0": (
        (flipped, deleted), "put the photograph back",
    ),
    f"{OLD}/rejections.parquet": ((cut, deleted), "builds it again"),
    f"{OLD}/manifest.json": ((cut, deleted), "builds it again"),
}  # fmt: skip
"""What nothing in the golden store holds a second time, and what helps."""


@pytest.mark.parametrize(
    ("name", "harm"), [(name, harm) for name, (harms, _) in LEFT.items() for harm in harms], ids=named
)
def test_what_cannot_be_mended_is_named(golden: Store, name: str, harm: Harm) -> None:
    """The file is named with what would help, and nothing else is touched."""
    path = golden.path(name)
    harm(path)
    harmed = digests(golden)
    done = repair(golden, None, IMAGE_SCHEMA, dry=False)
    assert any(str(path) in problem and LEFT[name][1] in problem for problem in done.left), done.left
    after = digests(golden)
    assert {key: after[key] for key in harmed} == harmed


OLD_MENDED = {
    f"{OLD}/shards/00001.tar": (flipped, cut, deleted),
    f"{OLD}/shards/00001.index.json": (flipped, emptied, deleted),
    f"{OLD}/images.parquet": (cut, emptied, deleted),
    f"{OLD}/manifest.json": (flipped,),
}


@pytest.mark.parametrize(("name", "harm"), cases(OLD_MENDED), ids=named)
def test_versions_of_the_first_format_are_mended(golden: Store, name: str, harm: Harm) -> None:
    """Tars and indices from packed chunks or from the table, the table from the tars; a bit by the version's name."""
    harm(golden.path(name))
    done = repair(golden, "golden", IMAGE_SCHEMA, dry=False)
    assert done.left == []
    assert verify(golden, "golden@71485f1fada17d95")[1].problems == []
    if not name.endswith(".parquet"):  # which counts by its rows
        assert golden.path(name).read_bytes() == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize("name", ["optimizers.safetensors", "generator_ema.safetensors", "state.json"])
def test_a_checkpoint_is_mended_from_what_mlflow_was_sent(golden: Store, name: str) -> None:
    """MLflow's artifacts are taken where they have the hash on record."""
    sent = golden.path("mlartifacts/1/ab/artifacts/checkpoints/000000096")
    shutil.copytree(golden.path(NEWEST), sent)
    flipped(golden.path(f"{NEWEST}/{name}")) if name != "state.json" else emptied(
        golden.path(f"{NEWEST}/{name}")
    )
    done = repair(golden, RUN.removeprefix("runs/"), IMAGE_SCHEMA, dry=False)
    assert done.left == []
    assert golden.path(f"{NEWEST}/{name}").read_bytes() == (GOLDEN / NEWEST / name).read_bytes()
    flipped(sent / "generator.safetensors")
    flipped(golden.path(f"{NEWEST}/generator.safetensors"))
    assert len(repair(golden, RUN.removeprefix("runs/"), IMAGE_SCHEMA, dry=False).left) == 1


GONE = {
    "manifest": ["manifest.json"],
    "tables": ["images.parquet", "rejections.parquet", "images.parts.json", "rejections.parts.json"],
    "rejections": ["rejections.parquet"],
    "all but the manifest": [
        "images.parquet",
        "rejections.parquet",
        "shards",
        "shards.txt",
        "images.parts.json",
    ],
}


@pytest.mark.parametrize("names", GONE.values(), ids=list(GONE))
def test_a_version_is_built_again_where_nothing_else_helps(
    built: Store, store: Store, cluster: str, names: list[str]
) -> None:
    """What is gone in every place comes back to the byte, by the build on record; names and records stay."""
    version = open_dataset(store, "faces")
    for name in names:
        path = version.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(store.path("chunks/table"))
    shutil.rmtree(store.path("chunks/shard"))
    done = repaired(store, version.reference, BuildOptions(scheduler=cluster), dry=False)
    assert done.left == []
    before, after = digests(built), digests(store)
    assert {key: after.get(key) for key in before if key.startswith("datasets")} == {
        key: value for key, value in before.items() if key.startswith("datasets")
    }
    assert list(store.root.glob(".*.partial")) == []


def test_a_rebuild_is_the_same_or_says_which_input_is_another(
    built: Store, store: Store, photos: Path, cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the byte where nothing changed; photographs, settings and libraries that differ are named."""
    options = BuildOptions(scheduler=cluster)
    version = open_dataset(store, "faces")
    again = rebuild(version, options, run_with(lambda _: None))
    assert (again.is_same, again.differences) == (True, ())
    assert digests(store) == digests(built)
    words = ("--scheduler", cluster, "--store", store.root)
    status, out, _ = likeness(capsys, "rebuild", "faces", "--dry-run", "--json", *words)
    assert (status, json.loads(out)["dataset"]) == (0, version.reference)
    assert json.loads(out)["config"]["source"] == f"folder:{photos}"
    status, out, _ = likeness(capsys, "rebuild", "faces", "--quiet", *words)
    assert (status, out) == (0, f"{version.reference} was built again, the same to the byte\n")

    other = shutil.copytree(photos, tmp_path / "other")
    first, second = sorted(other.iterdir())[:2]
    first.write_bytes(first.read_bytes() + b"\0")
    second.unlink()
    record = only(store, "datasets/faces/builds/*.json")
    value = json.loads(record.read_bytes())
    value["config"]["source"] = f"folder:{other}"
    value["facts"]["packages"]["numpy"] = "1.0"
    record.write_text(json.dumps(value))
    os.remove(only(store, "datasets/faces/*/rejections.parts.json"))
    os.remove(only(store, "datasets/faces/*/rejections.parquet"))
    status, _, err = likeness(capsys, "rebuild", "faces", "--quiet", *words)
    assert status == 1
    assert "library numpy was 1.0 and is " in err
    assert open_dataset(store, "faces").version == version.version
    with pytest.raises(NotFoundError, match="no one version '00000000' of 'faces'"):
        version_asked(store, "faces@00000000")
    shutil.rmtree(store.path("datasets/faces/builds"))
    with pytest.raises(NotFoundError, match="no record of a build says how"):
        rebuild(version, options, run_with(lambda _: None))


def test_the_command_says_what_it_did(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A line a mend; dry first, then done; status 1 where something is left; nothing where nothing is damaged."""
    where = ("--store", store.root)
    assert likeness(capsys, "repair", "faces", *where)[:2] == (0, "nothing is damaged\n")
    path = only(store, "datasets/faces/*/shards.txt")
    emptied(path)
    assert likeness(capsys, "repair", "faces", "--dry-run", *where)[:2] == (
        0,
        f"would mend {path}: the manifest\n",
    )
    assert path.read_bytes() == b""
    status, out, _ = likeness(capsys, "repair", "--all", "--json", *where)
    assert (status, json.loads(out)["mended"]) == (0, {str(path): "the manifest"})
    for unclear in ([], ["faces", "--all"]):
        assert likeness(capsys, "repair", *unclear, *where)[0] == 1


@pytest.mark.parametrize("place", ["manifest.json", "shards.txt", "shards/*.tar", "images.parquet"])
def test_what_is_no_file_is_mended_and_no_link_is_written_through(
    store: Store, tmp_path: Path, cluster: str, place: str
) -> None:
    """A folder, a pipe and a link to itself give way to the file; a link that leads out is named, and what it leads
    to stays as it is.
    """
    options = BuildOptions(store=store.root, scheduler=cluster)
    whole = digests(store)

    def path() -> Path:
        return sorted(store.root.glob(f"datasets/faces/????????????????/{place}"))[0]

    for number, harm in enumerate((Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name))):
        harmed = path()
        harmed.unlink()
        harm(harmed)
        assert repaired(store, None, options, dry=False).left == [], number
        assert {key: sha256 for key, sha256 in digests(store).items() if key in whole} == whole
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    harmed = path()
    harmed.unlink()
    harmed.symlink_to(outside)
    left = repaired(store, None, options, dry=False).left
    assert any(str(harmed) in problem for problem in left), left
    with pytest.raises(PipelineError, match="leads out of the store"):
        rebuild(
            version_asked(store, f"faces@{harmed.relative_to(store.root).parts[2]}"), options, run_with(print)
        )
    assert outside.read_bytes() == b"mine"
