"""flows.forget: what is forgotten leaves no trace, and what is left is what a build without it gives, kills or not."""

from __future__ import annotations

import json
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster
from PIL import Image
from prefect.settings import PREFECT_API_URL, temporary_settings
from raw_web import Web, reply, serving

from commands import likeness
from flows.build import Built, build, run_with
from flows.forget import Forgotten, forget
from flows.options import BuildOptions
from flows.recurate import recuration
from flows.stages.work import Progress
from preprocessing.asked import Asked
from preprocessing.config import BuildConfig
from preprocessing.forgetting import find
from preprocessing.recheck import RecheckRecord
from storage.bundled.generator import FILE as BUNDLED_FILE
from storage.bundled.photographs import photographs
from storage.datasets.collect import delete, find_garbage
from storage.datasets.dataset import dataset_names, open_dataset
from storage.datasets.records import VersionName
from storage.digest import bytes_digest, file_digest
from storage.errors import ConfigError, EmptyDatasetError, IntegrityError, NotFoundError, WithdrawnError
from storage.exports.records import Exported
from storage.lineage.trace import trace
from storage.runs import InitFrom, Run, create_run, list_runs
from storage.store import Store, original_key
from storage.tombstones import Tombstones
from storage.verify import verify
from storage.withdrawals import intents

DATA = Path(__file__).with_name("data")
FOLDER: dict[str, Any] = {"resolution": 32, "name": "golden", "shard": {"images_per_shard": 2}}


@pytest.fixture(scope="module", autouse=True)
def no_server() -> Iterator[None]:
    """No Prefect server is configured, whatever the project's own file says."""
    with temporary_settings({PREFECT_API_URL: None}):
        yield


def silent(_: Progress) -> None:
    """A report to nobody."""


@dataclass(frozen=True)
class Drawn:
    """Drawn pictures: a folder of them, and a server and a list of others."""

    photos: Path
    web: Web
    urls: Path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drawn]:
    """The pictures of the golden store, drawn again, and a copy of one of them on the web."""
    folder = tmp_path_factory.mktemp("pictures")
    runpy.run_path(str(DATA / "golden_pictures.py"))["main"](folder)
    files = {f"/{path.name}": path.read_bytes() for path in (folder / "web").iterdir()}
    with serving(
        lambda request: reply(files[request.target]) if request.target in files else reply(status=404)
    ) as web:
        text = (folder / "urls.jsonl").read_text().replace("http://127.0.0.1:8765", web.url(""))
        (folder / "urls.jsonl").write_text(text)
        yield Drawn(folder / "photos", web, folder / "urls.jsonl")


def of_folder(store: Path, photos: Path, cluster: str, **settings: Any) -> Built:
    """A build of a folder."""
    config = BuildConfig.model_validate({**FOLDER, "source": f"folder:{photos}", **settings})
    return build(config, BuildOptions(store=store, scheduler=cluster, chunk_size=4), run_with(silent))


def of_web(store: Path, urls: Path, cluster: str) -> Built:
    """A build of a list."""
    fetch = {"user_agent": "test/1", "allow_networks": ["127.0.0.0/8"], "retries": 0}
    given = {"source": f"urls:{urls}", "name": "web", "resolution": 32, "fetch": fetch}
    config = BuildConfig.model_validate(given)
    return build(config, BuildOptions(store=store, scheduler=cluster), run_with(silent))


@pytest.fixture(scope="module")
def built(drawn: Drawn, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two versions of the folder and one of the list."""
    store = tmp_path_factory.mktemp("built") / "store"
    of_folder(store, drawn.photos, cluster, curate={"faces": "single"})
    of_folder(store, drawn.photos, cluster)
    of_web(store, drawn.urls, cluster)
    return store


def forgotten(store: Path, cluster: str, **asked: Any) -> Forgotten:
    """Found and forgotten."""
    found = find(Store(store), Asked(**asked))
    return forget(Store(store), found, BuildOptions(store=store, scheduler=cluster), run_with(silent))


def without(photos: Path, folder: Path, *names: str) -> Path:
    """The folder without some of its files, and without what is said of them."""
    shutil.copytree(photos, folder)
    for name in names:
        (folder / name).unlink()
    rows = [json.loads(line) for line in (folder / "photos.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["file"] not in names]
    (folder / "photos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    return folder


def everything(root: Path) -> Iterator[tuple[Path, bytes]]:
    """All that a store holds, file by file: Parquet and SQLite as text too, tars by their members."""
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        yield path, path.name.encode() + b"\n" + path.read_bytes()
        if path.suffix == ".parquet":
            yield path, json.dumps(pq.read_table(path).to_pylist(), ensure_ascii=False).encode()
        if path.suffix == ".sqlite":
            with sqlite3.connect(path) as db:
                yield path, "\n".join(db.iterdump()).encode()
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file is not None
                    yield path, file.read()


def traces(root: Path, needles: dict[str, bytes]) -> list[tuple[str, Path]]:
    """Which of some bytes lie where in a store."""
    return [
        (name, path) for path, data in everything(root) for name, needle in needles.items() if needle in data
    ]


def needles_of(store: Path, name: str, ref: str, *texts: str) -> dict[str, bytes]:
    """What must not be found of a photograph: the middle of its bytes and of its crops, and some texts."""
    dataset = open_dataset(Store(store), name)
    found = {text: text.encode() for text in texts}
    for row in dataset.images():
        if row["ref"] == ref:
            crop = (dataset.folder / row["shard"]).read_bytes()[row["offset"] :][: row["size"]]
            found[f"crop {row['key']}"] = crop[len(crop) // 2 :][:64]
            original = dataset.store.original(row["photo_sha256"])
            found["original"] = original[len(original) // 2 :][:64]
    assert len(found) > len(texts)
    return found


def small_copy(path: Path, to: Path, px: int = 260) -> Path:
    """A picture, smaller and of lesser quality."""
    with Image.open(path) as image:
        copy = image.convert("RGB")
        copy.thumbnail((px, px))
        copy.save(to, "JPEG", quality=60, exif=image.getexif())
    return to


@pytest.mark.parametrize(
    ("asked", "gone"),
    [
        ({"url": ("clara.jpg",)}, ["clara.jpg"]),
        ({"author": ("b.  BRUSH",)}, ["bruno.webp"]),
        ({"license": ("CC BY-SA 4.0",)}, ["clara.jpg"]),
        ({"image": "emma-small.jpg"}, ["emma.jpg", "emma-small.jpg"]),
        ({"hash": "david.jpg"}, ["david.jpg"]),
        ({"url": ("https://drawings.example/pencil",)}, ["anna.jpg", "twice/anna.jpg"]),
        ({"url": ("broken.jpg", "wall.jpg", "fritz.jpg")}, ["broken.jpg", "wall.jpg", "fritz.jpg"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_left_is_a_build_without(
    built: Path, drawn: Drawn, cluster: str, tmp_path: Path, asked: dict[str, Any], gone: list[str]
) -> None:
    """The version that is left has the hash of a build of the source without it, and a build of all of the source
    gives it too; whatever names it, nothing of it is found, and the store is intact.
    """
    store = shutil.copytree(built, tmp_path / "store")
    if "image" in asked:
        asked = {"image": (drawn.photos / asked["image"],)}
    if "hash" in asked:
        rows = {row["ref"]: row for row in open_dataset(Store(store), "golden").images()}
        asked = {"hash": (rows[asked["hash"]]["key"],)}
    kept_out = {path: path.read_bytes() for path in map(drawn.photos.joinpath, gone)}
    done = forgotten(store, cluster, **asked)
    version = open_dataset(Store(store), "golden")
    assert done.certificate.published[0].version == version.version
    whole = of_folder(
        shutil.copytree(built, tmp_path / "other"), without(drawn.photos, tmp_path / "p", *gone), cluster
    )
    assert version.version == whole.dataset.version
    assert version.manifest == whole.dataset.manifest
    assert verify(Store(store), None)[1].problems == []
    parts = {path.name: data[len(data) // 2 :][:64] for path, data in kept_out.items() if len(data) > 64}
    assert traces(store, parts) == []
    again = of_folder(store, drawn.photos, cluster)
    assert (again.dataset.version, again.record.unchanged) == (version.version, True)
    assert traces(store, parts) == []
    assert verify(Store(store), None)[1].problems == []


def test_nothing_is_left_to_be_found(built: Path, drawn: Drawn, cluster: str, tmp_path: Path) -> None:
    """Of a photograph of the web neither bytes nor crops, address, page, title or author are in any file, and it is
    never asked for again; of an author who has other photographs the name stays.
    """
    store = shutil.copytree(built, tmp_path / "store")
    ref = drawn.web.url("/gina.jpg")
    answer = {"request": "x", "asked_at": "2026-01-01T00:00:00+00:00", "body": {"who": "<b>E. Charcoal</b>"}}
    Store(store).put("answers/a.example/x/1.json", json.dumps(answer).encode())
    (store / "lineage").mkdir(exist_ok=True)
    with (store / "lineage" / "events.jsonl").open("a") as file:
        file.write(json.dumps({"message": f"{ref} failed"}) + "\n")
    needles = needles_of(store, "web", ref, ref, "E. Charcoal", "Gina, drawn", "drawings.example/charcoal")
    assert {name for name, _ in traces(store, needles)} == set(needles), "the search finds nothing anyway"
    done = forgotten(store, cluster, url=(ref.replace("http:", "HTTP:"),))
    assert traces(store, needles) == []
    assert done.certificate.erased == {"originals": 1, "addresses": 1}
    drawn.web.requests.clear()
    again = of_web(store, drawn.urls, cluster)
    assert again.dataset.version == done.certificate.published[0].version
    assert "/gina.jpg" not in drawn.web.counts()
    assert again.dataset.manifest.counts.photos == 3
    assert traces(store, needles) == []
    forgotten(store, cluster, url=("twice/anna.jpg",))
    assert not traces(store, {"name": b"A. Pencil"}), "the same bytes were in both datasets"


@pytest.mark.parametrize("named", ["/short", "/by-way-of", "/anna.jpg", "/lost-by-way-of"])
def test_a_photograph_is_found_by_any_address_on_the_way_to_it(
    drawn: Drawn, cluster: str, tmp_path: Path, named: str
) -> None:
    """A redirect's address, and that which it led to, name the photograph as the listed address does, or what was
    refused in its place; then no file has any of them, and nobody else's photograph goes.
    """
    pictures = drawn.urls.parent / "web"
    answers = {f"/{name}": reply((pictures / name).read_bytes()) for name in ("anna.jpg", "gina.jpg")}
    ways = {
        "/short": "/by-way-of",
        "/by-way-of": "/anna.jpg",
        "/lost": "/lost-by-way-of",
        "/lost-by-way-of": "/no",
    }
    answers |= {place: reply(status=302, Location=target) for place, target in ways.items()}
    with serving(lambda request: answers.get(request.target, reply(status=404))) as web:
        urls = tmp_path / "urls.jsonl"
        rows = [{"url": web.url(place), "license": "CC0-1.0"} for place in ("/short", "/lost", "/gina.jpg")]
        urls.write_text("".join(json.dumps(row) + "\n" for row in rows))
        store = Store(tmp_path / "store")
        of_web(store.root, urls, cluster)
        is_lost = "lost" in named
        places = ("/lost", "/lost-by-way-of") if is_lost else ("/short", "/by-way-of", "/anna.jpg")
        needles = {place: web.url(place).encode() for place in places}
        assert {name for name, _ in traces(store.root, needles)} == set(needles)
        done = forgotten(store.root, cluster, url=(web.url(named),))
        assert traces(store.root, needles) == []
        assert done.certificate.erased == {"originals": int(not is_lost), "addresses": 1}
        left = {row["ref"] for row in open_dataset(store, "web").images()}
        assert left == {web.url(place) for place in ("/gina.jpg", *(["/short"] if is_lost else []))}
        web.requests.clear()
        assert of_web(store.root, urls, cluster).record.unchanged
        assert not set(places) & set(web.counts()) - {"/short"}
        assert traces(store.root, needles) == []
        assert verify(store, None)[1].problems == []


def test_what_looks_the_same_is_kept_out(built: Path, drawn: Drawn, cluster: str, tmp_path: Path) -> None:
    """A smaller copy, and one that is cut differently, come in by no other source, and leave no count."""
    store = shutil.copytree(built, tmp_path / "store")
    forgotten(store, cluster, author=("A. Pencil",))
    folder = tmp_path / "others"
    folder.mkdir()
    small_copy(drawn.photos / "anna.jpg", folder / "small.jpg")
    with Image.open(drawn.photos / "anna.jpg") as image:
        image.crop((20, 30, 350, 400)).save(folder / "cut.jpg", quality=85)
    shutil.copy(drawn.photos / "david.jpg", folder)
    found = of_folder(store, folder, cluster, name="others").dataset
    assert {row["ref"] for row in (*found.images(), *found.rejections())} == {"david.jpg"}
    assert (found.manifest.counts.photos, found.manifest.counts.rejected) == (1, {})
    assert not Store(store).exists(original_key(file_digest(folder / "small.jpg")))
    (folder / "david.jpg").unlink()
    with pytest.raises(EmptyDatasetError, match="every photograph of the source has a tombstone"):
        of_folder(store, folder, cluster, name="none")


def test_what_was_forgotten_stays_out_though_its_tombstones_are_gone(
    built: Path, drawn: Drawn, cluster: str, tmp_path: Path
) -> None:
    """A certificate names its tombstones: without them a build is refused, and so is another forget."""
    store = shutil.copytree(built, tmp_path / "store")
    sha256 = forgotten(store, cluster, author=("A. Pencil",)).certificate.tombstones_sha256
    folder = store / "tombstones"
    folder.rename(tmp_path / "away")
    for there in (None, folder.mkdir, folder.rmdir, folder.touch):
        if there is not None:
            there()
        with pytest.raises(
            IntegrityError, match=rf"{sha256}\.jsonl is gone, which .*certificate.* names: bring"
        ):
            of_folder(store, drawn.photos, cluster)
    folder.unlink()
    with pytest.raises(IntegrityError, match="is gone, which"):
        forgotten(store, cluster, author=("E. Charcoal",))
    assert not folder.exists()
    (tmp_path / "away").rename(folder)
    assert "anna.jpg" not in {row["ref"] for row in of_folder(store, drawn.photos, cluster).dataset.images()}


def test_only_the_same_bytes_where_that_is_asked(built: Path, cluster: str, tmp_path: Path) -> None:
    """With `similar` off, and where a licence is asked for, what only looks the same stays."""
    store = shutil.copytree(built, tmp_path / "store")
    both = find(Store(store), Asked(url=("emma.jpg",)))
    one = find(Store(store), Asked(url=("emma.jpg",), similar=False))
    assert sorted(both.photos.values()) == ["looks alike", "named"]
    assert list(one.photos.values()) == ["named"]
    assert (one.crop_pdqs, one.photo_pdqs) == (set(), set())
    licensed = find(Store(store), Asked(license=("CC0-1.0",)))
    assert licensed.crop_pdqs == set()
    assert {held.dataset.name for held in licensed.held} == {"golden", "web"}
    assert len(find(Store(store), Asked(license=("CC BY",))).photos) == 2, "every version of a licence"
    assert find(Store(store), Asked(license=("CC BY 3.0",))).is_nothing


def test_withdrawn_versions_say_so(built: Path, drawn: Drawn, cluster: str, tmp_path: Path) -> None:
    """Whoever opens, curates, trains or traces one is told in a sentence, with what is left of it, and it verifies."""
    store = Store(shutil.copytree(built, tmp_path / "store"))
    before = [open_dataset(store, "golden"), open_dataset(store, "web")]
    run = create_run(store, before[0].summary(), {"preset": "smoke"})
    done = forgotten(store.root, cluster, url=("anna.jpg",))
    left = open_dataset(store, "golden").reference
    assert len(done.certificate.withdrawn) == 3
    assert [touched.run_id for touched in done.certificate.runs] == [run.id]
    for ask in (
        lambda: open_dataset(store, before[0].reference),
        lambda: open_dataset(store, before[0].reference[:-8]),
        lambda: recuration(store, before[0].reference, BuildConfig()),
    ):
        with pytest.raises(WithdrawnError, match=f"since 2 photographs of it .* left of it is {left}"):
            ask()
    assert trace(store, before[0].reference).steps[0].facts["what is left of it"] == left
    assert trace(store, before[0].version).steps[0].kind == "withdrawn dataset"
    chain = trace(store, run.id)
    assert [step.kind for step in chain.steps] == ["training run", "withdrawn dataset"]
    assert [product.name for product in trace(store, before[0].reference).made] == [run.id]
    assert verify(store, before[0].reference)[1].problems == []
    assert verify(store, run.id)[1].problems == []
    certificate = store.path(f"forgets/{done.certificate.forget}/certificate.json")
    said = json.loads(certificate.read_bytes())
    for name, value in (
        ("forget", "another"), ("photographs", 99), ("rejections", 99), ("tombstones", {"url": 9}),
        ("withdrawals", {}), ("withdrawn", [{**said["withdrawn"][0], "photographs": 1}, *said["withdrawn"][1:]]),
    ):  # fmt: skip
        certificate.write_text(json.dumps({**said, name: value}))
        assert any(str(certificate) in problem for problem in verify(store, None)[1].problems), name
    certificate.write_bytes(done.certificate.as_bytes())
    assert verify(store, None)[1].problems == []
    path = before[0].folder / "withdrawn.json"
    record = json.loads(path.read_text())
    assert bytes_digest(record["manifest"].encode()) == before[0].manifest_sha256
    path.write_text(path.read_text().replace('"photos', '"phot0s'))
    assert len(verify(store, before[0].reference)[1].problems) == 2
    path.unlink()
    [problem] = verify(store, None)[1].problems[:1]
    assert "withdrawn.json" in problem


def test_nothing_is_left_of_a_name(built: Path, drawn: Drawn, cluster: str, tmp_path: Path) -> None:
    """Where all photographs go no version is published, and the name says what became of it."""
    store = shutil.copytree(built, tmp_path / "store")
    done = forgotten(store, cluster, author=("E. Charcoal", "A. Pencil", "F. Ink"))
    [after] = [one for one in done.certificate.published if one.name == "web"]
    assert after.version is None
    with pytest.raises(WithdrawnError, match="nothing is left of it"):
        open_dataset(Store(store), "web")
    assert verify(Store(store), None)[1].problems == []
    assert "web" in dataset_names(Store(store))


def test_a_store_in_use_is_left_alone(built: Path, cluster: str, tmp_path: Path) -> None:
    """While a build works, or a run is trained on it, nothing is written and one sentence says why."""
    store = Store(shutil.copytree(built, tmp_path / "store"))
    run = create_run(store, open_dataset(store, "golden").summary(), {"preset": "smoke"})
    with store.in_use(), pytest.raises(ConfigError, match="a build or an export works"):
        forgotten(store.root, cluster, url=("anna.jpg",))
    with run.locked(), pytest.raises(ConfigError, match="is being trained on golden@"):
        forgotten(store.root, cluster, url=("anna.jpg",))
    assert not store.path("forgets").exists()
    assert not store.path("tombstones").exists() or not Tombstones(store).digests["sha256"]


def test_models_are_listed_with_their_near_copies(cluster: str, tmp_path: Path) -> None:
    """Of a run that learned from it the certificate says checkpoints, grids, and how near an audit found its pictures;
    the audit names and shows it no more. A store of an older version forgets too, and gc keeps what is left of it.
    """
    store = Store(shutil.copytree(DATA / "golden" / "store", tmp_path / "store"))
    [path] = store.path("runs").glob("*/audit/*.json")
    pair = json.loads(path.read_text())["pairs"][0]
    dataset = list_runs(store)[0].record.dataset
    named = VersionName(**dataset.model_dump(include={"name", "version", "manifest_sha256"}))
    exported = Exported.new(
        dataset=named, layout="ffhq", resolution=32, images=7, out="/home/somebody/ffhq", bytes=1,
        sha256="0" * 64, created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    store.put(exported.key, exported.as_bytes())
    done = forgotten(store.root, cluster, hash=(pair["embedding"]["key"],), similar=False)
    assert [(export.name, export.layout) for export in done.certificate.exports] == [("ffhq", "ffhq")]
    [run] = done.certificate.runs
    assert (len(run.checkpoints), run.grids, run.audited) == (2, 2, True)
    assert pair["embedding"]["distance"] in {
        near.distance for near in run.near_copies if near.space == "embedding"
    }
    record = json.loads(path.read_text())
    assert record["pairs"][0]["embedding"] == {**pair["embedding"], "source": None}
    assert not path.with_suffix(".png").exists()
    ref = pair["embedding"]["source"]["ref"]
    assert traces(store.root, {"ref": ref.rpartition("/")[2].encode()}) == []
    assert verify(store, None)[1].problems == []
    delete(find_garbage(store, keep=1, grace_s=0))
    assert verify(store, None)[1].problems == []
    assert len(list(store.path("datasets").glob("*/*/withdrawn.json"))) == len(done.certificate.withdrawn)


def test_runs_that_began_with_such_weights_are_listed(
    built: Path, cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of another version that began with weights of one that learned from it is listed, with the way, and so is
    one that began with its; the version that it was trained on stays, and it may go on meanwhile.
    """
    store = Store(shutil.copytree(built, tmp_path / "store"))
    web, golden = open_dataset(store, "web").summary(), open_dataset(store, "golden").summary()
    first = create_run(store, golden, {"preset": "smoke"})
    second = create_run(store, web, {"preset": "smoke"}, init_from=began_with(first))
    third = create_run(store, web, {"preset": "smoke"}, init_from=began_with(second))
    create_run(store, web, {"preset": "smoke"})
    asked = ["forget", "--url", "david.jpg", "--store", store.root]
    status, said, _ = likeness(capsys, *asked)
    assert (status, said.count("learned from such a version")) == (0, 3)
    shutil.rmtree(first.folder)  # the next one says all the same what it learned from
    with third.locked():
        done = forgotten(store.root, cluster, url=("david.jpg",))
    assert {version.name for version in done.certificate.withdrawn} == {"golden"}
    through = {one.run_id: one.through for one in done.certificate.runs}
    assert through == {second.id: first.id, third.id: first.id}
    assert f'by way of <span class="ref">{first.id}' in done.page.read_text()
    assert verify(store, None)[1].problems == []


def began_with(run: Run) -> InitFrom:
    """As a run remembers it that began with weights of another."""
    dataset = run.record.dataset
    return InitFrom(
        folder=f"runs/{run.id}/checkpoints/000000001", sha256={}, run_id=run.id, checkpoint="000000001",
        dataset=dataset.reference, dataset_manifest_sha256=dataset.manifest_sha256,
    )  # fmt: skip


def test_the_generator_in_the_box_is_listed(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it learned from what is forgotten, or from a photograph that the store does not have, the command, the
    certificate and its page say how many, and that it cannot be erased; of others they say nothing.
    """
    portraits = {file_digest(path): path for path in sorted((faces / "congress").iterdir())}
    mine = sorted(portraits.keys() & photographs())[:2]
    others = sorted(portraits.keys() - photographs())[:2]
    (tmp_path / "photos").mkdir()
    for sha256 in (mine[0], *others):
        shutil.copy(portraits[sha256], tmp_path / "photos")
    where = ["--store", tmp_path / "store", "--workers", 1]
    source = f"folder:{tmp_path / 'photos'}"
    status, _, err = likeness(capsys, "build", "--source", source, "--name", "p", "--resolution", 64, *where)
    assert status == 0, err
    ships = "the generator in the box learned from 1 photograph of these, and cannot be erased"
    status, _, err = likeness(capsys, "forget", "--image", portraits[mine[1]], *where)
    assert (status, "nothing of that is on record" in err, ships in err) == (1, True, True)
    hashes = ["--hash", mine[0], "--hash", others[0]]
    status, said, _ = likeness(capsys, "forget", *hashes, *where)
    assert (status, ships in said) == (0, True)
    status, said, err = likeness(capsys, "forget", *hashes, "--yes", *where)
    assert (status, ships in said) == (0, True), err
    status, said, err = likeness(capsys, "forget", *hashes, "--json", *where)
    done = json.loads(said)
    assert done["bundled"] == {"sha256": file_digest(BUNDLED_FILE), "photographs": 1}
    page = (tmp_path / "store" / "forgets" / done["forget"] / "certificate.html").read_text()
    assert "learned from 1 photograph of these" in page
    assert done["bundled"]["sha256"] in page
    status, said, err = likeness(capsys, "forget", "--hash", others[1], "--yes", *where)
    assert (status, "in the box" in said) == (0, False), err


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
store, scheduler, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
from flows.build import run_with
from flows.forget import forget, go_on, unfinished
from flows.options import BuildOptions
from preprocessing.asked import Asked
from preprocessing.forgetting import find
from storage.store import Store
asked = Asked(author=("A. Pencil",))
num = 0
def counted(call):
    def counting(*args, **kwargs):
        global num
        if str(store) in str(args[0]) or "dir_fd" in kwargs:
            num += 1
            if num == after:
                os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counting
os.unlink, os.replace, os.rename = counted(os.unlink), counted(os.replace), counted(os.rename)
options, run = BuildOptions(store=Path(store), scheduler=scheduler), run_with(lambda _: None)
intent = unfinished(Store(store), asked)
go_on(Store(store), intent, options, run) if intent else forget(Store(store), find(Store(store), asked), options, run)
print(num)
"""


def state(store: Path) -> dict[str, Any]:
    """All that a store holds, but for times, and files that say them."""
    files = {}
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        name = path.relative_to(store).as_posix()
        if name.startswith(("originals", "chunks/align", "datasets")) and "/builds/" not in name:
            is_timed = path.name in ("withdrawn.json", "latest.json", "index.html", "ATTRIBUTION.txt")
            files[name] = None if is_timed or "/gathered/" in name or "report/" in name else file_digest(path)
    return {name: digest for name, digest in files.items() if "/gathered/" not in name}


@pytest.fixture
def scheduler() -> Iterator[str]:
    """The address of a Dask scheduler that other processes reach."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", host="127.0.0.1",
        dashboard_address="127.0.0.1:0", worker_dashboard_address="127.0.0.1:0", memory_limit=0,
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address


@pytest.mark.slow
def test_a_kill_changes_nothing(built: Path, scheduler: str, tmp_path: Path) -> None:
    """Killed at any of many moments, and asked again, it ends as if it had never been killed; and until then every
    version that is there is whole, or was withdrawn.
    """

    def tried(store: Path, after: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, str(store), scheduler, str(after)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    alone = shutil.copytree(built, tmp_path / "alone")
    done = tried(alone, -1)
    assert done.returncode == 0, done.stderr
    total, expected = int(done.stdout), state(alone)
    assert verify(Store(alone), None)[1].problems == []
    store = shutil.copytree(built, tmp_path / "store")
    moments = [2, 5, total // 3, total // 2, 2 * total // 3, total - 3]
    for after in moments:
        killed = tried(store, after)
        assert killed.returncode in (0, -signal.SIGKILL), killed.stderr
        if killed.returncode == 0:
            break
        problems = verify(Store(store), None)[1].problems
        assert all("forget" in problem or "certificate" in problem for problem in problems), problems
    if intents(Store(store)):
        assert tried(store, -1).returncode == 0
    assert state(store) == expected
    assert verify(Store(store), None)[1].problems == []
    assert intents(Store(store)) == []


def test_what_was_rechecked_is_forgotten(built: Path, drawn: Drawn, cluster: str, tmp_path: Path) -> None:
    """What the last recheck of a dataset found withdrawn goes, and the record of the recheck names it no more."""
    store = Store(shutil.copytree(built, tmp_path / "store"))
    row = next(row for row in open_dataset(store, "web").images() if "gina" in row["ref"])
    gone = {"ref": row["ref"], "photo_sha256": row["photo_sha256"], "signal": "gone", "images": [row["key"]]}
    with pytest.raises(NotFoundError, match="no recheck of 'web'"):
        find(store, Asked(from_recheck=("web",)))
    record = RecheckRecord.new(
        dataset="web", checked_at="2026", photographs=2, holds=1, unreachable=0, changed=0,
        by_signal={"gone": 1}, withdrawn=[gone],
    )  # fmt: skip
    store.put("datasets/web/rechecks/20260101-000000-000000.json", record.as_bytes())
    done = forgotten(store.root, cluster, from_recheck=("web",))
    assert (done.certificate.photographs, done.certificate.asked) == (1, {"from_recheck": 1})
    names = {"ref": row["ref"].encode(), "sha256": row["photo_sha256"].encode()}
    assert traces(store.root, names) == []


def test_the_command(
    built: Path,
    drawn: Drawn,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A dry run is the default and changes nothing; `--yes` carries out; the same request again gives the same
    certificate; what is not on record is one sentence with status 1. The page and the record name nobody.
    """
    store = shutil.copytree(built, tmp_path / "store")
    where = ["--store", store, "--workers", 1, "--json"]
    before = state(store)
    status, out, _ = likeness(capsys, "forget", "--author", "A. Pencil", *where)
    told = json.loads(out)
    assert (status, told["done"], len(told["photographs"]), len(told["versions"])) == (0, False, 1, 3)
    assert state(store) == before
    assert not (store / "tombstones").exists()
    status, out, err = likeness(capsys, "forget", "--author", "A. Pencil", "--yes", *where)
    assert status == 0, err
    done = json.loads(out)
    page = Path(done["page"]).read_text()
    assert done["published"][0]["version"] in page
    for text in (page, out, Path(done["page"]).with_suffix(".json").read_text()):
        assert not any(word in text for word in ("Pencil", "anna", "drawings.example"))
    status, out, _ = likeness(capsys, "forget", "--author", "A. Pencil", *where)
    assert (status, json.loads(out)["forget"]) == (0, done["forget"])
    status, _, err = likeness(capsys, "forget", "--author", "Nobody", *where)
    assert (status, "nothing of that is on record" in err) == (1, True)
    status, _, err = likeness(capsys, "forget", *where)
    assert (status, "say what to forget" in err) == (1, True)
    status, _, err = likeness(capsys, "forget", "--hash", "xyz", *where)
    assert (status, "no sha256" in err) == (1, True)
    status, _, err = likeness(capsys, "forget", "--image", tmp_path / "no.jpg", *where)
    assert (status, "cannot be read" in err) == (1, True)
