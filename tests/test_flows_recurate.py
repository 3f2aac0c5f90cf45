"""flows.recurate: other rules for a published dataset, without a photograph decoded, and one photograph explained."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFilter
from raw_web import Request, reply, serving

from flows.build import Built, build, run_with
from flows.cli.main import main
from flows.options import BuildOptions
from flows.recurate import crawled, recurate, recuration
from flows.stages.work import Progress
from preprocessing.columns import REJECTION_SCHEMA, rejections_of
from preprocessing.config import BuildConfig
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.explain import explain
from preprocessing.recheck import recheck
from preprocessing.sources import open_source
from preprocessing.sources.licenses import LicensesConfig
from storage.datasets.dataset import open_dataset
from storage.datasets.verify import verify
from storage.errors import ConfigError, EmptyDatasetError, IntegrityError, NotFoundError
from storage.store import Store
from storage.tables import put_table

STRICT = {"preset": "ffhq", "pdq_max_distance": None, "faces": "single"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of the sample, one of them twice, a text, and a file that is not the one on record."""
    folder = tmp_path_factory.mktemp("photos")
    source = open_source("sample:12", FetchConfig())
    lines = []
    for item, data in source.read(source.items()):  # type: ignore[misc]
        name = Path(item.ref).name
        (folder / name).write_bytes(data)
        lines.append({"file": name, "license": item.license, "author": item.author})
    shutil.copy(folder / lines[0]["file"], folder / "zz-again.jpg")
    (folder / "notes.txt").write_text("not a photograph")
    (folder / "other.txt").write_text("not the file on record")
    lines.append({"file": "other.txt", "sha256": "0" * 64})
    (folder / "photos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def silent(_: Progress) -> None:
    """A report to nobody."""


def built(photos: Path, store: Path, cluster: str, **curate: Any) -> Built:
    """A build of the folder at 64 px."""
    config = BuildConfig.model_validate({"source": f"folder:{photos}", "resolution": 64, "curate": curate})
    return build(config, BuildOptions(store=store, scheduler=cluster, chunk_size=5), run_with(silent))


def recurated(store: Path, cluster: str, reference: str = "faces", **curate: Any) -> Built:
    """A re-curation."""
    dataset, config = recuration(Store(store), reference, BuildConfig.model_validate({"curate": curate}))
    return recurate(dataset, config, BuildOptions(store=store, scheduler=cluster), run_with(silent))


@pytest.fixture(scope="module")
def first(photos: Path, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A build by lenient rules that keeps copies."""
    return built(photos, tmp_path_factory.mktemp("first"), cluster, pdq_max_distance=None)


@pytest.fixture(scope="module")
def unreadable(first: Built, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the first build with every original photograph overwritten: whoever reads one is found out."""
    store = tmp_path_factory.mktemp("unreadable") / "store"
    shutil.copytree(first.dataset.store.root, store)
    for original in store.glob("originals/*/*"):
        original.write_bytes(b"\0" * original.stat().st_size)
    return store


@pytest.mark.parametrize("curate", [STRICT, {}, {"min_quad_px": 120}])
def test_re_curation_equals_a_full_rebuild(
    first: Built, photos: Path, unreadable: Path, cluster: str, tmp_path: Path, curate: dict[str, Any]
) -> None:
    """Other rules give the version that a build from scratch gives, and no original photograph is read."""
    again = recurated(unreadable, cluster, f"faces@{first.dataset.version}", **curate)
    whole = built(photos, tmp_path, cluster, **curate)
    assert again.dataset.manifest == whole.dataset.manifest
    assert again.dataset.version == whole.dataset.version != first.dataset.version
    assert again.dataset.images() == whole.dataset.images()
    assert again.dataset.rejections() == whole.dataset.rejections()
    assert again.record.timings["align"]["done"] == 0
    assert again.record.config == whole.record.config
    assert verify(whole.dataset).problems == []
    shards = [path.read_bytes() for path in again.dataset.shard_paths]
    assert shards == [path.read_bytes() for path in whole.dataset.shard_paths]


def test_re_curation_there_and_back(first: Built, unreadable: Path, cluster: str) -> None:
    """From a stricter version, the first rules give the first version."""
    recurated(unreadable, cluster, f"faces@{first.dataset.version}", **STRICT)
    assert recurated(unreadable, cluster, pdq_max_distance=None).dataset.version == first.dataset.version


def test_what_was_crawled_is_in_the_tables(first: Built) -> None:
    """Every file is an item again, rejections of the crawl apart, duplicates with their own refs."""
    result = crawled(first.dataset, LicensesConfig())
    assert result.items.num_rows == first.dataset.manifest.counts.photos
    rejections = [(rejection.ref, rejection.reason) for rejection in rejections_of(result.rejections)]
    assert rejections == [("other.txt", "checksum_mismatch")]
    photos = {photo["ref"]: photo for photo in result.photos.to_pylist()}
    assert photos.keys() == set(result.items["ref"].to_pylist()) - {"other.txt"}
    assert "zz-again.jpg" in photos
    for photo in photos.values():
        assert photo["num_bytes"] == len(first.dataset.store.original(photo["sha256"]))


def test_only_rules_can_change(first: Built) -> None:
    """Anything but curation is refused by name, as are rules on what the build did not find or measure."""
    store = first.dataset.store
    for settings, message in [
        ({"resolution": 128}, "not --resolution"),
        ({"detect": {"min_quad_px": 20}}, "not --detect"),
        ({"fetch": {"retries": 1}}, "not --fetch.retries"),
        ({"curate": {"min_quad_px": 20}}, "below detect.min_quad_px=32"),
        ({"curate": {"max_faces_per_identity": 2}}, "scores.embedding"),
    ]:
        with pytest.raises(ConfigError, match=message):
            recuration(store, "faces", BuildConfig.model_validate(settings))
    with pytest.raises(NotFoundError, match="no dataset 'nobody'"):
        recuration(store, "nobody", BuildConfig())


def test_a_stricter_policy_gives_what_a_build_gives(photos: Path, cluster: str, tmp_path: Path) -> None:
    """What was said of photographs refuses them later, with nobody asked, as a build by that policy does."""
    files = {f"/{path.name}": path.read_bytes() for path in photos.glob("*.jpg")}
    marked = min(files)

    def answer(request: Request) -> bytes:
        if request.target not in files:
            return reply(status=404)
        said = {"X_Robots_Tag": "noindex"} if request.target == marked else {}
        return reply(files[request.target], 200, **said)

    with serving(answer) as web:
        listed = tmp_path / "urls.jsonl"
        lines = [{"url": web.url(target), "license": "CC0-1.0"} for target in files]
        listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
        fetch: dict[str, Any] = {"user_agent": "test/1", "allow_networks": ["127.0.0.0/8"]}
        curate = {"pdq_max_distance": None}
        settings = {"source": f"urls:{listed}", "resolution": 64, "curate": curate, "fetch": fetch}
        options = BuildOptions(store=tmp_path / "store", scheduler=cluster, chunk_size=5)
        lax = build(BuildConfig.model_validate(settings), options, run_with(silent))
        num_requests = len(web.requests)
        strict = {"opt_outs": {"x_robots_tag": "noai,noindex"}}
        given = BuildConfig.model_validate({"curate": curate, "fetch": strict})
        again = recurate(*recuration(Store(options.store), "faces", given), options, run_with(silent))
        settings["fetch"] = fetch | strict
        whole = build(BuildConfig.model_validate(settings), options, run_with(silent))
        assert len(web.requests) == num_requests
    assert again.dataset.version == whole.dataset.version != lax.dataset.version
    assert [row["ref"] for row in again.dataset.rejections() if row["reason"] == "opted_out"] == [
        web.url(marked)
    ]
    assert again.record.config["fetch"] == whole.record.config["fetch"]


def test_what_a_later_crawl_found_gone_stays_out(photos: Path, cluster: str, tmp_path: Path) -> None:
    """Photographs whose addresses have answered 404, 410 or 403 since are rejected, as a build then rejects them; what
    has failed in passing stays."""
    files = {
        f"/{path.name}": path.read_bytes() for path in sorted(photos.glob("*.jpg")) if path.stem != "zz-again"
    }
    later = dict(zip(files, (410, 404, 403, 503), strict=False))
    statuses: dict[str, int] = {}

    def answer(request: Request) -> bytes:
        if status := statuses.get(request.target):
            return reply(status=status)
        return reply(files[request.target]) if request.target in files else reply(status=404)

    with serving(answer) as web:
        listed = tmp_path / "urls.jsonl"
        lines = [{"url": web.url(target), "license": "CC0-1.0"} for target in files]
        listed.write_text("".join(json.dumps(line) + "\n" for line in lines))
        fetch: dict[str, Any] = {"user_agent": "test/1", "allow_networks": ["127.0.0.0/8"], "retries": 0}
        curate = {"pdq_max_distance": None}
        config = BuildConfig.model_validate(
            {"source": f"urls:{listed}", "resolution": 64, "curate": curate, "fetch": fetch}
        )
        options = BuildOptions(store=tmp_path / "store", scheduler=cluster, chunk_size=5)
        before = build(config, options, run_with(silent))
        statuses |= later
        recheck(before.dataset, config.fetch)
        num_requests = len(web.requests)
        given = BuildConfig.model_validate({"curate": curate})
        again = recurate(*recuration(Store(options.store), "faces", given), options, run_with(silent))
        assert len(web.requests) == num_requests
        whole = build(config, options, run_with(silent))
    assert again.dataset.version == whole.dataset.version != before.dataset.version
    refused = {
        row["ref"]: row["detail"] for row in again.dataset.rejections() if row["reason"] == "http_status"
    }
    assert refused == {web.url(target): str(status) for target, status in later.items() if status != 503}


def test_an_impossible_rule_publishes_nothing(first: Built, unreadable: Path, cluster: str) -> None:
    """Where the new rules keep nothing, the error says why and the latest version stays."""
    before = (unreadable / "datasets/faces/latest.json").read_text()
    with pytest.raises(EmptyDatasetError, match="min_sharpness=1"):
        recurated(unreadable, cluster, min_sharpness=1.0)
    assert (unreadable / "datasets/faces/latest.json").read_text() == before


def test_a_missing_table_row_is_not_passed_over(first: Built, tmp_path: Path) -> None:
    """Tables that lack a photograph of the manifest give no silent smaller dataset."""
    shutil.copytree(first.dataset.store.path("datasets"), tmp_path / "datasets")
    dataset = open_dataset(Store(tmp_path), first.dataset.reference)
    path = dataset.folder / "rejections.parquet"
    put_table(dataset.store, f"{dataset.key}/{path.name}", [], REJECTION_SCHEMA)
    with pytest.raises(IntegrityError, match=rf"{path} no longer holds what it was published with"):
        crawled(dataset, LicensesConfig())


def test_explaining_a_kept_photograph(first: Built, photos: Path) -> None:
    """The verdict is that of a build, with each rule's value and bound, and the image that the dataset has."""
    store = first.dataset.store
    row = first.dataset.images()[0]
    explanation = explain(store, str(photos / row["ref"]), BuildConfig(), "faces")
    [(face, _)] = [entry for entry in explanation.faces if entry[0].face_index == row["face_index"]]
    assert face.image_sha256 == row["image_sha256"], "not at the dataset's resolution"
    assert explanation.outcomes[row["face_index"]] is None
    told = explanation.as_json()
    assert {"ref": row["ref"], "face_index": row["face_index"], "kept": True, "key": row["key"]} in told[
        "recorded"
    ]
    [size] = [
        rule
        for rule in told["rules"]
        if rule["score"] == "quad_side_px" and rule["face_index"] == row["face_index"]
    ]
    assert (size["value"], size["low"], size["passed"]) == (row["quad_side_px"], 32, True)
    for reference in (row["key"], row["photo_sha256"]):
        by_name = explain(store, reference, BuildConfig(), "faces").as_json()
        assert {**by_name, "photograph": ""} == {**told, "photograph": ""}


def test_explaining_what_other_rules_would_do(first: Built) -> None:
    """Rules given beside a dataset take the place of its own; the reason is the first failing rule's."""
    row = first.dataset.images()[0]
    given = BuildConfig.model_validate({"curate": {"min_sharpness": 1.0, "max_brightness": 0.0}})
    explanation = explain(first.dataset.store, row["key"], given, "faces")
    rejection = explanation.outcomes[row["face_index"]]
    assert rejection is not None
    assert rejection.reason == "blurred"
    assert rejection.detail is not None
    assert rejection.detail.endswith("< 1")
    text = "\n".join(explanation.lines())
    assert "is rejected: blurred (sharpness" in text
    assert "FAIL: exposure" in text


def test_explaining_what_has_no_face(first: Built, photos: Path) -> None:
    """A file that cannot be decoded and a picture without a face have their reason, without a dataset too."""
    store = first.dataset.store
    notes = explain(store, str(photos / "notes.txt"), BuildConfig(), None)
    assert [rejection.reason for rejection in notes.outcomes.values() if rejection] == ["not_an_image"]
    assert notes.faces == []
    assert any("is rejected: not_an_image" in line for line in notes.lines())
    with pytest.raises(NotFoundError, match="no file, and no image"):
        explain(store, "nobody.jpg", BuildConfig(), None)


def test_explaining_a_duplicate(first: Built, photos: Path, cluster: str, tmp_path: Path) -> None:
    """Of near-identical photographs the dataset's record names the one that was kept."""
    folder = tmp_path / "photos"
    folder.mkdir()
    faces = Counter(row["ref"] for row in first.dataset.images())
    scene = photos / min(ref for ref, count in faces.items() if count == 1)
    shutil.copy(scene, folder / f"sharp{scene.suffix}")
    with Image.open(scene) as photo:
        blurred = photo.convert("RGB").filter(ImageFilter.GaussianBlur(1))
        blurred.save(folder / "copy.jpg", exif=photo.getexif(), quality=60)
    both = built(folder, tmp_path / "store", cluster)
    assert set(both.summary()["rejected"]) == {"near_duplicate"}
    explanation = explain(both.dataset.store, str(folder / "copy.jpg"), BuildConfig(), "faces")
    [row] = explanation.recorded
    assert (row["reason"], row["instead"]) == ("near_duplicate", f"sharp{scene.suffix}")
    assert list(explanation.outcomes.values()) == [None], "it passes alone"
    assert any(line.endswith(f"kept instead: sharp{scene.suffix}") for line in explanation.lines())


def test_the_command(
    first: Built, unreadable: Path, cluster: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`likeness curate` prints one JSON object for either use, and its dry run the resolved config."""
    where = ["--store", str(unreadable), "--json"]
    reference = f"faces@{first.dataset.version}"

    def printed(*arguments: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as stop:
            main([*arguments, *where])
        assert not stop.value.code
        value: dict[str, Any] = json.loads(capsys.readouterr().out)
        return value

    rules = ["--curate.preset", "ffhq", "--curate.pdq-max-distance", "none"]
    dry = printed("curate", reference, *rules, "--dry-run")
    assert dry["dataset"] == reference
    assert dry["config"]["curate"]["min_quad_px"] == 64
    again = printed("curate", reference, *rules, "--scheduler", cluster)
    assert (again["of"], again["decoded"], again["name"]) == (reference, 0, "faces")
    told = printed("curate", "--explain", str(photos / "notes.txt"), *rules)
    assert (told["kept"], told["outcomes"][0]["reason"]) == (0, "not_an_image")
    with pytest.raises(SystemExit):
        main(["curate"])
    assert "a dataset is needed" in capsys.readouterr().err
