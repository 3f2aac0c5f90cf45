"""storage.lineage: whatever a store holds is traced by any of its names, both ways, and shown to people."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny_run
from commands import likeness
from preprocessing.columns import IMAGE_SCHEMA, REJECTION_SCHEMA
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.manifest import publish
from storage.datasets.records import VersionName
from storage.digest import bytes_digest, file_digest
from storage.errors import ConfigError, NotFoundError
from storage.exports.records import Exported
from storage.lineage.chain import Chain, Product
from storage.lineage.trace import KINDS, trace
from storage.lineage.tree import mermaid, tree
from storage.runs import InitFrom, Run, create_run
from storage.store import Store
from storage.tables import Row, table_of

GOLDEN = Path(__file__).with_name("data") / "golden" / "store"
FIRST, SECOND, WEB = "golden@71485f1fada17d95", "golden@74bfd02313603afd", "golden-web@b440bae92356680e"
RUN = "20261126-131151-golden-smoke-d82a"
BUILD = "20261126-131140-golden-6d3f"
ANNA = "850566706e68108318011694a9031afc5fb5ffe40cac018b31713ec9bc3ce293"


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The golden store, which no test here changes but by lookups."""
    return Store(shutil.copytree(GOLDEN, tmp_path_factory.mktemp("golden") / "store"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The golden store, to be changed."""
    return Store(shutil.copytree(GOLDEN, tmp_path / "store"))


def made(products: Any) -> dict[str, Any]:
    """Products by kind and name, and below each what was made of it."""
    return {f"{product.kind} {product.name}": made(product.made) for product in products}


OF_RUN: dict[str, Any] = {
    "checkpoint 000000064": {"grid grids/000000064.png": {}},
    "checkpoint 000000096": {"audit audit/000000096.png": {}, "grid grids/000000096.png": {}},
}
OF_FIRST = {f"training run {RUN}": OF_RUN}
EVERYWHERE = {f"dataset {FIRST}": OF_FIRST, f"dataset {SECOND}": {}, f"dataset {WEB}": {}}
HERE = {f"dataset {FIRST}": OF_FIRST, f"dataset {SECOND}": {}}

TRACED: list[tuple[str, str, dict[str, Any], int]] = [
    (ANNA, "photograph", EVERYWHERE, 3),
    (ANNA[:8], "photograph", EVERYWHERE, 3),
    ("anna.jpg", "photograph", EVERYWHERE, 3),
    ("http://127.0.0.1:8765/anna.jpg", "photograph", EVERYWHERE, 3),
    ("emma-small.jpg", "photograph", {f"dataset {SECOND}": {}}, 1),
    ("cde36be0e5f9385e", "image", HERE, 2),
    ("A. Pencil", "author", EVERYWHERE, 3),
    ("CC0-1.0", "license", EVERYWHERE, 3),
    ("https://licences.example/CC0-1.0", "license", EVERYWHERE, 3),
    ("https://drawings.example/pencil", "page", EVERYWHERE, 3),
    ("Anna, drawn", "title", HERE, 2),
    (f"{FIRST}/shards/00001.tar", "shard", {f"dataset {FIRST}": OF_FIRST}, 3),
    (f"{FIRST}/00001.tar", "shard", {f"dataset {FIRST}": OF_FIRST}, 3),
    (f"{FIRST[:-8]}/00001.tar", "shard", {f"dataset {FIRST}": OF_FIRST}, 3),
    ("68aadb63", "shard", {f"dataset {FIRST}": OF_FIRST}, 3),
    (FIRST, "dataset", OF_FIRST, 7),
    ("71485f1fada17d95", "dataset", OF_FIRST, 7),
    ("71485f1f", "dataset", OF_FIRST, 7),
    ("golden", "dataset", {}, 6),
    (BUILD, "build", {f"dataset {FIRST}": OF_FIRST}, 7),
    (RUN, "training run", OF_RUN, 7),
    (f"{RUN}/000000064", "checkpoint", OF_RUN["checkpoint 000000064"], 7),
    (f"{RUN}/checkpoints/000000096", "checkpoint", OF_RUN["checkpoint 000000096"], 7),
    (f"STORE/runs/{RUN}", "training run", OF_RUN, 7),
    (f"STORE/runs/{RUN}/checkpoints/000000064", "checkpoint", OF_RUN["checkpoint 000000064"], 7),
    (f"STORE/runs/{RUN}/grids/000000064.png", "grid", {}, 7),
    (f"STORE/datasets/golden/builds/{BUILD}.json", "build", {f"dataset {FIRST}": OF_FIRST}, 7),
    ("STORE/datasets/golden/71485f1fada17d95/shards/00001.tar", "shard", {f"dataset {FIRST}": OF_FIRST}, 3),
    ("STORE/datasets/golden/71485f1fada17d95/images.parquet", "dataset", OF_FIRST, 7),
    (f"STORE/originals/85/{ANNA}", "photograph", EVERYWHERE, 3),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "kind", "wanted", "num_images"), TRACED, ids=[row[0] for row in TRACED]
)
def test_everything_is_traced_both_ways(
    golden: Store, reference: str, kind: str, wanted: dict[str, Any], num_images: int
) -> None:
    """By any of its names a thing leads to what was made of it, down to pictures, and to the images that it is of."""
    chain = trace(golden, reference.replace("STORE", str(golden.root)))
    assert chain.asked.kind == kind
    assert made(chain.made) == wanted
    assert len(chain.images) == num_images
    assert len({(row["dataset"], row["key"]) for row in chain.images}) == num_images
    json.dumps(chain.as_json())
    assert len(list(tree(chain, 2))) < 60


def test_bytes_lead_where_names_do(golden: Store, tmp_path: Path) -> None:
    """A copy of a photograph, of a shard's tar or of a shard's image is what it is by its bytes, whatever its name."""
    dataset = open_dataset(golden, FIRST)
    [first, *_] = dataset.manifest.shards
    shutil.copy(dataset.shard_path(first), tmp_path / "copy")
    assert trace(golden, str(tmp_path / "copy")).asked.facts["sha256"] == first.sha256
    (tmp_path / "photo").write_bytes(golden.original(ANNA))
    assert trace(golden, str(tmp_path / "photo")).asked.facts["photo_sha256"] == ANNA
    row = dataset.images()[0]
    data = dataset.shard_path(first).read_bytes()[row["offset"] : row["offset"] + row["size"]]
    (tmp_path / "image").write_bytes(data)
    assert trace(golden, str(tmp_path / "image")).asked.facts["key"] == row["key"]
    (tmp_path / "other").write_bytes(b"another")
    with pytest.raises(NotFoundError, match=r"names no file.*--near looks for its faces"):
        trace(golden, str(tmp_path / "other"))


def published(
    store: Store, rows: list[Row], name: str = "faces", refused: list[Row] | None = None
) -> Dataset:
    """A version of records alone."""
    whole = []
    for row in rows:
        sha256 = bytes_digest(row["ref"].encode())
        facts = {
            "key": sha256[:16],
            "image_sha256": sha256,
            "photo_sha256": sha256,
            "shard": "x",
            "face_index": 0,
        }
        whole.append({**dict.fromkeys(IMAGE_SCHEMA.names), **facts, **row})
    others = [{**dict.fromkeys(REJECTION_SCHEMA.names), "reason": "no_face", **row} for row in refused or []]
    return publish(
        store,
        name,
        settings={"resolution": 32},
        images=[table_of(sorted(whole, key=lambda row: str(row["key"])), IMAGE_SCHEMA)],
        image_schema=IMAGE_SCHEMA,
        rejections=[table_of(others, REJECTION_SCHEMA)],
        rejection_schema=REJECTION_SCHEMA,
        shards=[],
        num_photos=len(rows),
    )


def test_what_means_several_things_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file name of two photographs, and a text that is an author and a title, end in a choice, which can be said."""
    store = Store(tmp_path)
    published(
        store, [{"ref": "a/1.jpg", "author": "Rose"}, {"ref": "b/1.jpg", "title": "Rose"}, {"ref": "c/2.jpg"}]
    )
    with pytest.raises(
        ConfigError, match=r"'1\.jpg' means several things in .*: the file-name of 2 photographs: "
    ) as info:
        trace(store, "1.jpg")
    assert {"a/1.jpg", "b/1.jpg"} <= set(re.findall(r"./1\.jpg", str(info.value)))
    assert {row["ref"] for row in trace(store, "1.jpg", "file-name").images} == {"a/1.jpg", "b/1.jpg"}
    assert trace(store, "2.jpg").asked.facts["ref"] == "c/2.jpg"
    with pytest.raises(
        ConfigError, match=r"the title Rose; the author Rose \(--as title or --as author says which"
    ):
        trace(store, "Rose")
    for kind, ref in (("title", "b/1.jpg"), ("author", "a/1.jpg")):
        assert [row["ref"] for row in trace(store, "Rose", kind).images] == [ref]
        status, out, _ = likeness(capsys, "trace", "Rose", "--as", kind, "--store", tmp_path)
        assert (status, out.splitlines()[0]) == (0, f"{kind} Rose")
    with pytest.raises(NotFoundError, match="'Rose' names no shard"):
        trace(store, "Rose", "shard")
    with pytest.raises(ConfigError, match=f"'flower' is none of {', '.join(KINDS)}"):
        trace(store, "Rose", "flower")


def test_first_digits_of_two_photographs_are_a_choice(tmp_path: Path) -> None:
    """Digits that several photographs begin with list all of them, whole."""
    store = Store(tmp_path)
    first, second = "0123456789" + "a" * 54, "0123456789" + "b" * 54
    published(store, [{"ref": "a", "photo_sha256": first}, {"ref": "b", "photo_sha256": second}])
    with pytest.raises(ConfigError, match=rf"photograph ({first}|{second}); the .* \(name one in full\)"):
        trace(store, first[:10])
    assert [row["ref"] for row in trace(store, first[:11]).images] == ["a"]


def test_a_name_that_is_also_a_dataset_is_a_choice(tmp_path: Path) -> None:
    """A title that is a dataset's name too is found by saying so."""
    store = Store(tmp_path)
    dataset = published(store, [{"ref": "a", "title": "faces"}])
    store.put("datasets/faces/latest.json", json.dumps({"version": dataset.version}).encode())
    with pytest.raises(ConfigError, match=f"the dataset {dataset.reference}; the title faces"):
        trace(store, "faces")
    assert trace(store, "faces", "dataset").asked.kind == "dataset"
    assert trace(store, "faces", "title").asked.kind == "title"


def test_a_photograph_that_was_refused_is_found(tmp_path: Path) -> None:
    """One of which nothing was kept leads to why, by its name too."""
    store = Store(tmp_path)
    dataset = published(store, [{"ref": "a"}], refused=[{"ref": "deep/no.jpg", "author": "B"}])
    chain = trace(store, "no.jpg")
    assert (chain.asked.kind, list(chain.made), len(chain.images)) == ("photograph", [], 0)
    [row] = chain.rejections
    assert (row["ref"], row["reason"], row["dataset"]) == ("deep/no.jpg", "no_face", dataset.reference)
    assert any(
        line.endswith(f"rejected deep/no.jpg in {dataset.reference}: no_face") for line in tree(chain, 5)
    )


def test_a_run_that_began_with_others_weights_is_made_of_them(store: Store) -> None:
    """The weights that a run begins with lead back to their run, and on from it to the new one, without an end."""
    first = Run(store.path(f"runs/{RUN}"))
    checkpoint = first.checkpoints()[-1]
    facts = {"folder": str(checkpoint), "sha256": {}, "run_id": RUN, "checkpoint": checkpoint.name}
    summary = open_dataset(store, SECOND).summary()
    second = create_run(store, summary, {"preset": "smoke"}, init_from=InitFrom.model_validate(facts))
    chain = trace(store, second.id)
    assert chain.begun_with is not None
    assert [step.kind for step in chain.begun_with.steps] == ["checkpoint", "training run", "dataset"]
    text = "\n".join(tree(chain, 1))
    assert re.search(rf"checkpoint 000000096\n +│ its first weights\n(.*\n)+ +└─ training run {RUN}", text)
    forward = made(trace(store, "bruno.webp").made)
    assert (
        f"training run {second.id}"
        in forward[f"dataset {FIRST}"][f"training run {RUN}"]["checkpoint 000000096"]
    )
    record = first.record.model_copy(
        update={"init_from": InitFrom.model_validate({**facts, "run_id": second.id})}
    )
    (first.folder / "run.json").write_bytes(record.as_bytes())
    assert trace(store, second.id).asked.kind == "training run"
    assert made(trace(store, RUN).made)


def test_pictures_of_checkpoints_that_are_gone_are_still_led_to(store: Store) -> None:
    """What a pruned checkpoint drew is still made of the photographs."""
    shutil.rmtree(store.path(f"runs/{RUN}/checkpoints/000000064"))
    product: Product = trace(store, ANNA).made[0].made[0].made[0]
    assert (product.name, product.facts, made(product.made)) == (
        "000000064", {"kept": False}, {"grid grids/000000064.png": {}},
    )  # fmt: skip
    grid = store.path(f"runs/{RUN}/grids/000000064.png")
    assert [step.kind for step in trace(store, str(grid)).steps] == ["grid", "training run", "dataset"]
    assert any("checkpoint 000000064: no longer kept" in line for line in tree(trace(store, ANNA), 5))


HOSTILE = 'Mal\x1b[31m"ory <b>& `x`\n\x00two' + "e" * 300


def test_what_sources_say_steers_no_terminal_and_no_chart(tmp_path: Path) -> None:
    """Texts of the web are one line each, short, without control characters; in a chart without its own signs."""
    store = Store(tmp_path)
    published(store, [{"ref": "a", "author": HOSTILE, "title": HOSTILE, "license": HOSTILE}])
    for reference in ("a", HOSTILE):
        chain = trace(store, reference, "author" if reference == HOSTILE else None)
        for line in (*tree(chain, 5), *mermaid(chain, 5)):
            assert line.isprintable()
            assert len(line) < 500
        for line in mermaid(chain, 5):
            assert re.fullmatch(r'flowchart LR|  n\d+\["([^"`]|<br>)*"\]|  n\d+ --> n\d+', line), line
            assert "<b>" not in line


def test_a_chart_leads_from_photographs_to_pictures(golden: Store) -> None:
    """Arrows of a chart lead from what something was made of to it, whichever end was asked about."""

    def arrows(chain: Chain) -> set[tuple[str, str]]:
        lines = list(mermaid(chain, 20))
        nodes = dict(re.findall(r'(n\d+)\["(.*)"\]', "\n".join(lines)))
        found = re.findall(r"(n\d+) --> (n\d+)", "\n".join(lines))
        return {(nodes[start].split("<br>")[0], nodes[end].split("<br>")[0]) for start, end in found}

    grid = golden.path(f"runs/{RUN}/grids/000000064.png")
    assert arrows(trace(golden, str(grid))) == {
        ("image", "dataset"), ("build", "dataset"), ("dataset", "training run"), ("training run", "checkpoint"),
        ("checkpoint", "grid"),
    }  # fmt: skip
    assert arrows(trace(golden, "emma.jpg")) == {
        ("photograph", "image"), ("image", "dataset"), ("dataset", "training run"), ("training run", "checkpoint"),
        ("checkpoint", "grid"), ("checkpoint", "audit"),
    }  # fmt: skip


def test_the_command_prints_what_fits_a_screen(golden: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds are a range and hashes short, JSON has all of both; of a tree, a chart and JSON one is printed."""
    grid, where = golden.path(f"runs/{RUN}/grids/000000064.png"), ("--store", golden.root)
    status, out, _ = likeness(capsys, "trace", grid, *where)
    assert status == 0
    assert "  seeds: 0-31\n" in out
    assert not re.search(r"[0-9a-f]{17}", out.replace(str(golden.root), ""))
    status, out, _ = likeness(capsys, "trace", grid, "--json", *where)
    found = json.loads(out)
    assert (found["asked"]["seeds"], len(found["images"])) == (list(range(32)), 7)
    assert found["asked"]["sha256"] == file_digest(grid)
    status, out, _ = likeness(capsys, "trace", ANNA, "--mermaid", *where)
    assert (status, out.splitlines()[0]) == (0, "flowchart LR")
    assert likeness(capsys, "trace", ANNA, "--mermaid", "--json", *where)[0] == 1
    assert likeness(capsys, "trace", ANNA, "--limit", "-1", *where)[0] == 1


def test_tracing_imports_little(golden: Store) -> None:
    """A trace both ways needs neither torch nor OpenCV nor pandas, nor anything of the stages."""
    names = {"torch", "cv2", "dlib", "scipy", "pandas", "prefect", "preprocessing", "training"}
    code = (
        "import sys; from flows.cli.main import main\ntry: main(sys.argv[1:])\n"
        f"finally: print(*sorted({names!r} & {{name.partition('.')[0] for name in sys.modules}}), file=sys.stderr)"
    )
    for reference in ("anna.jpg", "CC0-1.0", "golden", RUN):
        command = [sys.executable, "-c", code, "trace", reference, "--store", str(golden.root)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == "\n"


def test_runs_of_other_versions_are_not_led_to(tmp_path: Path) -> None:
    """Of two versions of a name, what was trained on one is not said to be made of the other's photographs."""
    store = Store(tmp_path)
    first = published(store, [{"ref": "a"}, {"ref": "b"}])
    published(store, [{"ref": "b"}])
    run = create_run(store, first.summary(), {"preset": "smoke", **tiny_run.TINY})
    assert [
        list(made(product.made)) for product in trace(store, "b").made if product.name == first.reference
    ] == [[f"training run {run.id}"]]
    assert [
        list(made(product.made)) for product in trace(store, "b").made if product.name != first.reference
    ] == [[]]


def test_a_damaged_record_of_an_export_hides_no_other(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A photograph leads to exports whose records can be read; one that cannot be is named."""
    dataset = open_dataset(store, FIRST)
    of = VersionName(name=dataset.name, version=dataset.version, manifest_sha256=dataset.manifest_sha256)
    export = Exported.new(
        dataset=of, layout="ffhq", resolution=32, images=7, out="/out", bytes=1, sha256="0" * 64,
        created_at="2026-11-26T01:02:03",
    )  # fmt: skip
    store.put(export.key, export.as_bytes())
    store.put("exports/golden/0.json", b"")
    [version] = [product for product in trace(store, ANNA).made if product.name == FIRST]
    assert "/out" in {product.name for product in version.made if product.kind == "export"}
    assert f"{store.path('exports/golden/0.json')} is damaged" in caplog.text
