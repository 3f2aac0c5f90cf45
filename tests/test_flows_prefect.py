"""The flows on a real Prefect server: the whole pipeline once, small."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventNameFilter

from flows.build import build, run_with
from flows.build_and_train import build_and_train
from flows.build_dataset import PUBLISHED, build_dataset
from flows.forget import forget
from flows.operations.announce import TOLD, WITHDRAWN
from flows.operations.secrets import secret
from flows.options import BuildAndTrainOptions, BuildOptions
from preprocessing.asked import Asked
from preprocessing.config import BuildConfig
from preprocessing.forgetting import find
from storage.datasets.dataset import open_dataset
from storage.lineage.trace import trace
from storage.runs import find_run, run_of_flow
from storage.store import Store
from training.config import TrainConfig

BUILD = BuildConfig.model_validate(
    {"source": "sample:12", "name": "sample", "resolution": 32, "detect": {"min_quad_px": 128}}
)
TRAINING = TrainConfig.model_validate(
    {"preset": "smoke", "resolution": 16, "stable_kimg": 0.032, "fade_kimg": 0.032, "total_kimg": 0.128,
     "tick_kimg": 0.032, "snapshot_kimg": 0.064, "device": "cpu"}
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store for all flows of this file."""
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def whole(prefect_server: None, store: Store) -> State[Any]:
    """The whole pipeline: sample in, trained generator out."""
    options = BuildAndTrainOptions(store=store.root, workers=1)
    return build_and_train(BUILD, TRAINING, options, return_state=True)


def test_the_whole_pipeline_completes(whole: State[Any], store: Store) -> None:
    """Photographs in, a trained generator out, and the training names the version that was built."""
    assert whole.is_completed(), whole.message
    result = whole.result()
    reference = f"sample@{result['dataset']['version']}"
    assert result["training"]["dataset"] == open_dataset(store, "sample").reference == reference
    assert result["training"]["kimg"] == 0.128


def test_runs_are_named_and_tagged(whole: State[Any]) -> None:
    """What each run is of can be read off its name and its tags."""
    result = whole.result()
    version = result["dataset"]["version"]
    with get_client(sync_client=True) as client:
        runs = {run.name: set(run.tags) for run in client.read_flow_runs()}
    assert runs["sample 32px sample"] >= {"dataset:sample", "source:sample", f"version:{version}"}
    tags = runs[f"sample@{version[:4]} smoke"]
    assert tags >= {
        "dataset:sample",
        f"version:{version}",
        "preset:smoke",
        f"run:{result['training']['run']}",
    }


def test_a_flow_run_goes_on_with_what_it_began(whole: State[Any], store: Store) -> None:
    """A training run says which flow run began it, and that one finds it again and has nothing left to do."""
    run = find_run(store, whole.result()["training"]["run"])
    began = str(whole.state_details.flow_run_id)
    assert run.record.flow_run_id == began
    found = run_of_flow(store, began)
    assert found is not None
    assert found.id == run.id


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


def test_a_build_of_its_own_emits_the_event_once(store: Store, cluster: str, whole: State[Any]) -> None:
    """As the top-level flow `build-dataset` says once which version was published, and that nothing changed."""
    state = build_dataset(BUILD, BuildOptions(store=store.root, scheduler=cluster), return_state=True)
    assert state.is_completed(), state.message
    assert state.result()["unchanged"] is True
    assert state.result()["version"] == whole.result()["dataset"]["version"]
    wait_for_events()
    [event] = published()
    assert event.payload["reference"] == f"sample@{state.result()['version']}"
    assert event.resource.id == "dataset.sample"


def test_the_command_line_gives_the_same_version(whole: State[Any], cluster: str, tmp_path: Path) -> None:
    """The same config without Prefect, in another store, is the same dataset."""
    built = build(BUILD, BuildOptions(store=tmp_path, scheduler=cluster), run_with(lambda _: None))
    assert built.dataset.version == whole.result()["dataset"]["version"]


def test_what_is_withdrawn_is_told(store: Store, cluster: str, whole: State[Any]) -> None:
    """After a photograph was forgotten the server has no picture of the version that held it, and an event says so."""
    before = open_dataset(store, "sample")
    assert whole.is_completed()
    assert any(before.reference in str(one.description) for one in pictures())
    found = find(store, Asked(hash=(before.images()[0]["photo_sha256"],), similar=False))
    done = forget(store, found, BuildOptions(store=store.root, scheduler=cluster), run_with(lambda _: None))
    assert done.certificate.prefect == TOLD
    assert not any(before.reference in str(one.description) for one in pictures())
    wait_for_events()
    [event] = events(WITHDRAWN)
    assert event.payload["reference"] == open_dataset(store, "sample").reference
    assert event.payload["withdrawn"] == [before.reference]
    assert event.payload["runs"] == [whole.result()["training"]["run"]]


def pictures() -> list[Any]:
    """The contact sheets that the server has."""
    with get_client(sync_client=True) as client:
        sheets = ArtifactFilter(key=ArtifactFilterKey(any_=["contact-sheet"]))
        return list(client.read_artifacts(artifact_filter=sheets))


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
    deadline = time.monotonic() + 240
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
