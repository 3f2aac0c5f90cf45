"""flows.operations.fetched: a worker on another machine brings the version that it trains on."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.operations.fetched import fetch_version, newer_version, on_this_machine
from flows.operations.training_process import prepare_run
from flows.options import TrainOptions
from storage.datasets.dataset import open_dataset
from storage.datasets.verify import verify
from storage.errors import IntegrityError
from storage.store import Store
from tiny_run import TINY, noise_images, tiny_dataset
from training.config import TrainConfig


class Files(SimpleHTTPRequestHandler):
    """A store's files, quietly; `asked` has the paths."""

    asked: list[str]

    def __init__(self, *args: Any, asked: list[str], **kwargs: Any) -> None:
        self.asked = asked
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        """Note what is asked for."""
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def there(tmp_path: Path) -> Store:
    """The builder's store, with a version."""
    store = Store(tmp_path / "there")
    tiny_dataset(store, noise_images(6))
    return store


@pytest.fixture
def served(there: Store) -> Iterator[tuple[str, list[str]]]:
    """Its address on a plain web server, and what it is asked for."""
    asked: list[str] = []
    files = partial(Files, asked=asked, directory=str(there.root))
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def test_a_worker_elsewhere_pulls_what_it_trains_on(
    there: Store, served: tuple[str, list[str]], tmp_path: Path
) -> None:
    """A run of an empty store is of the version there, which comes once: it is intact, and not asked for again."""
    url, asked = served
    here = Store(tmp_path / "here")
    options = TrainOptions(store=here.root, pull_from=url)
    wanted = open_dataset(there, "faces")
    run = prepare_run("faces", TrainConfig(**TINY), options, None)
    assert run.record.dataset.version == wanted.version
    assert verify(open_dataset(here, "faces")).problems == []
    assert [path for path in asked if path.endswith(".tar")]
    asked.clear()
    prepare_run(wanted.reference, TrainConfig(**TINY), options, None)
    assert asked == [], "a version that is here and named is not asked for"
    prepare_run("faces", TrainConfig(**TINY), options, None)
    assert asked
    assert not [path for path in asked if path.endswith(".tar")], "nor is what is here fetched again"


def test_a_name_means_its_latest_there(there: Store, tmp_path: Path) -> None:
    """A newer version of the builder's store is what a bare name is trained on next; a split of it stays a split."""
    here = Store(tmp_path / "here")
    fetch_version(here, "faces", str(there.root))
    newer = tiny_dataset(there, noise_images(7), splits=["train"] * 6 + ["test"])
    assert fetch_version(here, "faces:train", str(there.root)) == f"{newer.reference}:train"
    assert fetch_version(there, "faces", str(there.root)) == "faces", "a store pulls nothing from itself"
    assert fetch_version(here, "faces", None) == "faces"


def test_what_is_damaged_there_is_not_trained_on(there: Store, tmp_path: Path) -> None:
    """A shard that is not what its manifest says is named, and no version comes."""
    [shard] = there.root.glob("datasets/faces/*/shards/*.tar")
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.unlink()
    shard.write_bytes(data)
    shutil.rmtree(there.path("chunks"))  # where the shard is whole
    here = Store(tmp_path / "here")
    with pytest.raises(IntegrityError, match=shard.name):
        fetch_version(here, "faces", str(there.root))
    assert not list(here.root.glob("datasets/faces/*/manifest.json"))


def test_the_store_of_another_machine_is_not_made_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where an event names the builder's store, and that is not on this machine, the worker works in its own."""
    gone, own = tmp_path / "builder", tmp_path / "worker"
    options = TrainOptions(store=gone)
    assert on_this_machine(options) == options, "who has no store of a worker takes what is named"
    monkeypatch.setenv("LIKENESS_STORE", str(own))
    assert on_this_machine(options).store == own
    assert f"there is no store {gone} on this machine" in caplog.text
    gone.mkdir()
    assert on_this_machine(options) == options


def test_a_version_that_was_overtaken_is_told(there: Store) -> None:
    """Of a version that is no longer its name's latest the newer one is named; of the latest, and of a name, none."""
    first = open_dataset(there, "faces").reference
    assert newer_version(there, first) is None
    second = tiny_dataset(there, noise_images(7), splits=["train"] * 6 + ["test"]).reference
    assert newer_version(there, first) == second
    assert newer_version(there, f"{second}:train") is None
    assert newer_version(there, "faces") is None
