"""storage.datasets.push, and pull from there: versions over a real S3 server, and what is seen of them on the way."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from test_storage_datasets_pull import FIRST, OLD, faces, problems, source

import storage.store
from commands import likeness
from preprocessing.crawl.buried import check_not_buried
from storage.bucket import Bucket
from storage.datasets.dataset import all_versions, latest_version, open_dataset
from storage.datasets.elsewhere import Elsewhere
from storage.datasets.pull import look, pull, references_in
from storage.datasets.push import push
from storage.datasets.records import Latest
from storage.errors import ConfigError, IntegrityError, NotFoundError, PipelineError, ServiceError
from storage.remote import Remote
from storage.store import Store
from storage.tombstones import Tombstones

__all__ = ["source"]
pytestmark = pytest.mark.s3


@pytest.mark.parametrize("reference", [*OLD, "faces"])
def test_there_and_back(source: Store, tmp_path: Path, bucket: str, reference: str) -> None:
    """A version that was pushed is pulled into another store as it was, with its photographs, whatever its format."""
    there = push(source, Remote(bucket), reference, originals=True)
    assert (there.is_latest, there.absent) == (True, 0)
    here = Store(tmp_path / "here")
    done = pull(here, Remote(bucket), there.dataset.name, originals=True)
    assert done.dataset.reference == there.dataset.reference
    assert problems(here) == []
    assert done.absent == 0
    assert {build.kind for build in done.dataset.builds()} == {"build", "push", "pull"}


def test_a_second_version_sends_what_is_new(source: Store, bucket: str) -> None:
    """Of two versions the second sends one shard and one part of the table; the same again sends nothing."""
    first, second = faces(source)
    push(source, Remote(bucket), first.reference)
    done = push(source, Remote(bucket), second.reference)
    assert done.copied == 2
    assert push(source, Remote(bucket), second.reference).copied == 0
    assert sorted(references_in(Remote(bucket))) == sorted([first.reference, second.reference])
    assert references_in(Remote(bucket))[-1] == second.reference


def test_what_is_broken_off_is_not_seen(
    source: Store, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a push ends early, there is no version there, or a whole one; the same push again completes it."""
    send, writes = Remote.put, 0

    def stopping(remote: Remote, key: str, data: bytes | Path) -> None:
        nonlocal writes
        writes -= 1
        if writes < 0:
            raise KeyboardInterrupt
        send(remote, key, data)

    monkeypatch.setattr(Remote, "put", stopping)
    for left in (0, 2, 2, 1, 1, 1):  # of eight writes
        writes = left
        with pytest.raises(KeyboardInterrupt):
            push(source, Remote(bucket), FIRST)
        monkeypatch.setattr(Remote, "put", send)
        for reference in references_in(Remote(bucket)):
            here = Store(tmp_path / reference)
            pull(here, Remote(bucket), reference)
            assert problems(here) == []
        assert Elsewhere(Remote(bucket), "golden").latest is None
        monkeypatch.setattr(Remote, "put", stopping)
    monkeypatch.setattr(Remote, "put", send)
    assert push(source, Remote(bucket), FIRST).is_latest


def test_damage_is_not_sent(source: Store, bucket: str) -> None:
    """A shard that is not what its manifest says is named, and nothing of the version is seen there."""
    dataset = open_dataset(source, FIRST)
    path = dataset.shard_paths[0]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match=path.name):
        push(source, Remote(bucket), FIRST)
    assert references_in(Remote(bucket)) == []


def test_a_name_means_what_was_pushed_last(
    source: Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes the pointer between our look and our write is not overwritten unseen: the later asked has the name."""
    remote = Remote(bucket)
    first, second = faces(source)
    key = "datasets/faces/latest.json"
    replace = Remote.replace
    times: list[str] = []

    def beside(self: Remote, at: str, data: bytes, tag: str | None) -> bool:
        if at == key and not times:
            times.append(at)
            later = datetime.now(UTC) - timedelta(seconds=1) * is_older
            asked_at = later.isoformat(timespec="microseconds")
            self.put(key, Latest.new(version=second.version, build_id="x", asked_at=asked_at).as_bytes())
        return replace(self, at, data, tag)

    monkeypatch.setattr(Remote, "replace", beside)
    for older_s, version in ((0, second.version), (3600, first.version)):
        times.clear()
        is_older = older_s
        done = push(source, remote, first.reference)
        assert Elsewhere(remote, "faces").version(None) == version
        assert done.is_latest == (version == first.version)


def test_errors_name_bucket_and_key(
    source: Store,
    tmp_path: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bucket that is not there, a name that is not there, and no credentials are a sentence each."""
    here = Store(tmp_path / "here")
    with pytest.raises(PipelineError, match="s3://nobody/x"):
        pull(here, Remote("s3://nobody/x"), "faces")
    with pytest.raises(ServiceError, match="s3://nobody/x/chunks/"):
        push(source, Remote("s3://nobody/x"), "faces")
    push(source, Remote(bucket), "faces")
    with pytest.raises(NotFoundError, match=f"no dataset 'golden' in {bucket}: it holds faces"):
        pull(here, Remote(bucket), "golden")
    with pytest.raises(NotFoundError, match="version '123' of dataset 'faces' in s3"):
        pull(here, Remote(bucket), "faces@123")
    with pytest.raises(ConfigError, match="is a web server"):
        push(source, Remote("http://127.0.0.1:1/"), "faces")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    status, _, err = likeness(capsys, "pull", "faces", bucket, "--store", here.root)
    assert (status, err.count("\n")) == (1, 1)
    assert f"{bucket}/datasets/faces/latest.json cannot be had" in err


def test_commands_copy_to_and_fro(
    source: Store, tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`push` to a bucket and to a folder, and `pull --all` from the bucket, by the command line."""
    for target in (bucket, tmp_path / "new" / "folder"):
        status, out, err = likeness(capsys, "push", FIRST, target, "--store", source.root, "--originals")
        assert (status, "files" in out) == (0, True), err
    assert problems(Store(tmp_path / "new" / "folder")) == []
    status, out, err = likeness(capsys, "pull", "--all", bucket, "--store", tmp_path / "here")
    assert status == 0, err
    assert [version.reference for version in all_versions(Store(tmp_path / "here"))] == [FIRST]
    assert latest_version(Store(tmp_path / "here"), "golden") == FIRST[-16:]


def test_a_dry_run_says_what_would_go(
    source: Store, tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """To a bucket, or a folder that is still to be made: all files at first, none once they are there."""
    for target in (bucket, str(tmp_path / "new")):
        words = ("push", "faces", target, "--store", source.root, "--json")
        dry = json.loads(likeness(capsys, *words, "--dry-run")[1])
        assert (dry["dry_run"], dry["here"]) == (True, 0)
        assert not (tmp_path / "new").exists()
        done = json.loads(likeness(capsys, *words)[1])
        assert (done["copied"], done["bytes"]) == (dry["copied"], dry["bytes"])
        dry = json.loads(likeness(capsys, *words, "--dry-run")[1])
        assert (dry["copied"], dry["here"]) == (0, done["copied"])


def fresh(bucket: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Store:
    """The store in a bucket as a machine sees it that was never there."""
    monkeypatch.setenv("LIKENESS_CACHE", str(cache))
    monkeypatch.setattr(storage.store, "_seen", set())
    return Store(bucket)


@pytest.mark.parametrize("reference", [*OLD, "faces"])
def test_a_bucket_pulls(
    source: Store, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    """A version is pulled into a bucket, of any format, once: any machine finds it intact there, and pulls it on."""
    one = fresh(bucket, monkeypatch, tmp_path / "one")
    wanted = look(one, Remote(str(source)), reference)
    done = pull(one, Remote(str(source)), reference, originals=True)
    photographs = len(list(Bucket(bucket).entries("originals")))
    assert (done.copied - photographs, done.is_latest) == (wanted.copied, True)
    other = fresh(bucket, monkeypatch, tmp_path / "other")
    assert problems(other) == []
    assert latest_version(other, done.dataset.name) == done.dataset.version
    shared = [entry.key for entry in Bucket(bucket).entries(done.dataset.key) if "/shards/" in entry.key]
    assert all(key.endswith(".index.json") for key in shared), "a tar lies in the bucket twice"
    for machine in (one, other):
        assert look(machine, Remote(str(source)), reference).copied == 0
        assert pull(machine, Remote(str(source)), reference, originals=True).copied == 0
    there = Store(tmp_path / "there")
    assert pull(there, Remote(bucket), done.dataset.reference, originals=True).absent == 0
    assert problems(there) == []
    with pytest.raises(ConfigError, match="is the store itself"):
        pull(other, Remote(bucket), reference)


def test_a_bucket_pulls_what_is_new(
    source: Store, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second version brings one shard and one part; one that must not come leaves nothing, and takes nothing away."""
    first, second = faces(source)
    pull(fresh(bucket, monkeypatch, tmp_path / "one"), Remote(str(source)), first.reference)
    before = {entry.key for entry in Bucket(bucket).entries("")}
    other = fresh(bucket, monkeypatch, tmp_path / "other")
    Tombstones(other).bury([("author", "Author 24")])
    with pytest.raises(ConfigError, match="was removed"):
        pull(other, Remote(str(source)), second.reference, check=check_not_buried)
    left = {entry.key for entry in Bucket(bucket).entries("")} - before
    assert [key for key in left if not key.startswith(("tombstones/", "leases/"))] == []
    assert problems(fresh(bucket, monkeypatch, tmp_path / "third")) == []
    done = pull(other, Remote(str(source)), second.reference)
    assert (done.copied, done.is_latest) == (2, True)
    assert problems(fresh(bucket, monkeypatch, tmp_path / "fourth")) == []


def test_a_backup_into_a_bucket(
    source: Store, tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`pull --all` into a bucket brings every version, and each name means what it means there."""
    words = ("pull", "--all", source.root, "--store", bucket, "--originals", "--json")
    status, out, err = likeness(capsys, *words)
    assert status == 0, err
    assert len(out.splitlines()) == len(list(all_versions(source)))
    there = Store(bucket)
    assert {v.reference for v in all_versions(there)} == {v.reference for v in all_versions(source)}
    assert latest_version(there, "faces") == latest_version(source, "faces")
    again = [json.loads(line) for line in likeness(capsys, *words)[1].splitlines()]
    assert sum(one["copied"] for one in again) == 0
