"""preprocessing.sources.imported: what strangers pack is read as it is, or refused by a counted reason."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from commands import likeness
from exported import SIDE, contents, drawn, exported, file_of, imported, in_this_process, picture
from preprocessing.aligned import taken_back
from preprocessing.columns import FACE_FIELDS
from storage.datasets.dataset import Dataset
from storage.errors import ConfigError, EmptyDatasetError, SourceError
from storage.exports.archive import LANDMARKS, described
from storage.store import Store
from storage.tombstones import Tombstones


@pytest.fixture(autouse=True, scope="module")
def inline() -> Iterator[None]:
    """Builds without a cluster."""
    with in_this_process():
        yield


def reasons(dataset: Dataset) -> dict[str, str]:
    """Why each file is not in a version."""
    return {row["ref"]: row["reason"] for row in dataset.rejections()}


def accounted(dataset: Dataset) -> bool:
    """Whether images and rejections are all that was listed."""
    counts = dataset.manifest.counts
    return counts.photos == counts.images + sum(counts.rejected.values())


def zipped(path: Path, files: Mapping[str, bytes]) -> zipfile.ZipFile:
    """A ZIP of StyleGAN's, open for more."""
    archive = zipfile.ZipFile(path, "w")
    archive.writestr("dataset.json", '{"labels": null}')
    for name, data in files.items():
        archive.writestr(name, data)
    return archive


def test_a_hostile_zip_gives_its_good_images_and_counts_the_rest(tmp_path: Path) -> None:
    """Names that lead out, links, names twice, bombs, what is broken or of another size: each by a reason."""
    good = file_of(picture(1))
    path = tmp_path / "hostile.zip"
    with zipped(
        path, {"good.png": good, "big.png": file_of(picture(2, 64)), "broken.png": good[:200]}
    ) as archive:
        archive.writestr("../out.png", file_of(picture(3)))
        archive.writestr("/abs.png", file_of(picture(4)))
        archive.writestr("a/../../up.png", file_of(picture(5)))
        archive.writestr("back\\slash.png", file_of(picture(6)))
        archive.writestr("text.png", b"no picture")
        archive.writestr("empty.png", b"")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bomb.png", b"\0" * (65 << 20), zipfile.ZIP_DEFLATED)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("good.png", file_of(picture(7)))
        large = io.BytesIO()
        Image.new("L", (30_000, 30_000)).save(large, "PNG")
        archive.writestr("pixels.png", large.getvalue())
    dataset = imported(Store(tmp_path / "store"), path)
    assert [row["ref"] for row in dataset.images()] == ["good.png"]
    assert set(contents(dataset)) == {picture(1).tobytes()}
    assert Counter(reasons(dataset).values()) == {
        "unreadable_file": 5, "too_many_bytes": 1, "bad_metadata": 1, "unsupported_image": 2, "broken_image": 1,
        "not_an_image": 1, "empty_file": 1,
    }  # fmt: skip
    assert accounted(dataset)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["hostile.zip", "store"]


def test_an_encrypted_or_damaged_entry_is_a_rejection(tmp_path: Path) -> None:
    """An entry that says it is encrypted, or whose checksum is wrong, is refused and the others are taken."""
    path = tmp_path / "damaged.zip"
    names = {f"{number}.png": file_of(picture(number)) for number in range(3)}
    zipped(path, names).close()
    data = bytearray(path.read_bytes())
    data[data.index(names["1.png"]) + 50] ^= 1
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 8] |= 1
    path.write_bytes(bytes(data))
    dataset = imported(Store(tmp_path / "store"), path)
    assert reasons(dataset) == {"1.png": "unreadable_file", "2.png": "unreadable_file"}
    assert accounted(dataset)


def test_a_hostile_folder_reads_nothing_beside_it(tmp_path: Path) -> None:
    """Links are not followed; lines about files elsewhere, twice, or of no sense are counted."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(file_of(picture(9)))
    folder = drawn(tmp_path / "drawn", [{"author": "Ann"}, {"author": 7}, {"title": "x" * 20_000}])
    (folder / "link.png").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    with (folder / "metadata.jsonl").open("a") as file:
        for name in ("../secret.png", str(secret), "missing.png"):
            file.write("\n" + json.dumps({"file_name": name}))
        file.write('\n{"file_name": "000.png", "author": "Bob"}\nno JSON\n[1]\n' + "[" * 100_000)
    dataset = imported(Store(tmp_path / "store"), folder)
    assert {row["ref"]: row["author"] for row in dataset.images()} == {"000.png": "Ann", "002.png": None}
    assert Counter(reasons(dataset).values()) == {"bad_metadata": 5, "unreadable_file": 5}
    assert reasons(dataset)["001.png"] == "bad_metadata"
    assert accounted(dataset)


def test_ffhq_of_others_comes_in(tmp_path: Path) -> None:
    """FFHQ's own JSON, with what only it has: its sums are checked, its paths stay inside, its facts are kept."""
    folder = tmp_path / "ffhq"
    records: dict[str, Any] = {}
    for number in range(4):
        name = f"images1024x1024/00000/{number:05d}.png"
        data = file_of(picture(number))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        records[str(number)] = {
            "category": "validation",
            "metadata": {
                "photo_url": f"https://www.flickr.com/photos/ann/{number}/", "photo_title": "DSCF.JPG", "author": "Ann",
                "country": "", "license": "Attribution License", "date_uploaded": "2007-08-16",
                "license_url": "https://creativecommons.org/licenses/by/2.0/", "date_crawled": "2018-10-10",
            },
            "image": {"file_path": name, "file_md5": hashlib.md5(data).hexdigest(), "pixel_size": [SIDE, SIDE]},
            "thumbnail": {"file_path": f"thumbnails128x128/00000/{number:05d}.png"},
            "in_the_wild": {"pixel_size": [2016, 1512], "face_quad": [[0, 0]], "face_landmarks": [[1.0, 2.0]] * 68},
        }  # fmt: skip
    records["1"]["image"]["file_md5"] = "0" * 32
    records["2"]["image"]["file_path"] = "../../etc/passwd"
    records["4"] = records["0"]
    records["5"] = 5
    (folder / "ffhq-dataset-v2.json").write_text(json.dumps(records))
    dataset = imported(Store(tmp_path / "store"), folder)
    assert Counter(reasons(dataset).values()) == {
        "checksum_mismatch": 1,
        "unreadable_file": 1,
        "bad_metadata": 2,
    }
    row = next(row for row in dataset.images() if row["ref"].endswith("00000.png"))
    assert (row["page"], row["author"]) == ("https://www.flickr.com/photos/ann/0/", "Ann")
    said = json.loads(row["said"])
    assert (said["category"], said["date_uploaded"]) == ("validation", "2007-08-16")
    assert said["in_the_wild"] == {"pixel_size": [2016, 1512], "face_quad": [[0, 0]]}
    assert accounted(dataset)


def test_hostile_shards_are_counted(tmp_path: Path) -> None:
    """Of tars links, devices, names that lead out or are there twice are refused, and a tar that is none is named."""
    folder = tmp_path / "hub" / "data"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "train-0.tar", "w") as tar:

        def add(name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> None:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(data), "/etc/passwd"
            tar.addfile(member, io.BytesIO(data))

        add("good.png", file_of(picture(1)))
        add("good.json", b'{"author": "Ann"}')
        add("good.png", file_of(picture(2)))
        add("../out.png", file_of(picture(3)))
        add("link.png", b"", tarfile.SYMTYPE)
        add("hard.png", b"", tarfile.LNKTYPE)
        add("pipe.png", b"", tarfile.FIFOTYPE)
        add("bad.png", file_of(picture(4)))
        add("bad.json", b"{")
    (folder / "train-1.tar").write_bytes(b"no tar" * 1000)
    dataset = imported(Store(tmp_path / "store"), tmp_path / "hub")
    assert [(row["ref"], row["author"]) for row in dataset.images()] == [("data/train-0.tar/good.png", "Ann")]
    assert Counter(reasons(dataset).values()) == {"unreadable_file": 5, "bad_metadata": 2}
    assert accounted(dataset)


def test_pixels_of_other_kinds_are_kept_or_refused(tmp_path: Path) -> None:
    """Grey, palette and opaque pictures become RGB of the same pixels; what has more is refused."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    base = picture(1)
    kinds = {
        "grey": base.convert("L"), "palette": base.quantize(16), "opaque": base.convert("RGBA"),
        "clear": Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 4)), "deep": Image.new("I;16", (SIDE, SIDE), 700),
    }  # fmt: skip
    for name, image in kinds.items():
        image.save(folder / f"{name}.png")
    dataset = imported(Store(tmp_path / "store"), folder)
    kept = {kinds[name].convert("RGB").tobytes() for name in ("grey", "palette", "opaque")}
    assert set(contents(dataset)) == kept
    assert reasons(dataset) == {"clear.png": "unsupported_image", "deep.png": "unsupported_image"}


def test_what_was_removed_for_good_does_not_come_back(tmp_path: Path) -> None:
    """A tombstone of a photograph's address, name or hash holds for crops of it that are imported, without a count."""
    facts = [{"author": "Ann", "page": f"https://photos.example/{number}"} for number in range(4)]
    first = imported(Store(tmp_path / "first"), drawn(tmp_path / "drawn", facts))
    out = tmp_path / "out"
    exported(first, "folder", out)
    store = Store(tmp_path / "second")
    gone, other, third, stays = first.images()
    Tombstones(store).bury([("sha256", gone["photo_sha256"]), ("url", other["page"]), ("ref", third["ref"])])
    second = imported(store, out)
    assert [row["page"] for row in second.images()] == [stays["page"]]
    assert (second.manifest.counts.photos, second.manifest.counts.rejected) == (1, {})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: None, SourceError, "is not there"),
        (lambda path: path.write_bytes(b"no ZIP"), SourceError, "cannot be read as a ZIP"),
        (lambda path: path.mkdir(), ConfigError, "holds no images"),
        (lambda path: zipped(path, {}).close(), SourceError, "holds no image"),
        (lambda path: zipped(path, {"a.png": b"x"}).close(), SourceError, "holds no image"),
        (lambda path: zipped(path, {"a.png": file_of(picture(1, 48))}).close(), ConfigError, "side of 48 px"),
    ],
)
def test_what_is_no_dataset_is_one_sentence(make: Any, error: Any, message: str, tmp_path: Path) -> None:
    """A path without images, or with images of a side that is not taken, ends before anything is built."""
    path = tmp_path / "faces.zip"
    make(path)
    with pytest.raises(error, match=message) as raised:
        imported(Store(tmp_path / "store"), path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "store").exists()


def test_the_command_imports_and_says_what_it_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`import-dataset` publishes a version, counts rejections, says another format's absence, and can only look."""
    folder = drawn(tmp_path / "drawn", [{"author": "Ann"}, {}])
    (folder / "small.png").write_bytes(file_of(picture(3, 16)))
    command = ["import-dataset", folder, "--name", "taken", "--store", tmp_path / "store"]
    status, output, _ = likeness(capsys, *command, "--dry-run")
    assert (status, json.loads(output)["config"]["resolution"]) == (0, SIDE)
    status, output, error = likeness(capsys, *command, "--format", "ffhq")
    assert (status, output, error.count("\n")) == (1, "", 1)
    status, output, _ = likeness(capsys, *command, "--json")
    assert status == 0
    summary = json.loads(output)
    assert (summary["images"], summary["rejected"]) == (2, {"unsupported_image": 1})
    status, _, error = likeness(
        capsys, "curate", "taken", "--store", tmp_path / "store", "--curate.preset", "ffhq"
    )
    assert status == 1
    assert "not measured" in error
    with pytest.raises(EmptyDatasetError):
        imported(Store(tmp_path / "other"), folder, resolution=64)


HUGE = 10**400
"""Beyond what a float holds."""
WORDS = (LANDMARKS, "landmarks", "landmarks_px", "quad_px", "box_px", "sharpness", "pdq", "pdq_quality")
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(HUGE),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=10,
)
POINTS = st.builds(
    lambda point, num: [point] * num,
    st.lists(st.floats() | st.just(HUGE) | st.text(max_size=1), min_size=1, max_size=3),
    st.sampled_from([67, 68]),
)


@example({"sharpness": HUGE, "pdq_quality": HUGE, LANDMARKS: [[HUGE, 1]] * 68})
@example({LANDMARKS: [[0.5, 0.5]] * 68})
@given(row=st.dictionaries(st.sampled_from(WORDS), JSON_VALUES | POINTS))
def test_whatever_a_row_says_fits_the_columns(row: dict[str, Any]) -> None:
    """Landmarks and scores of a foreign row are taken where they are such, and else left as they are said."""
    said = json.dumps(described("a.png", row).said)
    taken = taken_back(said, pa.schema(FACE_FIELDS), 64)
    table = pa.Table.from_pylist([taken], schema=pa.schema(FACE_FIELDS))
    points = table["landmarks_px"][0].as_py()
    assert points is None or np.isfinite(np.array(points).reshape(68, 2)).all()


def test_points_of_another_program_are_none_of_ours(tmp_path: Path) -> None:
    """A column `landmarks` of any shape ends no import and is kept as it is said, not taken for shares of the side."""
    said = ["junk", [[1, 2], 3] * 34, [["a", "b"]] * 68, [[31.5, 20.0]] * 68]
    folder = tmp_path / "theirs"
    drawn(folder, [{"landmarks": value} for value in said], "PNG")
    dataset = imported(Store(tmp_path / "store"), folder)
    rows = list(dataset.images())
    assert [row["landmarks_px"] for row in rows] == [[]] * 4
    kept = [json.loads(row["said"])["landmarks"] for row in rows]
    assert sorted(map(str, kept)) == sorted(map(str, said))
