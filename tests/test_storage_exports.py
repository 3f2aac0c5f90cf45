"""storage.exports: a version goes to other programs and comes back, the same pixels and facts, whoever touched it."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from commands import full_disk, likeness
from exported import SIDE, contents, drawn, exported, file_of, imported, in_this_process, picture, place
from flows.operations.doctor import findings
from storage.datasets.collect import find_garbage
from storage.datasets.dataset import Dataset
from storage.errors import ConfigError, IntegrityError
from storage.exports.layouts import LAYOUTS
from storage.exports.records import ExportRecord, exports_of
from storage.exports.under_way import under_way
from storage.lineage.trace import trace
from storage.store import Store
from storage.verify import verify

FACTS = [
    {"author": "Ann", "license": "CC-BY-4.0", "license_url": "https://creativecommons.org/licenses/by/4.0/",
     "title": "A title, \"quoted\"", "page": "https://photos.example/1"},
    {"author": "Bö", "license": "CC0-1.0"},
    {"author": "Ann", "title": "Ünïcode"},
]  # fmt: skip
LAYOUT_NAMES = sorted(LAYOUTS)


@pytest.fixture(autouse=True, scope="module")
def inline() -> Iterator[None]:
    """Builds without a cluster."""
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three drawn faces, stored as WebP."""
    folder = tmp_path_factory.mktemp("exports")
    return imported(Store(folder / "store"), drawn(folder / "drawn", FACTS, "WEBP"))


def files(path: Path) -> dict[str, bytes]:
    """What a folder or a ZIP holds."""
    if path.is_file():
        with zipfile.ZipFile(path) as zipped:
            return {name: zipped.read(name) for name in zipped.namelist()}
    return {
        file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()
    }


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_what_goes_out_comes_back(dataset: Dataset, layout: str, tmp_path: Path) -> None:
    """Of each format the import of the export has the same pixels and facts, and names the version it was made of."""
    out = place(tmp_path, layout)
    exported(dataset, layout, out)
    again = imported(Store(tmp_path / "store"), out)
    assert contents(again) == contents(dataset)
    assert len(contents(again)) == len(FACTS)
    source = again.manifest.source
    assert (source["kind"], source["format"], source["of"]["version"]) == ("import", layout, dataset.version)
    whole = out if out.is_file() else out / "export.json"
    assert source["sha256"] == hashlib.sha256(whole.read_bytes()).hexdigest()
    assert verify(again.store, None)[1].problems == []
    originals = {json.loads(row["said"])["photo_sha256"] for row in again.images()}
    assert originals == {row["photo_sha256"] for row in dataset.images()}


TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: text == text.strip()
)


@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(
    facts=st.lists(
        st.fixed_dictionaries(dict.fromkeys(("author", "title", "page", "license", "license_url"), TEXT)),
        min_size=1,
        max_size=3,
    ),
    layout=st.sampled_from(LAYOUT_NAMES),
    format=st.sampled_from(["PNG", "WEBP"]),
)
def test_any_facts_and_pixels_come_back(facts: list[dict[str, Any]], layout: str, format: str) -> None:
    """Whatever is said of photographs, in whichever format they are stored, an export and its import keep it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = imported(Store(folder / "first"), drawn(folder / "drawn", facts, format))
        out = place(folder, layout)
        exported(first, layout, out)
        assert contents(imported(Store(folder / "second"), out)) == contents(first)


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_same_version_same_bytes(dataset: Dataset, layout: str, tmp_path: Path) -> None:
    """An export is the same, file by file, wherever and whenever it is made, and its sums hold."""
    first, second = place(tmp_path / "a", layout), place(tmp_path / "b", layout)
    assert exported(dataset, layout, first).sha256 == exported(dataset, layout, second).sha256
    held = files(first)
    assert held == files(second)
    if first.is_file():
        assert first.read_bytes() == second.read_bytes()
    sums = dict(line.split("  ")[::-1] for line in held["SHA256SUMS"].decode().splitlines())
    assert sums == {
        name: hashlib.sha256(data).hexdigest()
        for name, data in held.items()
        if name not in ("SHA256SUMS", "export.json")
    }
    record = ExportRecord.of_bytes(held["export.json"], "export.json")
    assert record.dataset.reference == dataset.reference
    assert b"Ann" in held["ATTRIBUTION.txt"]
    assert b"CC0-1.0" in held["LICENSES.txt"]
    assert not any(path.name.endswith(".partial") for path in tmp_path.rglob("*"))


def test_ffhq_is_as_its_readme_says(dataset: Dataset, tmp_path: Path) -> None:
    """Paths, sizes and sums of the JSON are those of the PNGs; what is not known is null."""
    exported(dataset, "ffhq", tmp_path / "out")
    records = json.loads((tmp_path / "out/ffhq-dataset-v2.json").read_bytes())
    assert list(records) == ["0", "1", "2"]
    for number, record in records.items():
        image = record["image"]
        assert image["file_path"] == f"images{SIDE}x{SIDE}/00000/{int(number):05d}.png"
        data = (tmp_path / "out" / image["file_path"]).read_bytes()
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        assert image["file_size"] == len(data)
        assert image["file_md5"] == hashlib.md5(data).hexdigest()
        assert image["pixel_size"] == [SIDE, SIDE]
        assert image["pixel_md5"] == hashlib.md5(pixels.tobytes()).hexdigest()
        assert record["category"] == "training"
        assert (record["metadata"]["country"], record["metadata"]["date_uploaded"]) == (None, None)
        assert len(record["in_the_wild"]["face_quad"]) == 4
    found = {record["metadata"]["photo_url"] for record in records.values()}
    assert found == {"https://photos.example/1", None}


def test_stylegan_zip_is_what_its_reader_takes(dataset: Dataset, tmp_path: Path) -> None:
    """By the reader's rules: images by their suffix, all square RGB PNGs of a power of two, stored; labels by name."""
    exported(dataset, "stylegan", tmp_path / "faces.zip", label="author")
    with zipfile.ZipFile(tmp_path / "faces.zip") as zipped:
        Image.init()
        names = sorted(n for n in zipped.namelist() if Path(n).suffix.lower() in Image.EXTENSION)
        assert names == [f"00000/img{number:08d}.png" for number in range(3)]
        assert {info.compress_type for info in zipped.infolist()} == {zipfile.ZIP_STORED}
        for name in names:
            image = Image.open(io.BytesIO(zipped.read(name)))
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIDE, SIDE))
        labels = dict(json.loads(zipped.read("dataset.json"))["labels"])
        lines = [json.loads(line) for line in zipped.read("metadata.jsonl").decode().split("\n")[:-1]]
    authors = {line["file_name"]: line["author"] for line in lines}
    assert {(authors[name], labels[name]) for name in names} == {("Ann", 0), ("Bö", 1)}
    exported(dataset, "stylegan", tmp_path / "plain.zip")
    assert json.loads(files(tmp_path / "plain.zip")["dataset.json"]) == {"labels": None}


def test_a_smaller_side_is_the_mean_of_blocks(dataset: Dataset, tmp_path: Path) -> None:
    """At half the side each pixel is the mean of four; a side that the version lacks is refused."""
    exported(dataset, "folder", tmp_path / "out", resolution=16)
    whole = {pixels: np.frombuffer(pixels, np.uint8).reshape(16, 2, 16, 2, 3) for pixels in contents(dataset)}
    means = [blocks.mean(axis=(1, 3)) for blocks in whole.values()]
    for path in (tmp_path / "out/images").rglob("*.png"):
        small = np.asarray(Image.open(path)).astype(float)
        assert min(np.abs(small - mean).max() for mean in means) <= 0.5
    with pytest.raises(ConfigError, match=r"resolution 24 .*: 32, 16, 8, 4"):
        exported(dataset, "folder", tmp_path / "other", resolution=24)


def test_lossy_files_are_copied_or_keep_their_pixels(tmp_path: Path) -> None:
    """A JPEG goes out as it is where the format takes it, and elsewhere as a PNG of the pixels that it decodes to."""
    store = Store(tmp_path / "store")
    jpegs = imported(store, drawn(tmp_path / "drawn", FACTS, "JPEG"), "jpegs")
    stored = {path.read_bytes() for path in (tmp_path / "drawn").glob("*.jpg")}
    for layout in ("folder", "croissant"):
        exported(jpegs, layout, tmp_path / layout)
        assert {path.read_bytes() for path in (tmp_path / layout / "images").rglob("*.jpg")} == stored
    exported(jpegs, "ffhq", tmp_path / "ffhq")
    pixels = {Image.open(path).tobytes() for path in (tmp_path / "ffhq").rglob("*.png")}
    assert pixels == set(contents(jpegs))


def test_an_export_is_known(dataset: Dataset, tmp_path: Path) -> None:
    """The store keeps the version and says where it went; the export says what it is of, and every change in it."""
    store, out = dataset.store, tmp_path / "kept"
    done = exported(dataset, "folder", out)
    assert done in list(exports_of(store))
    imported(store, drawn(tmp_path / "other", FACTS[:1]), "faces")
    assert find_garbage(store, keep=1, grace_s=0).versions == []
    store.path(done.key).rename(tmp_path / "record.json")
    assert [
        version.reference for version in find_garbage(store, keep=1, grace_s=0).versions
    ] == []  # two were made
    (tmp_path / "record.json").rename(store.path(done.key))
    chain = trace(store, str(out))
    assert [step.kind for step in chain.steps] == ["export", "dataset"]
    assert str(out) in [product.name for product in trace(store, dataset.reference).made]
    assert verify(store, str(out))[1].problems == []
    [image, *_] = sorted((out / "images").rglob("*.webp"))
    image.write_bytes(file_of(picture(99), "WEBP"))
    (out / "extra").write_text("")
    problems = verify(store, str(out))[1].problems
    assert [problem.rpartition("/")[2] for problem in problems] == [
        "00000000.webp no longer has its recorded sha256",
        "kept: extra is none of the files that it was written with",
    ]
    again = imported(Store(tmp_path / "again"), out)
    assert again.manifest.counts.rejected == {"checksum_mismatch": 1}
    elsewhere = trace(Store(tmp_path / "empty"), str(out))
    assert elsewhere.steps[0].facts["photographs"] == "not in this store"


def test_a_damaged_version_is_not_exported(tmp_path: Path) -> None:
    """An image whose bytes have changed ends the export in one sentence, and nothing is left of it."""
    dataset = imported(Store(tmp_path / "store"), drawn(tmp_path / "drawn", FACTS))
    [tar] = dataset.shard_paths
    data = bytearray(tar.read_bytes())
    data[dataset.images()[1]["offset"] + 40] ^= 1
    tar.unlink()
    tar.write_bytes(bytes(data))
    for layout in LAYOUT_NAMES:
        with pytest.raises(IntegrityError, match="no longer has the sha256"):
            exported(dataset, layout, place(tmp_path / "out", layout))
    assert list((tmp_path / "out").iterdir()) == []
    assert list(exports_of(dataset.store)) == []


def test_wrong_exports_are_one_sentence(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A format, side, label or place that cannot be is refused in one line, before anything is written."""
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    wrong = [
        (["--format", "lmdb", "--out", tmp_path / "x"], "ffhq"),
        (["--format", "ffhq", "--out", tmp_path / "there"], "is there already"),
        (["--format", "stylegan", "--out", tmp_path / "x"], "is to end in .zip"),
        (["--format", "folder", "--out", tmp_path / "file/x"], "is no folder"),
        (["--format", "folder", "--out", dataset.store.root / "x"], "inside the store"),
        (["--format", "folder", "--out", tmp_path / "x", "--resolution", 64], "32, 16, 8, 4"),
        (["--format", "folder", "--out", tmp_path / "x", "--label", "author"], "--label is for stylegan"),
        (["--format", "stylegan", "--out", tmp_path / "x.zip", "--label", "hat"], "author"),
    ]
    for arguments, message in wrong:
        status, output, error = likeness(
            capsys, "export-dataset", "faces", "--store", dataset.store.root, *arguments
        )
        assert (status, output) == (1, "")
        assert message in error
        assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there"]


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_a_dry_run_writes_nothing(
    dataset: Dataset, layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says how many images and about how many bytes, and the export is about as large."""
    out = place(tmp_path, layout)
    command = [
        "export-dataset",
        dataset.reference,
        "--store",
        dataset.store.root,
        "--format",
        layout,
        "--out",
        out,
    ]
    status, output, _ = likeness(capsys, *command, "--dry-run", "--json")
    planned = json.loads(output)
    assert (status, planned["images"], list(tmp_path.iterdir())) == (0, 3, [])
    status, output, _ = likeness(capsys, *command, "--json")
    assert status == 0
    images = sum(len(data) for name, data in files(out).items() if name.endswith((".png", ".webp", ".tar")))
    padding = (
        3 if layout == "huggingface" else 1
    )  # tars are of blocks, which are large beside such small images
    assert images / (2 * padding) <= planned["about_bytes"] <= images * 2
    assert json.loads(output)["images"] == 3


def test_a_full_disk_is_one_sentence(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no more bytes can be written the command says what it could not write, and leaves nothing."""
    for layout in ("folder", "stylegan"):
        out = place(tmp_path, layout)
        words = ["export-dataset", "faces", "--store", dataset.store.root, "--format", layout, "--out", out]
        with full_disk(2048):
            status, _, err = likeness(capsys, *words)
        assert status == 1, err
        assert err.startswith(f"likeness: {out}")
        assert "cannot be written: File too large" in err
    assert list(tmp_path.iterdir()) == []


def test_facts_are_columns(dataset: Dataset, tmp_path: Path) -> None:
    """The Parquet beside shards has a row an image, whose place in the shards holds that image."""
    exported(dataset, "huggingface", tmp_path / "out")
    rows = pq.read_table(tmp_path / "out/facts.parquet").to_pylist()
    assert [row["key"] for row in rows] == [row["key"] for row in dataset.images()]
    assert rows[0]["file"] == f"data/train-00000.tar/{rows[0]['key']}.webp"
    assert not {"shard", "offset", "embedding"} & rows[0].keys()


def run(code: str, *arguments: object) -> str:
    """What a program prints that uses a library of others."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD = """
import sys, datasets
for path, image in zip(sys.argv[1:3], ("webp", "image")):
    rows = datasets.load_dataset(path, split="train", cache_dir=sys.argv[3])
    facts = [row["json"] if "json" in row else row for row in rows]
    print(len(rows), rows[0][image].size[0], sorted({row["author"] for row in facts}))
"""


@pytest.mark.slow
def test_datasets_loads_it(dataset: Dataset, tmp_path: Path) -> None:
    """`datasets.load_dataset` reads the repository and the plain folder as they are, pixels and facts."""
    pytest.importorskip("datasets", reason="the package datasets is not installed")
    exported(dataset, "huggingface", tmp_path / "hub")
    exported(dataset, "folder", tmp_path / "folder")
    printed = run(LOAD, tmp_path / "hub", tmp_path / "folder", tmp_path / "cache")
    assert printed.splitlines() == [f"3 {SIDE} {['Ann', FACTS[1]['author']]}"] * 2


CROISSANT = """
import sys, mlcroissant
found = mlcroissant.Dataset(jsonld=sys.argv[1])
print(sorted(found.metadata.issues.errors))
for row in found.records("faces"):
    pixels = row["faces/image"].convert("RGB").tobytes()
    print(row["faces/author"].decode(), pixels[:8].hex())
"""


@pytest.mark.slow
def test_mlcroissant_loads_it(dataset: Dataset, tmp_path: Path) -> None:
    """`mlcroissant` finds no error in the JSON-LD, and gives each image with its facts."""
    pytest.importorskip("mlcroissant", reason="the package mlcroissant is not installed")
    exported(dataset, "croissant", tmp_path / "out")
    first, *rows = run(CROISSANT, tmp_path / "out/croissant.json").splitlines()
    assert first == "[]"
    found = {(pixels[:8].hex(), facts[0]) for pixels, facts in contents(dataset).items()}
    assert {tuple(row.split(" ")[::-1]) for row in rows} == found


KILLED = """
import os, signal, sys
from pathlib import Path
from storage.datasets.dataset import open_dataset
from storage.exports.sinks import Sink
from storage.exports.write import checked_job, export
from storage.store import Store
store, name, layout, out = sys.argv[1:]
def killed(*_): os.kill(os.getpid(), signal.SIGKILL)
Sink.growing = Sink._note = killed
export(*checked_job(open_dataset(Store(store), name), layout, Path(out)), Path(out))
"""


@pytest.mark.parametrize("layout", ["folder", "stylegan"])
def test_what_a_killed_export_leaves_is_told_and_goes(
    dataset: Dataset, layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is one file or folder beside the target, which `gc` and the doctor name, and the next export deletes; what is
    being written now, or is no export's, is let alone.
    """
    out = place(tmp_path / "outs", layout)
    command = [sys.executable, "-c", KILLED, str(dataset.store), dataset.name, layout, str(out)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    [left] = out.parent.iterdir()
    assert left.name.endswith(".partial")
    assert find_garbage(dataset.store, keep=3, grace_s=3600).leftovers == []
    assert find_garbage(dataset.store, keep=3, grace_s=-1).leftovers == [left]
    assert str(left) in "".join(
        finding.says for finding in findings(dataset.store.root) if finding.of == "exports"
    )
    mine = tmp_path / "mine"
    mine.mkdir()
    for number, name in enumerate(("mine", "outs/.0123456789abcdef.partial/../../mine", "..")):
        note = dataset.store.path(f"cache/exports/{number:016x}.json")
        note.write_text(json.dumps({"partial": str(tmp_path / name)}))
    with under_way(dataset.store, out) as now:
        now.mkdir()
        exported(dataset, layout, place(tmp_path / "others", layout))
        assert now.is_dir()
        now.rmdir()
    assert not left.exists()
    assert mine.is_dir()
    assert f"{left} is deleted" in caplog.text
    assert not list(dataset.store.path("cache/exports").iterdir())
    assert find_garbage(dataset.store, keep=3, grace_s=-1).leftovers == []


MEASURES = ("detector_score", "landmarks_px", "sharpness", "pdq", "pdq_quality", "yaw_deg")


@pytest.mark.parametrize("layout", ["croissant", "ffhq", "folder", "huggingface", "stylegan"])
def test_landmarks_and_scores_come_back(layout: str, tmp_path: Path) -> None:
    """What was measured of each face is in the import's columns, landmarks in pixels of the image; and out of an
    export of that again. A score that is none stays what it says.
    """
    rng = np.random.default_rng(0)
    rows = [
        {
            "author": f"A {number}", "detector_score": 0.5 + number, "sharpness": 1 / 3, "pdq": "0f" * 32,
            "pdq_quality": 100 - number, "yaw_deg": "sideways",
            "quad_px": [[10, 10], [10, 74], [74, 74], [74, 10]],
            "landmarks_px": (10 + 64 * rng.random((68, 2))).tolist(),
        }
        for number in range(3)
    ]  # fmt: skip
    first = imported(Store(tmp_path / "first"), drawn(tmp_path / "drawn", rows, "PNG"))
    of_first = {row["author"]: row for row in first.images()}
    for row in rows:
        found = of_first[row["author"]]
        assert [found[name] for name in ("detector_score", "sharpness", "pdq", "pdq_quality")] == [
            row[name] for name in ("detector_score", "sharpness", "pdq", "pdq_quality")
        ]
        assert found["yaw_deg"] is None
        expected = (np.array(row["landmarks_px"]) - 10) / 64 * SIDE - 0.5
        assert np.abs(np.array(found["landmarks_px"]) - expected).max() < 1e-3
    out = place(tmp_path, layout)
    exported(first, layout, out)
    again = imported(Store(tmp_path / "again"), out)
    assert verify(again.store, None)[1].problems == []
    wanted = {row["image_sha256"]: row for row in first.images()}
    for row in again.images():
        for name in MEASURES:
            is_said = layout != "ffhq" or name == "landmarks_px"
            value = wanted[row["image_sha256"]][name] if is_said else None
            if name == "landmarks_px" and value:
                assert np.abs(np.array(row[name]) - np.array(value)).max() < 1e-3
            else:
                assert (row[name] or None) == (value or None), name
    assert imported(Store(tmp_path / "again"), out).version == again.version
