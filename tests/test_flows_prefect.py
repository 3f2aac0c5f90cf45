"""The flows on a real Prefect server: the whole pipeline once, small."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.testing.utilities import prefect_test_harness

from flows.build import build, run_with
from flows.build_and_train import build_and_train
from flows.build_dataset import PUBLISHED, build_dataset
from flows.operations.secrets import secret
from flows.options import BuildAndTrainOptions, BuildOptions
from preprocessing.config import BuildConfig
from storage.datasets.dataset import open_dataset
from storage.lineage.trace import trace
from storage.store import Store
from training.config import TrainConfig

BUILD = BuildConfig(source="sample:12", name="sample", resolution=32)
TRAINING = TrainConfig.model_validate(
    {"preset": "smoke", "resolution": 16, "stable_kimg": 0.032, "fade_kimg": 0.032, "total_kimg": 0.128,
     "tick_kimg": 0.032, "snapshot_kimg": 0.064, "device": "cpu"}
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """A Prefect server with a database of its own."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all flows of this file."""
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def whole(store: Store) -> State[Any]:
    """The whole pipeline: sample in, trained generator out."""
    options = BuildAndTrainOptions(store=store.root, workers=2)
    return build_and_train(BUILD, TRAINING, options, return_state=True)


def test_the_whole_pipeline_completes(whole: State[Any], store: Store) -> None:
    """Photographs in, a trained generator out, and the training names the version that was built."""
    assert whole.is_completed(), whole.message
    result = whole.result()
    reference = f"sample@{result['dataset']['version']}"
    assert result["training"]["dataset"] == open_dataset(store, "sample").reference == reference
    assert result["training"]["kimg"] == 0.128


def test_a_grid_leads_back_to_photographs(whole: State[Any], store: Store) -> None:
    """From the sample grid, by files alone, to the run, the version, and every photograph's source."""
    run = store.path(f"runs/{whole.result()['training']['run']}")
    chain = trace(store, str(sorted((run / "grids").glob("*.png"))[-1]))
    assert [step.kind for step in chain.steps] == ["grid", "checkpoint", "training run", "dataset"]
    assert len(chain.images) == whole.result()["dataset"]["images"]
    assert {row["license"] for row in chain.images} != {None}


def test_secrets_are_the_environments_or_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service's key is a block of the server, unless the environment has it, or there is none."""
    monkeypatch.delenv("FLICKR_API_KEY", raising=False)
    assert secret("FLICKR_API_KEY") is None
    Secret(value="of the block").save("flickr-api-key")
    assert secret("FLICKR_API_KEY") == "of the block"
    monkeypatch.setenv("FLICKR_API_KEY", "of the environment")
    assert secret("FLICKR_API_KEY") == "of the environment"


def test_a_part_of_another_flow_is_silent(whole: State[Any]) -> None:
    """`build-dataset` inside `build-and-train` emits no event: one build leads to one training."""
    assert whole.is_completed()
    wait_for_events()
    assert published() == []


def test_artifacts_show_every_stage(whole: State[Any]) -> None:
    """Each stage leaves its table and its progress, the build its sheet, the training its grid."""
    keys = {artifact.key for artifact in artifacts_of(whole)}
    assert keys >= {"training-run", "sample-grid", "train-progress", "dataset", "contact-sheet",
                    "dataset-folder", "training-folder"}  # fmt: skip
    for stage in ("crawl", "align", "curate", "shard", "publish"):
        assert f"{stage}-progress" in keys
    for stage in ("crawl", "align", "curate", "shard"):
        assert f"{stage}-counts" in keys


def test_a_build_of_its_own_emits_the_event_once(store: Store, whole: State[Any]) -> None:
    """As the top-level flow `build-dataset` says once which version was published, and that nothing changed."""
    state = build_dataset(BUILD, BuildOptions(store=store.root, workers=1), return_state=True)
    assert state.is_completed(), state.message
    assert state.result()["unchanged"] is True
    assert state.result()["version"] == whole.result()["dataset"]["version"]
    wait_for_events()
    [event] = published()
    assert event.payload["reference"] == f"sample@{state.result()['version']}"
    assert event.resource.id == "dataset.sample"


def test_the_command_line_gives_the_same_version(whole: State[Any], tmp_path: Path) -> None:
    """The same config without Prefect, in another store, is the same dataset."""
    built = build(BUILD, BuildOptions(store=tmp_path, workers=1), run_with(lambda _: None))
    assert built.dataset.version == whole.result()["dataset"]["version"]


def published() -> list[Any]:
    """The `dataset.published` events that the server has."""
    return events(PUBLISHED)


def events(name: str) -> list[Any]:
    """The events of a name that the server has."""
    with get_client(sync_client=True) as client:
        of_the_name = EventFilter(event=EventNameFilter(name=[name]))
        return list(client.read_events(filter=of_the_name, limit=50).events)


def wait_for_events() -> None:
    """Wait until the server has all that was emitted: they travel apart from the run, in order, this one last."""
    last = f"test.{uuid4()}"
    emit_event(last, resource={"prefect.resource.id": "test"})
    deadline = time.monotonic() + 60
    while not events(last):
        assert time.monotonic() < deadline, "events do not arrive"
        time.sleep(0.1)


def artifacts_of(state: State[Any]) -> list[Any]:
    """The artifacts of a flow run and of the flow runs below it."""
    assert state.state_details.flow_run_id is not None
    with get_client(sync_client=True) as client:
        ids: list[UUID] = [run.id for run in client.read_flow_runs()]
        ours = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=ids))
        return list(client.read_artifacts(artifact_filter=ours))
