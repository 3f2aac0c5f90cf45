"""flows.build: one version from the same photographs, whatever the machine did meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import webdataset

from flows.build import Built, build, run_with
from flows.options import BuildOptions
from flows.recurate import recurate, recuration
from flows.stages.work import Progress
from preprocessing.config import BuildConfig
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.records import SOURCE_COLUMNS
from preprocessing.sources import open_source
from storage.datasets.diff import diff
from storage.datasets.verify import verify
from storage.digest import bytes_digest
from storage.errors import ConfigError, EmptyDatasetError, SourceError
from storage.lineage.openlineage import EVENTS
from storage.lineage.trace import trace

PHOTOS = 12
COPIES = {"pdq_max_distance": None}
"""Curation that keeps near-duplicates, of which the sample's scenes of two people consist."""
LARGE = {"min_quad_px": 128}
"""Detection of faces of the sample's sizes alone, which is quicker."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photographs with their facts beside it, made from the sample."""
    folder = tmp_path_factory.mktemp("photos")
    source = open_source(f"sample:{PHOTOS}", FetchConfig())
    lines = []
    for item, data in source.read(source.items()):  # type: ignore[misc]
        (folder / Path(item.ref).name).write_bytes(data)
        lines.append({"file": Path(item.ref).name, "license": item.license, "author": item.author})
    (folder / "photos.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[1:]))
    (folder / "notes.txt").write_text("not a photograph")
    return folder


def silent(_: Progress) -> None:
    """A report to nobody."""


def built(photos: Path, store: Path, cluster: str, *, chunk_size: int = 5, **settings: Any) -> Built:
    """A build of the folder at 64 px."""
    settings["curate"] = COPIES | settings.get("curate", {})
    common = {"source": f"folder:{photos}", "resolution": 64, "detect": LARGE}
    config = BuildConfig.model_validate({**common, **settings})
    return build(
        config, BuildOptions(store=store, scheduler=cluster, chunk_size=chunk_size), run_with(silent)
    )


@pytest.fixture(scope="module")
def first(photos: Path, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The build that the others are compared with."""
    store = tmp_path_factory.mktemp("first") / "store"
    done = built(photos, store, cluster)
    shutil.copytree(store / "chunks" / "align", store.with_name("aligned"))
    return done


def test_the_driver_loads_little(photos: Path, first: Built, tmp_path: Path) -> None:
    """A build where nothing changed is driven without the libraries that align, learn, or that others ask for."""
    store = tmp_path / "store"
    shutil.copytree(first.dataset.store.root, store)
    heavy = {"onnxruntime", "pandas", "prefect", "scipy", "torch"}
    code = (
        "import sys; from flows.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        f"print('loaded', *sorted({{name.partition('.')[0] for name in sys.modules}} & {heavy}))"
    )
    command = [
        "build", "--source", f"folder:{photos}", "--name", first.dataset.name, "--resolution", "64", "--store", store,
        "--workers", "1", "--detect.min-quad-px", LARGE["min_quad_px"], "--curate.pdq-max-distance", "none",
        "--chunk-size", "5", "--json",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=True
    )
    built, _, loaded = done.stdout.rstrip("\n").rpartition("\n")
    assert json.loads(built)["unchanged"], done.stdout
    assert loaded == "loaded"


@pytest.fixture
def known(first: Built, tmp_path: Path) -> Path:
    """A store in which the photographs are aligned, and nothing else is done."""
    store = tmp_path / "known"
    shutil.copytree(first.dataset.store.root.with_name("aligned"), store / "chunks" / "align")
    return store


def test_every_photograph_is_accounted_for(first: Built, photos: Path) -> None:
    """Each file of the folder is an image's photograph or a rejection, and the text file is one by reason."""
    files = {path.name for path in photos.iterdir() if path.suffix != ".jsonl"}
    rejections = first.dataset.rejections()
    assert {row["ref"] for row in [*first.dataset.images(), *rejections]} == files
    assert [row["reason"] for row in rejections if row["ref"] == "notes.txt"] == ["not_an_image"]
    assert first.summary()["photos"] == PHOTOS + 1
    assert sum(first.summary()["rejected"].values()) == len(rejections)


def test_a_build_is_told_as_openlineage(first: Built, photos: Path) -> None:
    """START names the source, COMPLETE the version by its whole hash, and the record of the build."""
    lines = first.dataset.store.path(EVENTS).read_text().splitlines()
    start, complete = (json.loads(line) for line in lines[:2])
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert [read["name"] for read in start["inputs"]] == [f"source/folder:{photos}"]
    [made] = complete["outputs"]
    assert made["facets"]["version"]["datasetVersion"] == first.dataset.manifest_sha256
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == first.dataset.num_images
    assert complete["run"]["facets"]["likeness_build"]["buildId"] == first.record.build_id


def test_missing_facts_are_counted_not_invented(first: Built) -> None:
    """A photograph that the list does not mention has no licence, and is counted as such."""
    without = [row for row in first.dataset.images() if row["license"] is None]
    assert len(without) == first.dataset.manifest.counts.images_missing["license"] == 1


def test_stock_webdataset_reads_every_image(first: Built) -> None:
    """The webdataset package lists the images of the manifest, with their bytes and their facts."""
    rows = {row["key"]: row for row in first.dataset.images()}
    urls = [str(path) for path in first.dataset.shard_paths]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == sorted(rows)
    for sample in samples:
        row = rows[sample["__key__"]]
        assert bytes_digest(sample["webp"]) == row["image_sha256"]
        facts = json.loads(sample["json"])
        assert facts.items() <= row.items()
        assert not facts.keys() & set(SOURCE_COLUMNS), "what may be corrected stands in the table alone"


def test_the_list_of_shards_is_what_webdataset_is_given(
    first: Built, photos: Path, known: Path, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lines are the one argument, from the version's folder; a cache never mixes versions."""
    fewer = built(photos, known, cluster, limit=PHOTOS - 3)
    for dataset in (first.dataset, fewer.dataset):
        monkeypatch.chdir(dataset.folder)
        for cache in (None, tmp_path / "cache"):
            if cache is not None:
                cache.mkdir(exist_ok=True)
            urls = Path("shards.txt").read_text().split()
            samples = webdataset.WebDataset(urls, shardshuffle=False, cache_dir=cache and str(cache))
            assert [sample["__key__"] for sample in samples] == [row["key"] for row in dataset.images()]


def test_a_corrected_author_rewrites_no_shard(
    first: Built, photos: Path, cluster: str, tmp_path: Path
) -> None:
    """Another author of a photograph gives another version, of the same tars and of the same rejections."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    facts = [json.loads(line) for line in (folder / "photos.jsonl").read_text().splitlines()]
    kept = {row["ref"] for row in first.dataset.images()}
    [fact, *_] = [fact for fact in facts if fact["file"] in kept]
    fact["author"] = "Somebody Else"
    (folder / "photos.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in facts))
    corrected = built(folder, first.dataset.store.root, cluster, name="corrected")
    assert corrected.dataset.version != first.dataset.version
    assert corrected.dataset.manifest.shards == first.dataset.manifest.shards
    assert corrected.dataset.manifest.rejections == first.dataset.manifest.rejections
    assert corrected.record.stages["shard"]["reused"] == corrected.record.stages["shard"]["shards"]
    authors = {row["author"] for row in corrected.dataset.images() if row["ref"] == fact["file"]}
    assert authors == {"Somebody Else"}


def test_newcomers_rewrite_the_shards_that_they_fall_into(photos: Path, cluster: str, tmp_path: Path) -> None:
    """With two more photographs all else is found, and the version is that of a build from nothing."""
    few: dict[str, Any] = {"shard": {"images_per_shard": 2}}
    before = built(photos, tmp_path / "a", cluster, limit=PHOTOS - 2, **few)
    after = built(photos, tmp_path / "a", cluster, **few)
    again = built(photos, tmp_path / "a", cluster, limit=PHOTOS - 2, **few)
    anew = built(photos, tmp_path / "b", cluster, **few)
    assert after.dataset.version == anew.dataset.version != before.dataset.version == again.dataset.version
    assert after.dataset.manifest == anew.dataset.manifest
    names = {
        name: {shard.file for shard in each.dataset.manifest.shards}
        for name, each in (("before", before), ("after", after))
    }
    newcomers = {row["key"] for row in after.dataset.images()} - {
        row["key"] for row in before.dataset.images()
    }
    written = {
        row["shard"] for row in after.dataset.images() if row["shard"] in names["after"] - names["before"]
    }
    assert 0 < len(newcomers) <= 2
    assert len(names["before"] - names["after"]) <= len(newcomers)
    assert after.record.stages["shard"]["reused"] == len(names["after"]) - len(written)
    assert after.record.stages["align"]["reused"] > 0


@pytest.mark.parametrize("chunk_size", [1, 100])
def test_chunks_do_not_change_the_version(
    first: Built, photos: Path, cluster: str, tmp_path: Path, chunk_size: int
) -> None:
    """One photograph a chunk or all in one: the same version, and the same bytes of every shard."""
    again = built(photos, tmp_path, cluster, chunk_size=chunk_size)
    assert again.dataset.manifest == first.dataset.manifest
    assert again.dataset.version == first.dataset.version


def test_splits_stay_as_a_set_grows(photos: Path, known: Path, cluster: str, tmp_path: Path) -> None:
    """Nothing crosses; more photographs move no image but in groups that they join; a re-curation splits likewise."""
    splits: dict[str, Any] = {"splits": "train=0.5,val=0.25,test=0.25"}
    fewer = built(photos, known, cluster, limit=PHOTOS - 4, **splits).dataset
    more = built(photos, known, cluster, **splits).dataset
    anew = built(photos, tmp_path / "b", cluster, **splits).dataset
    assert anew.version == more.version
    assert verify(more).problems == []
    before, after = ({row["key"]: row["split"] for row in dataset.images()} for dataset in (fewer, more))
    order = ["train", "val", "test"]
    assert all(order.index(after[key]) >= order.index(split) for key, split in before.items())
    assert more.manifest.counts.splits == dict(sorted(Counter(after.values()).items()))
    moved = [key for key, split in before.items() if after[key] != split]
    assert sum(diff(fewer, more).moved.values()) == len(moved)
    plain = built(photos, tmp_path / "b", cluster).dataset
    given = BuildConfig.model_validate({**splits, "curate": COPIES})
    options = BuildOptions(store=tmp_path / "b", scheduler=cluster)
    again = recurate(*recuration(plain.store, plain.reference, given), options, run_with(silent))
    assert again.dataset.version == anew.version
    assert again.dataset.manifest.shards == plain.manifest.shards, "a split is no fact of a tar"


def test_a_second_build_reuses_the_first(first: Built, photos: Path, cluster: str) -> None:
    """In the same store nothing is aligned or packed again, and the record says that nothing changed."""
    again = built(photos, first.dataset.store.root, cluster)
    assert again.record.unchanged is True
    assert (first.record.was_known, again.record.was_known) == (False, True)
    stages = again.record.stages
    assert stages["align"]["reused"] == len({row["sha256"] for row in _photographs(photos)})
    assert stages["shard"]["reused"] == stages["shard"]["shards"]


def test_a_changed_file_is_never_served_from_before(
    photos: Path, known: Path, cluster: str, tmp_path: Path
) -> None:
    """A file whose size and time stay while its bytes change gives another version."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    before = built(folder, known, cluster)
    victim = folder / before.dataset.images()[0]["ref"]
    stat, data = victim.stat(), bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = built(folder, known, cluster)
    assert after.dataset.version != before.dataset.version


def test_another_setting_never_meets_old_chunks(first: Built, photos: Path, cluster: str) -> None:
    """Another encoding in the same store aligns every photograph again and gives another version."""
    other = built(photos, first.dataset.store.root, cluster, encode={"format": "png"})
    assert other.record.stages["align"]["reused"] == 0
    assert other.dataset.version != first.dataset.version
    assert verify(other.dataset).problems == []


def test_a_build_says_how_fast_it_was(first: Built, photos: Path) -> None:
    """The record has each stage's seconds and what it worked on, and there is a report."""
    timings = first.record.timings
    assert list(timings) == ["crawl", "align", "curate", "shard", "publish"]
    assert timings["crawl"]["done"] == PHOTOS + 1
    assert timings["align"]["done"] == len({row["sha256"] for row in _photographs(photos)})
    for timing in timings.values():
        assert timing["per_second"] > 0
    assert sum(timing["seconds"] for timing in timings.values()) < first.record.seconds
    assert first.dataset.reference in first.report.read_text()


def test_thresholds_apply_without_aligning_again(first: Built, photos: Path, cluster: str) -> None:
    """A curation setting reuses every crop, and each face it drops is a rejection."""
    sides = sorted(row["quad_side_px"] for row in first.dataset.images())
    limit = int(sides[len(sides) // 2])
    fewer = built(photos, first.dataset.store.root, cluster, curate={"min_quad_px": limit})
    assert fewer.record.stages["align"]["reused"] > 0
    kept = fewer.summary()["images"]
    assert kept == sum(side >= limit for side in sides)
    assert fewer.summary()["rejected"]["quad_too_small"] == len(sides) - kept


def test_an_empty_dataset_says_why(photos: Path, known: Path, cluster: str) -> None:
    """A threshold nothing passes names itself and the sizes seen."""
    with pytest.raises(EmptyDatasetError, match="5000"):
        built(photos, known, cluster, curate={"min_quad_px": 5000})


def test_a_list_of_which_nothing_may_be_had_says_why(cluster: str, tmp_path: Path) -> None:
    """A list without licences ends a build with the reason and the option that declares one, and nobody is asked."""
    (tmp_path / "list.txt").write_text("https://example.org/a.jpg\nhttps://example.org/b.jpg\n")
    config = BuildConfig(source=f"urls:{tmp_path / 'list.txt'}")
    with pytest.raises(
        EmptyDatasetError, match=r"none of 2 photographs .* 2 no_license .*--licenses\.assume"
    ):
        build(config, BuildOptions(store=tmp_path / "store", scheduler=cluster), run_with(silent))


def test_a_source_without_photographs_is_an_error(cluster: str, tmp_path: Path) -> None:
    """An empty folder is named."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty"):
        built(tmp_path / "empty", tmp_path / "store", cluster)


def test_a_store_inside_the_source_is_refused(photos: Path, cluster: str, tmp_path: Path) -> None:
    """A build never takes its own results for photographs."""
    with pytest.raises(ConfigError, match="choose a --store elsewhere"):
        built(photos, photos / "store", cluster)


def test_unreadable_chunks_are_made_again(photos: Path, known: Path, cluster: str) -> None:
    """A damaged table of crops costs only its photographs' alignment."""
    before = built(photos, known, cluster)
    victim = sorted(known.glob("chunks/align/*/*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:100])
    after = built(photos, known, cluster)
    assert after.dataset.version == before.dataset.version
    assert after.record.stages["align"]["reused"] < len(_photographs(photos))


def test_damaged_shards_are_packed_again(photos: Path, known: Path, cluster: str) -> None:
    """A build heals a shard whose bytes have changed on disk, or the rows beside it, and gives the version it had."""
    before = built(photos, known, cluster)
    shard = before.dataset.shard_paths[0]
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    assert verify(before.dataset).problems
    for _ in range(2):
        after = built(photos, known, cluster)
        assert after.dataset.version == before.dataset.version
        assert verify(after.dataset).problems == []
        rows = sorted(known.glob("chunks/shard/*.parquet"))[0]
        damaged = bytearray(rows.read_bytes())
        damaged[len(damaged) // 3] ^= 1
        rows.write_bytes(damaged)


def test_trace_from_a_photograph(first: Built, photos: Path) -> None:
    """A photograph's file leads to its images and their version; a rejected one to its reason."""
    store = first.dataset.store
    row = first.dataset.images()[0]
    chain = trace(store, str(photos / row["ref"]))
    assert row["key"] in {image["key"] for image in chain.images}
    assert trace(store, row["key"]).images[0]["ref"] == row["ref"]
    assert trace(store, "notes.txt").rejections[0]["reason"] == "not_an_image"


def test_killed_builds_go_on(photos: Path, tmp_path: Path, first: Built, cluster: str) -> None:
    """SIGKILL in the middle of alignment, then the same build: finished photographs are not aligned again."""
    arguments = ["--source", f"folder:{photos}", "--resolution", "64", "--curate.pdq-max-distance", "none"]
    arguments += ["--detect.min-quad-px", str(LARGE["min_quad_px"]), "--workers", "1", "--chunk-size", "1"]
    for store in (tmp_path / str(attempt) for attempt in range(9)):
        command = [sys.executable, "-m", "flows.cli", "build", *arguments, "--store", str(store), "--json"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(list(store.glob("chunks/align/*/*.parquet"))) < 3 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not list(store.glob("datasets/*/*/manifest.json")):
            break  # it had not finished: on a busy machine the kill may come late
    done = built(photos, store, cluster, chunk_size=1)
    assert done.dataset.version == first.dataset.version
    assert done.record.stages["align"]["reused"] >= 3


def _photographs(folder: Path) -> list[dict[str, str]]:
    files = [path for path in folder.iterdir() if path.suffix != ".jsonl"]
    return [{"ref": path.name, "sha256": bytes_digest(path.read_bytes())} for path in files]


class Photographs(ThreadingHTTPServer):
    """A folder over HTTP that remembers what was asked for, and fails for one file until told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        self.failing = ""
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments, directory=str(folder))

            def do_GET(self) -> None:
                outer.requests.append(self.path)
                if self.path == outer.failing:
                    self.send_error(503)
                else:
                    super().do_GET()

            def log_message(self, *arguments: Any) -> None:
                """Keep quiet."""

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def web(photos: Path) -> Iterator[Photographs]:
    """The photographs on a local web server."""
    with Photographs(photos) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_urls_are_fetched_once_and_failures_again(
    first: Built, photos: Path, web: Photographs, cluster: str, tmp_path: Path
) -> None:
    """What was fetched is kept, what failed for a passing reason is asked for again, and the crops are a folder's."""
    names = sorted(path.name for path in photos.iterdir() if path.suffix != ".jsonl")
    base = f"http://127.0.0.1:{web.server_address[1]}"
    listed = tmp_path / "list.csv"
    listed.write_text("url,license\n" + "".join(f"{base}/{name},CC0-1.0\n" for name in names))
    web.failing = f"/{first.dataset.images()[0]['ref']}"
    quick = {"retries": 0, "backoff_s": 0.0, "allow_networks": ["127.0.0.0/8"]}

    def crawl(**fetch: Any) -> Built:
        config: dict[str, Any] = {
            "source": f"urls:{listed}",
            "resolution": 64,
            "curate": COPIES,
            "detect": LARGE,
        }
        config["fetch"] = quick | fetch
        options = BuildOptions(store=tmp_path / "store", scheduler=cluster, chunk_size=5)
        return build(BuildConfig.model_validate(config), options, run_with(silent))

    partly = crawl()
    assert partly.summary()["rejected"]["server_error"] == 1
    rules = ["/robots.txt", "/.well-known/tdmrep.json"]
    assert web.requests[:2] == rules
    assert sorted(web.requests[2:]) == sorted(f"/{name}" for name in names)

    failed, web.failing = web.failing, ""
    web.requests.clear()
    whole = crawl(max_concurrency=3)  # a setting that changes no byte
    assert web.requests == [failed]  # the rules hold for a day
    assert {row["image_sha256"] for row in whole.dataset.images()} == {
        row["image_sha256"] for row in first.dataset.images()
    }
    assert {row["license"] for row in whole.dataset.images()} == {"CC0-1.0"}

    web.requests.clear()
    assert crawl().record.unchanged is True
    assert web.requests == []
