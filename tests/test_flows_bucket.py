"""A store in a bucket: what is built, trained, curated, forgotten and collected there is what a folder would hold."""

from __future__ import annotations

import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster
from PIL import Image
from prefect.settings import PREFECT_API_URL, temporary_settings

import storage.store
import tiny_run
from commands import likeness
from flows.build import Built, build, run_with
from flows.forget import forget
from flows.options import BuildOptions
from flows.recurate import recurate, recuration
from flows.repair import repaired
from flows.stages.work import Progress
from preprocessing.asked import Asked
from preprocessing.config import BuildConfig
from preprocessing.forgetting import find
from s3_server import new_bucket
from storage.bucket import Bucket
from storage.datasets.collect import alone, delete, find_garbage
from storage.datasets.dataset import all_versions, dataset_names, latest, open_dataset
from storage.datasets.pull import pull
from storage.lineage.trace import trace
from storage.local import delete as delete_path
from storage.local import delete_files
from storage.remote import Remote
from storage.runs import find_run, list_runs
from storage.store import Store
from storage.verify import verify
from training.process import train_folder

pytestmark = pytest.mark.s3
DATA = Path(__file__).with_name("data")
FOLDER: dict[str, Any] = {"resolution": 32, "name": "golden", "shard": {"images_per_shard": 2}}
Machine = Callable[[str], Store]


@pytest.fixture(scope="module")
def environment(s3: str) -> Iterator[pytest.MonkeyPatch]:
    """Where the server is, for this process and those that it starts; no Prefect server is configured."""
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: None}):
        patch.setenv("AWS_ENDPOINT_URL", s3)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield patch


@pytest.fixture(scope="module")
def cluster(environment: pytest.MonkeyPatch) -> Iterator[str]:
    """One Dask worker for all builds of this file."""
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of the golden store, drawn again."""
    folder = tmp_path_factory.mktemp("pictures")
    runpy.run_path(str(DATA / "golden_pictures.py"))["main"](folder)
    return folder / "photos"


@pytest.fixture
def machine(
    s3: str, environment: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Machine:
    """Gives an empty store in a bucket as the machine of a name sees it."""
    url = f"s3://{new_bucket(s3)}/store"

    def at(name: str) -> Store:
        monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path / name))
        monkeypatch.setattr(storage.store, "_seen", set())
        return Store(url)

    return at


def silent(_: Progress) -> None:
    """A report to nobody."""


def built(store: Store, photos: Path, cluster: str, **settings: Any) -> Built:
    """A build of a folder."""
    config = BuildConfig.model_validate({**FOLDER, "source": f"folder:{photos}", **settings})
    options = BuildOptions(store=store.place, scheduler=cluster, chunk_size=4)
    return build(config, options, run_with(silent))


def problems(store: Store) -> list[str]:
    """Whatever is not as it should be."""
    return verify(store, None)[1].problems


def test_a_bucket_holds_what_a_folder_would(
    machine: Machine, photos: Path, cluster: str, tmp_path: Path
) -> None:
    """Versions, traces, curations, exports and copies are those of a folder, from any machine, and are built once."""
    here = Store(tmp_path / "here")
    wanted = [
        built(here, photos, cluster, **{"curate": {"faces": faces}}).dataset for faces in ("single", "all")
    ]
    one = machine("one")
    for version, faces in zip(wanted, ("single", "all"), strict=True):
        found = built(one, photos, cluster, curate={"faces": faces})
        assert (found.dataset.version, found.record.unchanged) == (version.version, False)
    other = machine("other")
    assert problems(other) == []
    assert [version.reference for version in all_versions(other)] == [
        version.reference for version in all_versions(here)
    ]
    again = built(other, photos, cluster)
    assert again.record.unchanged
    assert again.record.stages["shard"]["reused"] == len(again.dataset.manifest.shards)
    traces = [trace(store, "anna.jpg").as_json() for store in (here, other)]
    images = [[{**row, "shard": "", "original": ""} for row in traced["images"]] for traced in traces]
    assert images[0] == images[1] != []
    asked = recuration(other, "golden", BuildConfig.model_validate({"curate": {"faces": "single"}}))
    curated = recurate(*asked, BuildOptions(store=other.place, scheduler=cluster), run_with(silent))
    assert curated.dataset.version == wanted[0].version
    there = Store(tmp_path / "there")
    assert pull(there, Remote(str(other)), "golden").dataset.version == wanted[0].version
    assert problems(there) == []


def test_what_is_forgotten_in_a_bucket(machine: Machine, photos: Path, cluster: str, tmp_path: Path) -> None:
    """The version that is left is that of a build without; nothing of it is in the bucket, and no build brings it."""
    one = machine("one")
    built(one, photos, cluster)
    other = machine("other")
    found = find(other, Asked(url=("clara.jpg",)))
    forget(other, found, BuildOptions(store=other.place, scheduler=cluster), run_with(silent))
    left = shutil.copytree(photos, tmp_path / "left")
    (left / "clara.jpg").unlink()
    wanted = built(Store(tmp_path / "here"), left, cluster).dataset
    assert open_dataset(other, "golden").manifest.counts == wanted.manifest.counts
    needle = (photos / "clara.jpg").read_bytes()
    needle = needle[len(needle) // 2 :][:64]
    objects = Bucket(str(other))
    assert [e.key for e in objects.entries("") if needle in objects.read(e.key, 1 << 30)] == []
    assert problems(other) == []
    one = machine("one")
    assert [path for path in one.root.rglob("*") if path.is_file() and needle in path.read_bytes()] == []
    again = built(one, photos, cluster)
    assert again.record.unchanged
    assert problems(machine("third")) == []


def test_garbage_of_a_bucket(machine: Machine, photos: Path, cluster: str) -> None:
    """What no kept version needs goes from the bucket, while nobody works there, and what is kept is intact."""
    one = machine("one")
    for faces in ("single", "all"):
        last = built(one, photos, cluster, curate={"faces": faces})
    other = machine("other")
    with other.in_use(), pytest.raises(Exception, match="a build works"), alone(one):
        pass
    assert find_garbage(other, keep=1, grace_s=3600).num_bytes == 0
    before = len(list(Bucket(str(other)).entries("")))
    with alone(other):
        garbage = find_garbage(other, keep=1, grace_s=-3600)
        assert [version.version for version in garbage.versions] != []
        assert garbage.num_bytes > 0
        delete(garbage)
    assert len(list(Bucket(str(other)).entries(""))) < before
    assert [version.version for version in all_versions(machine("third"))] == [last.dataset.version]
    assert problems(machine("third")) == []
    assert built(machine("one"), photos, cluster).record.unchanged
    assert problems(machine("fourth")) == []


def objects(store: Store) -> dict[str, bytes]:
    """What a bucket holds, but for what is made anew wherever it is not."""
    bucket, passing = Bucket(str(store)), ("leases/", "conditions")
    return {e.key: bucket.read(e.key, 1 << 30) for e in bucket.entries("") if not e.key.startswith(passing)}


def test_damage_in_a_bucket_is_mended(machine: Machine, photos: Path, cluster: str) -> None:
    """What is altered, cut or gone in a bucket is told by a dry run, and mended to the byte, whoever has it cached."""
    one = machine("one")
    version = built(one, photos, cluster).dataset
    whole, bucket = objects(one), Bucket(str(one))
    options = BuildOptions(store=one.place, scheduler=cluster)
    [tar, *_] = (key for key in whole if key.startswith("chunks/shard/") and key.endswith(".tar"))
    [images, *_] = (key for key in whole if key.startswith("chunks/align/") and key.endswith(".images"))
    harmed = {
        tar: whole[tar][:-1] + b"!",
        images: whole[images][: len(whole[images]) // 2],
        f"{version.key}/manifest.json": whole[f"{version.key}/manifest.json"].replace(b"32", b"33", 1),
        "datasets/golden/latest.json": b"",
    }
    for key, data in harmed.items():
        bucket.put(key, data)
    [original, *_] = (key for key in whole if key.startswith("originals/"))
    bucket.delete([original])
    other = machine("other")
    dry = repaired(other, None, options, dry=True)
    assert f"{other}/{images}" in dry.mended or dry.left
    assert {key: data for key, data in objects(one).items() if key in harmed} == harmed
    done = repaired(machine("third"), None, options, dry=False)
    assert done.left == []
    assert {f"{one}/{key}" for key in (tar, images, original)} <= done.mended.keys()
    assert not [path for path in done.mended if str(one) not in path]
    now = objects(one)
    assert {key for key in whole if now.get(key) != whole[key]} <= {"datasets/golden/latest.json"}
    assert now.keys() == whole.keys()
    for name in ("one", "fourth"):
        assert problems(machine(name)) == []
    assert built(machine("one"), photos, cluster).record.unchanged


def test_a_bucket_builds_a_version_again(
    machine: Machine, photos: Path, cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A version whose tables are gone is built again by its record, which adds no record; another result is said."""
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    one = machine("one")
    version = built(one, folder, cluster).dataset
    whole, bucket = objects(one), Bucket(str(one))
    bucket.delete([key for key in whole if key.startswith("chunks/table/")])
    words = (version.reference, "--store", one.place, "--scheduler", cluster)
    status, out, err = likeness(capsys, "repair", *words)
    assert (status, "built again, the same to the byte" in out) == (0, True), err
    assert objects(one).keys() == whole.keys()
    assert problems(machine("other")) == []
    status, out, err = likeness(capsys, "rebuild", *words)
    assert (status, "the same to the byte" in out) == (0, True), err
    assert objects(one).keys() == whole.keys()
    (folder / "clara.jpg").unlink()
    bucket.delete([key for key in whole if key.startswith(("chunks/table/", "originals/"))])
    status, _, err = likeness(capsys, "rebuild", *words)
    assert (status, "is not what its build gives now" in err) == (1, True), err
    status, out, err = likeness(capsys, "repair", *words)
    assert status == 1, out
    assert "/copy-" not in out + err, "it names what is nowhere"
    assert [line for line in out.splitlines() if str(one) not in line] == []


def test_a_run_goes_on_on_another_machine(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was begun on one machine goes on on another, and a third draws from it what one alone would draw."""
    pictures = tiny_run.noise_images(12)
    here, one = Store(tmp_path / "here"), machine("one")
    tiny_run.trained(here, tiny_run.tiny_dataset(here, pictures))
    begun = tiny_run.trained(one, tiny_run.tiny_dataset(one, pictures), total_kimg=0.016)
    other = machine("other")
    train_folder(find_run(other, begun.id).changed({"total_kimg": 0.032}, 1).folder, "none")
    third = machine("third")
    [run] = list_runs(here)
    drawn = []
    for store, of in ((here, run.id), (third, begun.id)):
        out = tmp_path / f"{of}.png"
        asked = ("generate", of, "--out", out, "--store", store.place, "--device", "cpu", "--seeds", "0-3")
        status, _, err = likeness(capsys, *asked)
        assert status == 0, err
        with Image.open(out) as image:
            drawn.append(np.asarray(image))
    assert np.array_equal(drawn[0], drawn[1])
    assert verify(third, begun.id)[1].problems == []


KILLED = """
import os, signal, sys
from pathlib import Path
from flows.build import build, run_with
from flows.options import BuildOptions
from preprocessing.config import BuildConfig
from storage.bucket import Bucket
import distributed, flows.operations.cluster
url, scheduler, photos = sys.argv[1:]
given = {"resolution": 32, "name": "golden", "shard": {"images_per_shard": 2}, "source": f"folder:{photos}"}
num = 0
def counted(call, after):
    def counting(*args, **kwargs):
        global num
        num += 1
        if num == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counting
for line in sys.stdin:
    if (child := os.fork()) == 0:
        cache, after = line.split()
        os.environ["LIKENESS_CACHE"] = cache
        for name in ("put", "replace", "delete", "read", "fetch", "entries"):
            setattr(Bucket, name, counted(getattr(Bucket, name), int(after)))
        options = BuildOptions(store=Path(url), scheduler=scheduler, chunk_size=4)
        build(BuildConfig.model_validate(given), options, run_with(lambda _: None))
        print(num, flush=True)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        print(status, flush=True)
"""
"""Builds once for each line, in a process of its own, which kills itself at the request of a number; prints how many
requests it made, or what ended it.
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_leave_nothing_half_visible(
    machine: Machine, photos: Path, cluster: str, tmp_path: Path
) -> None:
    """A build that is killed 25 times, at requests from the first to the last, leaves what another machine opens and
    finds intact; then it ends as one that was left alone, with no object more.
    """

    def objects(store: Store) -> set[str]:
        listed = (entry.key for entry in Bucket(str(store)).entries(""))
        others = ("leases/", "chunks/align/")  # how photographs lie in chunks depends on which were left
        return {key for key in listed if not key.startswith(others) and "/builds/" not in key}

    alone = machine("alone")
    wanted = built(alone, photos, cluster).dataset.version
    whole = objects(alone)
    delete_path(alone.path("datasets"))
    for folder in ("chunks", "originals"):
        delete_files(list(map(alone.path, list(alone.keys(folder)))))
    command = [sys.executable, "-c", KILLED, str(alone), cluster, str(photos)]
    ends: list[int] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        kills, after, step = 0, 1, 7
        while kills < 25:
            process.stdin.write(f"{tmp_path / 'killed'} {after}\n")
            process.stdin.flush()
            end = int(process.stdout.readline())
            ends.append(end)
            assert end == -signal.SIGKILL or end > 0, ends
            kills += end == -signal.SIGKILL
            after = (
                after + step if end < 0 else 1 + kills % step
            )  # it was done: from the beginning, at others
            fresh = machine(f"fresh{len(ends)}")
            for name in dataset_names(fresh):
                latest(fresh, name)  # which is written, where that is what was left to do
            assert problems(fresh) == [], ends
            assert all(version.version == wanted for version in all_versions(fresh))
        process.stdin.close()
    last = machine("last")
    assert built(last, photos, cluster).dataset.version == wanted
    assert problems(last) == []
    assert objects(last) - whole == set()


def test_builds_at_once(machine: Machine, photos: Path, cluster: str) -> None:
    """Of two builds of one name that run at once on two machines, the one that was asked for last has the name, and
    both versions are intact.
    """
    stores = [machine(name) for name in ("one", "other")]
    with ThreadPoolExecutor(2) as pool:
        given = [{"curate": {"faces": faces}} for faces in ("single", "all")]
        done = list(pool.map(lambda store, more: built(store, photos, cluster, **more), stores, given))
    last = max(done, key=lambda one: one.record.started_at)
    third = machine("third")
    assert {version.version for version in all_versions(third)} == {one.dataset.version for one in done}
    assert open_dataset(third, "golden").version == last.dataset.version
    assert problems(third) == []
