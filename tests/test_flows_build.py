"""flows.build: one version from the same photographs, whatever the machine did meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import webdataset
from distributed import LocalCluster

from flows.build import Built, build, run_with
from flows.options import BuildOptions
from flows.stages.work import Progress
from preprocessing.config import BuildConfig
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.sources import open_source
from storage.datasets.verify import verify
from storage.digest import bytes_digest
from storage.errors import ConfigError, EmptyDatasetError, SourceError
from storage.lineage.trace import trace
from storage.store import Store

PHOTOS = 12
COPIES = {"pdq_max_distance": None}
"""Curation that keeps near-duplicates, of which the sample's scenes of two people consist."""


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


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One Dask cluster for all builds of this file."""
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def silent(_: Progress) -> None:
    """A report to nobody."""


def built(photos: Path, store: Path, cluster: str, *, chunk_size: int = 5, **settings: Any) -> Built:
    """A build of the folder at 64 px."""
    settings["curate"] = COPIES | settings.get("curate", {})
    config = BuildConfig.model_validate({"source": f"folder:{photos}", "resolution": 64, **settings})
    return build(
        config, BuildOptions(store=store, scheduler=cluster, chunk_size=chunk_size), run_with(silent)
    )


@pytest.fixture(scope="module")
def first(photos: Path, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The build that the others are compared with."""
    return built(photos, tmp_path_factory.mktemp("first"), cluster)


def test_every_photograph_is_accounted_for(first: Built, photos: Path) -> None:
    """Each file of the folder is an image's photograph or a rejection, and the text file is one by reason."""
    files = {path.name for path in photos.iterdir() if path.suffix != ".jsonl"}
    rejections = first.dataset.rejections()
    assert {row["ref"] for row in [*first.dataset.images(), *rejections]} == files
    assert [row["reason"] for row in rejections if row["ref"] == "notes.txt"] == ["not_an_image"]
    assert first.summary()["photos"] == PHOTOS + 1
    assert sum(first.summary()["rejected"].values()) == len(rejections)


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
        assert json.loads(sample["json"])["photo_sha256"] == row["photo_sha256"]


@pytest.mark.parametrize("chunk_size", [1, 100])
def test_chunks_do_not_change_the_version(
    first: Built, photos: Path, cluster: str, tmp_path: Path, chunk_size: int
) -> None:
    """One photograph a chunk or all in one: the same version, and the same bytes of every shard."""
    again = built(photos, tmp_path, cluster, chunk_size=chunk_size)
    assert again.dataset.manifest == first.dataset.manifest
    assert again.dataset.version == first.dataset.version


def test_a_second_build_reuses_the_first(first: Built, photos: Path, cluster: str) -> None:
    """In the same store nothing is aligned or packed again, and the record says that nothing changed."""
    again = built(photos, first.dataset.store.root, cluster)
    assert again.record.unchanged is True
    assert (first.record.was_known, again.record.was_known) == (False, True)
    stages = again.record.stages
    assert stages["align"]["reused"] == len({row["sha256"] for row in _photographs(photos)})
    assert stages["shard"]["reused"] == stages["shard"]["shards"]


def test_a_changed_file_is_never_served_from_before(photos: Path, cluster: str, tmp_path: Path) -> None:
    """A file whose size and time stay while its bytes change gives another version."""
    import shutil

    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    before = built(folder, tmp_path / "store", cluster)
    victim = folder / before.dataset.images()[0]["ref"]
    stat, data = victim.stat(), bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = built(folder, tmp_path / "store", cluster)
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


def test_an_empty_dataset_says_why(photos: Path, cluster: str, tmp_path: Path) -> None:
    """A threshold nothing passes names itself and the sizes seen."""
    with pytest.raises(EmptyDatasetError, match="5000"):
        built(photos, tmp_path, cluster, curate={"min_quad_px": 5000})


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


def test_unreadable_chunks_are_made_again(photos: Path, cluster: str, tmp_path: Path) -> None:
    """A damaged table of crops costs only its photographs' alignment."""
    before = built(photos, tmp_path, cluster)
    victim = sorted(tmp_path.glob("chunks/align/*/*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:100])
    after = built(photos, tmp_path, cluster)
    assert after.dataset.version == before.dataset.version
    assert after.record.stages["align"]["reused"] < len(_photographs(photos))


def test_damaged_shards_are_packed_again(photos: Path, cluster: str, tmp_path: Path) -> None:
    """A build heals a shard whose bytes have changed on disk, or the rows beside it, and gives the version it had."""
    before = built(photos, tmp_path, cluster)
    shard = before.dataset.shard_paths[0]
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    assert verify(before.dataset).problems
    for _ in range(2):
        after = built(photos, tmp_path, cluster)
        assert after.dataset.version == before.dataset.version
        assert verify(after.dataset).problems == []
        rows = sorted(tmp_path.glob("chunks/shard/*.parquet"))[0]
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


def test_killed_builds_go_on(photos: Path, tmp_path: Path, first: Built) -> None:
    """SIGKILL in the middle of alignment, then the same command: finished photographs are not aligned again."""
    arguments = ["build", "--source", f"folder:{photos}", "--resolution", "64", "--store", str(tmp_path)]
    arguments += ["--curate.pdq-max-distance", "none"]
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        *arguments,
        "--workers",
        "1",
        "--chunk-size",
        "1",
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("chunks/align/*/*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("datasets/*/*/manifest.json")), "it had finished: nothing was interrupted"
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    assert summary["version"] == first.dataset.version
    [record] = Store(tmp_path).path("datasets/faces/builds").glob("*.json")
    assert json.loads(record.read_text())["stages"]["align"]["reused"] >= 3


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
        config: dict[str, Any] = {"source": f"urls:{listed}", "resolution": 64, "curate": COPIES}
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
