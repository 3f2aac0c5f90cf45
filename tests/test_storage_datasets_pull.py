"""storage.datasets.pull: a version comes from another store whole and checked, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from raw_web import Answer, Request, reply, serving

import storage.bucket
from commands import likeness
from preprocessing.columns import IMAGE_SCHEMA, REJECTION_SCHEMA
from storage.datasets.dataset import Dataset, all_versions, latest_version, open_dataset
from storage.datasets.manifest import publish, record_build
from storage.datasets.pull import look, pull, references_in
from storage.datasets.records import Latest, Manifest
from storage.digest import bytes_digest, json_digest
from storage.errors import (
    ConfigError,
    IntegrityError,
    NotFoundError,
    PipelineError,
    ServiceError,
    WithdrawnError,
)
from storage.lineage.trace import trace
from storage.remote import Remote
from storage.shards import Sample, index_json, index_name, write_shard
from storage.store import Store, original_key
from storage.tables import table_of
from storage.tombstones import Tombstones
from storage.verify import verify
from storage.withdrawals import FILE, Withdrawal

DATA = Path(__file__).with_name("data")
FIRST, SECOND, WEB = "golden@71485f1fada17d95", "golden@74bfd02313603afd", "golden-web@b440bae92356680e"
OLD = [FIRST, SECOND, WEB, "golden2@07831156ef904dac"]


def made(store: Store, images: range, name: str = "faces") -> Dataset:
    """A version of today's format of images that are numbers, in a shard for each first digit of their sha256."""
    crops = {bytes_digest(b"crop %d" % number): number for number in images}
    rows, shards = [], []
    for digit, keys in groupby(sorted(crops), lambda sha256: sha256[0]):
        its = list(keys)
        samples = [Sample(sha256[:16], "png", b"crop %d" % crops[sha256], b"{}") for sha256 in its]
        path = store.path("packed.tar")
        path.parent.mkdir(exist_ok=True)
        index = write_shard(path, samples)
        key = f"chunks/shard/{index.sha256}.tar"
        store.put(key, path)
        store.put(index_name(key), index_json(index))
        file = f"shards/{digit}-{index.sha256[:16]}.tar"
        for sha256, entry in zip(its, index.entries[::2], strict=True):
            photo = store.put_original(b"photograph %d" % crops[sha256])
            rows.append(
                dict.fromkeys(IMAGE_SCHEMA.names)
                | {"key": sha256[:16], "image_sha256": sha256, "photo_sha256": photo, "face_index": 0, "shard": file}
                | {"ref": f"https://a.example/{crops[sha256]}.jpg", "author": f"author {crops[sha256]}"}
                | {"offset": entry.offset, "size": entry.size}
            )  # fmt: skip
        shards.append(
            {"file": file, "object": key, "sha256": index.sha256, "size": path.stat().st_size}
            | {"images": len(its), "index_sha256": bytes_digest(index_json(index))}
        )  # fmt: skip
    dataset = publish(
        store,
        name,
        settings={"resolution": 64},
        images=[table_of(rows, IMAGE_SCHEMA)],
        image_schema=IMAGE_SCHEMA,
        rejections=[],
        rejection_schema=REJECTION_SCHEMA,
        shards=shards,
        num_photos=len(rows),
    )
    record_build(
        dataset, {"config": {"name": name}, "config_sha256": json_digest({"name": name})}, datetime.now(UTC)
    )
    return dataset


@pytest.fixture
def source(tmp_path: Path) -> Store:
    """A store with three versions of two older formats, and two of today's, which have most in common."""
    store = Store(shutil.copytree(DATA / "golden" / "store", tmp_path / "source"))
    shutil.copytree(DATA / "golden2" / "store", store.root, dirs_exist_ok=True)
    made(store, range(24))
    made(store, range(25))
    return store


@pytest.fixture
def here(tmp_path: Path) -> Store:
    """A store that is not there yet."""
    return Store(tmp_path / "here")


def remote_of(store: Store) -> Remote:
    """That store, as another."""
    return Remote(str(store.root))


def problems(store: Store) -> list[str]:
    """What is wrong with a store, by every hash."""
    return verify(store, None)[1].problems


def references(store: Store) -> list[str]:
    """The versions that are there."""
    return sorted(dataset.reference for dataset in all_versions(store))


def faces(store: Store) -> list[Dataset]:
    """The versions of today's format, the smaller one first."""
    found = (version for version in all_versions(store) if version.name == "faces")
    return sorted(found, key=lambda version: version.num_images)


def folder(root: Path) -> Answer:
    """What a plain web server answers that has a folder."""

    def answer(request: Request) -> bytes:
        path = root / request.target.lstrip("/")
        return reply(path.read_bytes()) if path.is_file() else reply(b"", 404)

    return answer


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that fails is given up sooner."""
    monkeypatch.setitem(storage.bucket.RETRY, "max_retries", 2)
    monkeypatch.setattr(storage.bucket, "PAUSE_S", 0.01)


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("reference", [*OLD, "golden", "faces"])
def test_what_is_pulled_is_what_was_there(source: Store, here: Store, reference: str, scheme: str) -> None:
    """Versions of all formats come to the byte, are intact, lead back to builds, and are what their name means."""
    there = open_dataset(source, reference)
    done = pull(here, Remote(f"{scheme}{source.root}"), reference)
    assert done.dataset.reference == there.reference
    assert latest_version(here, there.name) == there.version
    assert problems(here) == []
    assert open_dataset(here, reference).images() == there.images()
    for shard in there.manifest.shards:
        for name in (shard.file, index_name(shard.file)):
            assert (there.folder / name).read_bytes() == (done.dataset.folder / name).read_bytes()
    kinds = [build["kind"] for build in trace(here, done.dataset.reference).steps[-1].facts["builds"]]
    assert sorted(kinds) == [*("build" for _ in there.builds()), "pull"]
    assert done.absent
    assert not here.path("originals").exists()
    assert here.path(f"{done.dataset.key}/ATTRIBUTION.txt").is_file()


def test_photographs_come_where_they_are_asked_for(source: Store, here: Store) -> None:
    """Without them a version is intact and says how many are absent; with them each is there, and one that is lost
    later is a problem."""
    pull(here, remote_of(source), FIRST)
    assert verify(here, FIRST)[1].counts["absent original"] == 10
    done = pull(here, remote_of(source), FIRST, originals=True)
    assert (done.copied, done.absent) == (10, 0)
    assert verify(here, FIRST)[1].counts["original"] == 10
    lost = here.path(next(iter(here.keys("originals"))))
    lost.unlink()
    assert problems(here) == [f"{lost} is missing"]


def test_a_second_version_brings_what_is_new(source: Store, here: Store) -> None:
    """Of two versions the second is only as many files as differ, and what they share is one file on disk."""
    first, second = faces(source)
    pull(here, remote_of(source), first.reference)
    done = pull(here, remote_of(source), second.reference)
    ours = {shard.sha256 for shard in first.manifest.shards}
    new = [shard for shard in second.manifest.shards if shard.sha256 not in ours]
    assert len(new) == 1
    assert done.copied == 2  # the shard, and the part of the table
    for shard in second.manifest.shards:
        place = here.path(f"chunks/shard/{shard.sha256}.tar")
        assert done.dataset.shard_path(shard).samefile(place)
    assert problems(here) == []


def test_what_is_here_is_not_fetched_again(source: Store, here: Store) -> None:
    """The same pull again brings nothing, and leaves no record; what is damaged here is mended, and nothing else."""
    pull(here, remote_of(source), "faces")
    builds = list(here.keys("datasets/faces/builds"))
    assert pull(here, remote_of(source), "faces").copied == 0
    assert list(here.keys("datasets/faces/builds")) == builds
    dataset = open_dataset(here, "faces")
    shard = dataset.manifest.shards[0]
    tar = f"chunks/shard/{shard.sha256}.tar"
    for key in (*here.keys("chunks/table"), tar, index_name(tar), f"{dataset.key}/{shard.file}"):
        path, data = here.path(key), here.get(key)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # and all that are linked to it
        assert pull(here, remote_of(source), "faces").copied == (not key.endswith(".json"))
        assert path.read_bytes() == data
    for name in ("manifest.json", "images.parts.json", "shards.txt"):
        here.put(f"{dataset.key}/{name}", b"{}")
        pull(here, remote_of(source), "faces")
    assert problems(here) == []


def sentence(here: Store, source: Store, reference: str) -> str | None:
    """Why a pull fails, if it does."""
    try:
        pull(here, remote_of(source), reference)
    except PipelineError as error:
        return str(error)
    return None


@pytest.mark.parametrize("reference", [FIRST, "golden2", "faces"])
def test_nothing_arrives_that_is_not_what_the_manifest_says(
    source: Store, tmp_path: Path, reference: str
) -> None:
    """Whichever file of a version is altered there, a pull names it and leaves no version, or needs it not."""
    there = open_dataset(source, reference)
    refused = 0
    for number, path in enumerate(sorted(path for path in there.folder.rglob("*") if path.is_file())):
        data = path.read_bytes()
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])  # chunks too: they are links
        here = Store(tmp_path / str(number))
        said = sentence(here, source, there.reference)
        refused += said is not None
        if said is None:
            assert problems(here) == [], path
        else:
            assert str(source.root) in said
            assert references(here) == []
            assert not list(here.root.rglob("*.partial"))
        path.write_bytes(data)
    tars = len(there.manifest.shards)
    assert refused >= tars + 3, refused


def told(source: Store, change: Callable[[dict[str, Any]], None]) -> str:
    """A version of a store that says what it likes: another manifest of FIRST, under its own sha256."""
    value = json.loads(source.get(f"datasets/golden/{FIRST[-16:]}/manifest.json"))
    change(value)
    data = json.dumps(value).encode()
    version = bytes_digest(data)[:16]
    shutil.copytree(source.path(f"datasets/golden/{FIRST[-16:]}"), source.path(f"datasets/evil/{version}"))
    source.put(f"datasets/evil/{version}/manifest.json", data)
    source.put("datasets/evil/latest.json", Latest.new(version=version).as_bytes())
    return version


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["shards"][0].update(file="../../../evil.tar"), "leads outside"),
        (lambda m: m["shards"][0].update(file="/etc/passwd"), "leads outside"),
        (lambda m: m["shards"][0].update(file="manifest.json"), "none of a version's"),
        (lambda m: m["shards"][0].update(file="shards/..tar/x.tar"), "none of a version's"),
        (lambda m: m["shards"][1].update(file=m["shards"][0]["file"]), "2 times"),
        (lambda m: m["shards"][0].update(size=10**15), "GB"),
        (lambda m: m["shards"][0].update(size=17), "and should have 17"),
        (lambda m: m["shards"][0].update(sha256="0" * 64), "is not what the manifest"),
        (lambda m: m["shards"][0].update(index_sha256="0" * 64), "another sha256"),
        (lambda m: m["images"].update(rows=-20), "bytes, and should have at most"),
        (lambda m: m["images"].update(sha256="0" * 64), "is not what the manifest"),
        (lambda m: m["images"].update(file="images/../images.parquet"), "leads outside"),
        (lambda m: m.update(format=99), "use a newer one"),
        (lambda m: m.pop("shards"), "it lacks shards"),
    ],
)
def test_a_manifest_that_lies_is_refused(
    source: Store, here: Store, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    """Names that lead outside, double names, sizes and hashes that are not so: one sentence, and no version."""
    told(source, change)
    with pytest.raises(PipelineError, match=message):
        pull(here, remote_of(source), "evil")
    assert references(here) == []
    assert not (here.root.parent / "evil.tar").exists()


def test_links_and_devices_are_not_read(source: Store, here: Store, tmp_path: Path) -> None:
    """A link that leads out of a folder, a pipe and a giant in place of a file are refused before they are read."""
    (tmp_path / "secret").write_bytes(b"secret")
    manifest = source.path(f"datasets/golden/{FIRST[-16:]}/manifest.json")
    manifest.unlink()
    manifest.symlink_to(tmp_path / "secret")
    with pytest.raises(IntegrityError, match="leads out of the store"):
        pull(here, remote_of(source), FIRST)
    manifest.unlink()
    os.mkfifo(manifest)
    with pytest.raises(IntegrityError, match="no file"):
        pull(here, remote_of(source), FIRST)
    manifest.unlink()
    with manifest.open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(IntegrityError, match="1000000000000 bytes, and should have at most"):
        pull(here, remote_of(source), FIRST)
    assert references(here) == []


def test_a_version_by_another_name_is_refused(source: Store, here: Store) -> None:
    """A folder that has another version's manifest is no version; all 64 digits of a manifest may be asked for."""
    shutil.copytree(
        source.path("datasets/golden/71485f1fada17d95"), source.path("datasets/golden/0123456789abcdef")
    )
    with pytest.raises(IntegrityError, match="another sha256"):
        pull(here, remote_of(source), "golden@0123456789abcdef")
    sha256 = open_dataset(source, FIRST).manifest_sha256
    assert pull(here, remote_of(source), f"golden@{sha256}").dataset.reference == FIRST
    with pytest.raises(IntegrityError, match="another sha256"):
        pull(
            Store(here.root / "x"),
            remote_of(source),
            f"golden@{sha256[:-1]}{'0' if sha256[-1] != '0' else '1'}",
        )


def test_a_table_of_other_kinds_is_refused(source: Store, here: Store) -> None:
    """A table whose authors are numbers is named, though its hash is the manifest's."""
    schema = pa.schema(
        [field.with_type(pa.int64()) if field.name == "author" else field for field in IMAGE_SCHEMA]
    )
    version = publish(
        source,
        "odd",
        settings={"resolution": 64},
        images=[],
        image_schema=schema,
        rejections=[],
        rejection_schema=REJECTION_SCHEMA,
        shards=[],
        num_photos=0,
    )
    with pytest.raises(IntegrityError, match="a column author of int64"):
        pull(here, remote_of(source), version.reference)
    assert references(here) == []


def test_builds_that_lie_are_passed_over(source: Store, here: Store) -> None:
    """Records of builds that are damaged, or are of other names than theirs, do not come, and stop nothing."""
    [key] = [key for key in source.keys("datasets/golden/builds") if "3ada" in key]
    source.put("datasets/golden/builds/a.json", source.get(key))
    source.put("datasets/golden/builds/b.json", b"{")
    pull(here, remote_of(source), "golden")
    names = [Path(key).name for key in here.keys("datasets/golden/builds")]
    assert len(names) == 2
    assert Path(key).name in names


def test_a_dry_run_says_what_would_come(
    source: Store, here: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """It counts the files and bytes that a pull then brings, and writes nothing."""
    for reference in (FIRST, "golden2", "faces"):
        would = look(here, remote_of(source), reference)
        assert not here.path(would.dataset.key).exists()
        done = pull(here, remote_of(source), reference)
        assert (would.copied, would.num_bytes, would.here) == (done.copied, done.num_bytes, done.here)
        again = look(here, remote_of(source), reference)
        assert (again.copied, again.num_bytes, again.here) == (0, 0, done.copied)
    there = here.root.with_name("nowhere")
    status, out, _ = likeness(capsys, "pull", "faces", source.root, "--store", there, "--dry-run")
    assert (status, there.exists()) == (0, False)
    assert "would be copied" in out


def test_a_backup_is_all_versions(source: Store, here: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """`pull --all` brings every version once, and each name means what it means there; again it brings nothing."""
    arguments = ("pull", "--all", source.root, "--store", here.root, "--originals", "--json")
    status, out, err = likeness(capsys, *arguments)
    assert status == 0, err
    assert references(here) == references(source) == sorted(references_in(remote_of(source)))
    assert {name: latest_version(here, name) for name in ("golden", "faces")} == {
        name: latest_version(source, name) for name in ("golden", "faces")
    }
    assert problems(here) == []
    records = list(here.keys("datasets"))
    status, out, _ = likeness(capsys, *arguments)
    assert [json.loads(line)["copied"] for line in out.splitlines()] == [0] * 6
    assert list(here.keys("datasets")) == records


def test_one_damaged_version_keeps_no_other_from_a_backup(
    source: Store, here: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """A version that is damaged there is named, all others come, and the status says that one did not."""
    path = open_dataset(source, FIRST).folder / "images.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    status, out, err = likeness(capsys, "pull", "--all", source.root, "--store", here.root)
    assert (status, len(out.splitlines())) == (1, 5)
    assert str(path.relative_to(source.root)) in err
    assert "1 of 6 versions" in err
    assert references(here) == [name for name in references(source) if name != FIRST]
    assert latest_version(here, "golden") == latest_version(source, "golden")


def test_what_was_forgotten_does_not_come_back(
    source: Store, here: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """A version with a photograph, author or address that has a tombstone here is refused, and leaves nothing."""
    photo = bytes_digest(b"photograph 7")
    for number, what in enumerate(
        (("sha256", photo), ("author", "Author  7"), ("url", "https://a.example/7.jpg"))
    ):
        store = Store(here.root / str(number))
        Tombstones(store).bury([what])  # type: ignore[list-item]
        status, _, err = likeness(capsys, "pull", "faces", source.root, "--store", store.root)
        assert status == 1
        assert "holds what was removed from" in err
        assert references(store) == []
        assert not list(store.keys("chunks"))
        assert not store.path("datasets/faces").exists() or not list(store.path("datasets/faces").glob("*/*"))


def test_a_withdrawn_version_does_not_come_back(source: Store, here: Store) -> None:
    """A version that was withdrawn here is refused by its name, and nothing of it comes."""
    version = open_dataset(source, FIRST)
    record = Withdrawal.new(
        dataset=version.name,
        version=version.version,
        manifest_sha256=version.manifest_sha256,
        manifest=version.manifest_bytes.decode(),
        withdrawn_at="2026-11-26T12:00:00+00:00",
        forget="20261126-120000-0000",
        photographs=1,
    )
    here.put(f"{version.key}/{FILE}", record.as_bytes())
    with pytest.raises(WithdrawnError, match=f"{FIRST} was withdrawn"):
        pull(here, remote_of(source), FIRST)
    assert list(here.keys("")) == [f"{version.key}/{FILE}"]
    assert pull(here, remote_of(source), SECOND).is_latest


def test_a_plain_web_server_will_do(source: Store, here: Store, quick: None) -> None:
    """A server that has files and lists none gives a name's latest version, and one that is named in full."""
    old, _ = faces(source)
    with serving(folder(source.root)) as web:
        remote = Remote(web.url("/"))
        assert pull(here, remote, "faces").is_latest
        assert pull(here, remote, old.reference).dataset.version == old.version
        assert pull(here, remote, FIRST, originals=True).absent == 0
        assert problems(here) == []
        with pytest.raises(ConfigError, match="name all 16 digits"):
            pull(here, remote, "faces@12")
        with pytest.raises(NotFoundError, match="no dataset 'nobody' in http"):
            pull(here, remote, "nobody")
        with pytest.raises(ServiceError, match="does not list"):
            references_in(remote)


def failing(root: Path, times: int, broken: Callable[[bytes], bytes]) -> Answer:
    """A server of a folder that answers each of the first questions after anything with what is `broken`."""
    asked: dict[str, int] = {}
    well = folder(root)

    def answer(request: Request) -> bytes:
        asked[request.target] = asked.get(request.target, 0) + 1
        data = well(request) or b""
        return broken(data) if asked[request.target] <= times else data

    return answer


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "503": lambda _: reply(b"", 503),
    "closed": lambda _: b"",
    "stops halfway": lambda data: data[:-7],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_servers_that_fail_are_asked_again(source: Store, here: Store, quick: None, kind: str) -> None:
    """An error, a closed connection and bytes that stop halfway are passing; the version is whole in the end."""
    with serving(failing(source.root, 1, BROKEN[kind])) as web:
        pull(here, Remote(web.url("")), FIRST)
    assert problems(here) == []


@pytest.mark.parametrize("kind", BROKEN)
def test_servers_that_go_on_failing_are_given_up(source: Store, here: Store, quick: None, kind: str) -> None:
    """After a bounded number of tries one sentence names the object, and there is no version."""
    with serving(failing(source.root, 10**6, BROKEN[kind])) as web:
        with pytest.raises(
            ServiceError, match=f"{web.url('/datasets/golden/71485f1fada17d95/manifest.json')}"
        ):
            pull(here, Remote(web.url("")), FIRST)
        assert max(web.counts().values()) <= 12
    assert references(here) == []


def test_a_giant_of_a_server_is_not_read(source: Store, here: Store, quick: None) -> None:
    """A server whose manifest has a terabyte is refused by the size that it says."""

    def answer(request: Request) -> bytes | None:
        if request.target.endswith("manifest.json"):
            return b"HTTP/1.1 200 -\r\nContent-Length: 1000000000000\r\n\r\n" + b"x" * 1000
        return folder(source.root)(request)

    with serving(answer) as web, pytest.raises(IntegrityError, match="has 1000000000000 bytes"):
        pull(here, Remote(web.url("")), FIRST)


def test_a_killed_pull_goes_on(source: Store, here: Store) -> None:
    """SIGKILL halfway leaves no version; the same command then asks for no shard again that has come."""
    shards = {f"/chunks/shard/{shard.sha256}.tar" for shard in open_dataset(source, "faces").manifest.shards}
    is_stuck = True

    def answer(request: Request) -> bytes | None:
        arrived = len([key for key in here.keys("chunks/shard") if key.endswith(".tar")])
        if is_stuck and request.target in shards and arrived >= 3:
            return None  # silent
        return folder(source.root)(request)

    with serving(answer) as web:
        command = [
            sys.executable,
            "-m",
            "flows.cli",
            "pull",
            "faces",
            web.url("/"),
            "--store",
            str(here.root),
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        while process.poll() is None and web.num_connections - len(web.counts()) >= 0:
            if len([key for key in here.keys("chunks/shard") if key.endswith(".tar")]) >= 3:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr and process.stderr.close()
        assert references(here) == []
        came = {f"/{key}" for key in here.keys("chunks/shard") if key.endswith(".tar")}
        assert 3 <= len(came) < len(shards)
        is_stuck = False
        before = web.counts()
        done = pull(here, Remote(web.url("/")), "faces")
        again = web.counts() - before
    assert not came & again.keys()
    assert shards - came <= again.keys()
    assert done.here >= len(came)
    assert problems(here) == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/store", "neither a folder nor one of"),
        ("s3://key:secret@bucket/store", "credentials are taken from the environment"),
        ("https://host/store?token=secret", "credentials are taken from the environment"),
        ("s3://", "cannot be opened"),
        ("no/such/folder", "there is no store"),
    ],
)
def test_stores_that_are_none_are_named(url: str, message: str) -> None:
    """One sentence says what is wrong with a URL, without what is secret in it."""
    with pytest.raises(PipelineError, match=message) as caught:
        Remote(url)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be made"):
        Remote("/proc/no/such", new=True)


def test_a_store_is_not_pulled_from_itself(source: Store) -> None:
    """A store as its own source is refused."""
    with pytest.raises(ConfigError, match="is the store itself"):
        pull(source, remote_of(source), "golden")


def test_a_manifest_is_read_as_it_was(source: Store) -> None:
    """What the tests take for a lying manifest is one that is read at all."""
    version = told(source, lambda m: None)
    assert Manifest.read(source.path(f"datasets/evil/{version}/manifest.json")).resolution == 32


def test_a_lost_photograph_of_the_source_is_said(
    source: Store, here: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """A photograph that is not there either is counted and said, and one with other bytes is refused."""
    photo = next(row["photo_sha256"] for row in open_dataset(source, FIRST).images())
    source.path(original_key(photo)).write_bytes(b"another")
    with pytest.raises(IntegrityError, match="sha256 of its name"):
        pull(here, remote_of(source), FIRST, originals=True)
    source.path(original_key(photo)).unlink()
    status, _, err = likeness(capsys, "pull", FIRST, source.root, "--store", here.root, "--originals")
    assert (status, "1 original of" in err) == (0, True)
