"""storage.lineage.openlineage: builds and trainings are told as the standard says, to a file and to a server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
from openlineage.client.event_v2 import RunEvent
from referencing import Registry, Resource

import tiny_run
from storage.datasets.dataset import Dataset, open_dataset
from storage.environment import run_facts
from storage.errors import IntegrityError
from storage.lineage import openlineage
from storage.lineage.openlineage import EVENTS, build_job, reported, training_job, version_dataset
from storage.runs import Run, create_run
from storage.store import Store
from training.config import TrainConfig
from training.process import train_folder

SPEC = json.loads((Path(__file__).with_name("data") / "openlineage" / "RunEvent.json").read_bytes())
OURS = json.loads(Path(openlineage.__file__).with_name("facets.json").read_bytes())
REGISTRY: Registry[Any] = Registry().with_resources(
    (schema["$id"], Resource.from_contents(schema)) for schema in (SPEC, OURS)
)


@pytest.fixture(autouse=True)
def _by_the_store_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's environment says, no server is told unless a test names one."""
    for name in ("URL", "CONFIG", "API_KEY", "NAMESPACE", "DISABLED"):
        monkeypatch.delenv(f"OPENLINEAGE_{name}", raising=False)


def events(store: Store) -> list[dict[str, Any]]:
    """What was told, each checked against what the standard demands, and our facets against their own schema."""
    found = [json.loads(line) for line in store.path(EVENTS).read_text().splitlines()]
    for event in found:
        checked(event)
    return found


def checked(event: dict[str, Any]) -> None:
    """An event is as the standard has it."""
    jsonschema.Draft202012Validator(SPEC, registry=REGISTRY).validate(event)
    datasets = [*event["inputs"], *event["outputs"]]
    facets = [event["run"]["facets"], event["job"]["facets"], *(dataset["facets"] for dataset in datasets)]
    for name, facet in (item for each in facets for item in each.items()):
        assert facet["_producer"] == event["producer"] == f"urn:likeness:{run_facts().packages['likeness']}"
        if name.startswith("likeness_"):
            assert facet["_schemaURL"].startswith(OURS["$id"] + "#/$defs/")
            jsonschema.Draft202012Validator({"$ref": facet["_schemaURL"]}, registry=REGISTRY).validate(facet)
    assert event["schemaURL"] == RunEvent._get_schema()


@pytest.fixture
def made(tmp_path: Path) -> tuple[Run, Dataset]:
    """A run of a tiny dataset."""
    store = Store(tmp_path / "store")
    version = tiny_run.tiny_dataset(store, tiny_run.noise_images(5, 16))
    config = TrainConfig.model_validate({**tiny_run.TINY, "total_kimg": 0.032})
    return create_run(store, version, config.model_dump(mode="json")), open_dataset(store, "faces")


def test_a_training_is_told_with_what_it_read_and_made(made: tuple[Run, Dataset]) -> None:
    """START with the version's whole hash, COMPLETE with the checkpoint's, both of one run."""
    run, dataset = made
    train_folder(run.folder, "none")
    start, complete = events(run.store)
    assert [event["eventType"] for event in (start, complete)] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert (start["job"]["name"], start["job"]["namespace"]) == ("train.faces", "likeness")
    [read] = complete["inputs"]
    assert read["name"] == "dataset/faces"
    assert read["facets"]["version"]["datasetVersion"] == dataset.manifest_sha256
    assert read["facets"]["likeness_version"]["reference"] == dataset.reference
    facet = complete["run"]["facets"]["likeness_training"]
    assert (facet["trainingRun"], facet["numImages"], facet["stopped"]) == (run.id, 32, False)
    assert facet["configSha256"] == run.record.config_sha256
    [written] = complete["outputs"]
    assert written["facets"]["likeness_checkpoint"]["checkpoint"] == run.newest_checkpoint().name
    assert start["outputs"] == []


def test_a_training_that_fails_is_told_with_why(made: tuple[Run, Dataset]) -> None:
    """FAIL carries the sentence that the user reads."""
    run, dataset = made
    [shard] = dataset.shard_paths
    data = shard.read_bytes()
    shard.write_bytes(bytes(len(data)))
    with pytest.raises(IntegrityError) as info:
        train_folder(run.folder, "none")
    start, fail = events(run.store)
    assert (start["eventType"], fail["eventType"]) == ("START", "FAIL")
    assert fail["run"]["facets"]["errorMessage"]["message"] == str(info.value)


class Receiver(BaseHTTPRequestHandler):
    """Takes events as OpenLineage's own servers do."""

    taken: ClassVar[list[tuple[str, str | None, dict[str, Any]]]]
    status = 201

    def do_POST(self) -> None:
        """An event, kept with its address and its key."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.taken.append((self.path, self.headers.get("Authorization"), json.loads(body)))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Receiver]]:
    """A server on this machine that the environment names."""

    class One(Receiver):
        taken: ClassVar[list[tuple[str, str | None, dict[str, Any]]]] = []

    server = HTTPServer(("127.0.0.1", 0), One)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    yield One
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_is_told_the_same(
    made: tuple[Run, Dataset], receiver: type[Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that the standard's own settings name takes each event that the file has, with the key."""
    run, dataset = made
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "our-house")
    with reported(run.store, training_job(run, dataset)) as outcome:
        outcome.outputs.append(version_dataset(dataset))
    assert [(path, key) for path, key, _ in receiver.taken] == [("/api/v1/lineage", "Bearer secret")] * 2
    assert [event for _, _, event in receiver.taken] == events(run.store)
    assert {event["job"]["namespace"] for event in events(run.store)} == {"our-house"}
    assert b"secret" not in run.store.path(EVENTS).read_bytes()


@pytest.mark.parametrize("status", [400, 401])
def test_a_server_that_refuses_ends_nothing(
    made: tuple[Run, Dataset], receiver: type[Receiver], caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """An event that no server took is a warning, and lies in the file."""
    run, dataset = made
    receiver.status = status
    with reported(run.store, training_job(run, dataset)):
        pass
    assert len(events(run.store)) == 2
    assert f"did not take an event, which {run.store.path(EVENTS)} has" in caplog.text


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the store takes no events, a build goes on with a warning."""
    store = Store(tmp_path)
    store.put("lineage", b"in the way")
    with reported(store, build_job("faces", "folder:x", {})):
        pass
    assert "an OpenLineage event is not written to" in caplog.text


def test_nobody_is_told_who_does_not_want_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENLINEAGE_DISABLED, the standard's own setting, writes nothing."""
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    with reported(Store(tmp_path), build_job("faces", "folder:x", {})):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_stop_is_no_failure(tmp_path: Path) -> None:
    """Ctrl-C is told as ABORT."""
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), reported(store, build_job("faces", "folder:x", {})):
        raise KeyboardInterrupt
    assert [event["eventType"] for event in events(store)] == ["START", "ABORT"]


def test_the_client_is_loaded_where_it_is_needed() -> None:
    """What reads lineage does not load the client, which takes a third of a second."""
    code = "import sys, storage.lineage.openlineage; sys.exit('openlineage' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
