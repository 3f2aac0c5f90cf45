"""Retraining from source to champion, why it trains and why not, and the gate that refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_run
from commands import likeness
from flows.build import Result, run_with
from flows.build import Run as RunStage
from flows.forget import forget
from flows.operations.training_process import prepare_run, train_run
from flows.options import BuildAndTrainOptions, BuildOptions
from flows.promote import settle
from flows.retraining import RetrainConfig, Retrained, plan, retrain
from preprocessing.asked import Asked
from preprocessing.config import BuildConfig
from preprocessing.forgetting import find
from storage.datasets.collect import find_garbage
from storage.datasets.dataset import open_dataset
from storage.digest import file_digest
from storage.errors import NotFoundError
from storage.lineage.trace import trace
from storage.promotions import alias_of, champion_of, last_decision, new_decision, put_decision
from storage.runs import Run, find_checkpoint, find_run
from storage.store import Store
from storage.verify import verify
from training.config import TrainConfig
from training.metrics.scorecard import judge
from training.metrics.settings import ScorecardConfig

SCORECARD = ScorecardConfig.model_validate(
    {"metric": "kid_efficientnet_lite0", "num_images": 6, "audit_images": 4, "near_copies_limit": 1,
     "slowdown_limit": 100, "min_slice": 2, "slices": "license"}
)  # fmt: skip
TINY = TrainConfig.model_validate({**tiny_run.TINY, "x_flips": False})
SOURCE = BuildConfig.model_validate(
    {"source": "sample:12", "name": "sample", "resolution": 32, "detect": {"min_quad_px": 128}}
)


class Plain:
    """Steps here and now; what was said is kept."""

    def __init__(self, options: BuildAndTrainOptions) -> None:
        self.options = options
        self.said: list[str] = []

    @property
    def stage(self) -> RunStage:
        """A build's stages."""
        return run_with(lambda _: None)

    def step(self, name: str, work: Callable[[], Result]) -> Result:
        """Any other."""
        return work()

    def train(self, run: Run) -> None:
        """In this process: `all_trained_here`."""
        train_run(run, self.options, lambda _: None)

    def say(self, line: str) -> None:
        """For the test to read."""
        self.said.append(line)


def options_of(store: Store) -> BuildAndTrainOptions:
    """Little work, in that store."""
    return BuildAndTrainOptions(store=store.root, tracking_uri="none")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of the chain."""
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def chain(store: Store, cluster: str, all_trained_here: None) -> Retrained:
    """The whole of it once, from a source that was never built."""
    options = options_of(store).model_copy(update={"scheduler": cluster})
    return retrain("sample", RetrainConfig(), TINY, SCORECARD, options, Plain(options), source=SOURCE)


def test_the_first_model_becomes_the_champion(chain: Retrained, store: Store) -> None:
    """Built, trained, judged and promoted, with what it was compared with and why it trained on record."""
    assert chain.run is not None
    assert chain.decision is not None
    assert (chain.state, chain.plan.why) == ("champion", "the first training")
    assert chain.run.record.why == chain.decision.why == "the first training"
    assert chain.decision.champion is None
    names = [one.name for one in chain.decision.criteria]
    assert names == ["quality", "recall by license", "speed", "near-copies", "licences"]
    assert champion_of(store, "sample").run_id == chain.run.id
    assert find_run(store, "sample:champion").id == chain.run.id
    assert find_checkpoint(store, "sample:champion") == chain.run.newest_checkpoint()
    assert verify(store, None)[1].problems == []


def test_nothing_new_is_not_trained_again(chain: Retrained, store: Store, cluster: str) -> None:
    """The same version and settings are skipped, with the reason, unless training is forced."""
    assert chain.run is not None
    options = options_of(store).model_copy(update={"scheduler": cluster})
    steps = Plain(options)
    again = retrain("sample", RetrainConfig(recheck=False), None, SCORECARD, options, steps)
    assert (again.state, again.run) == ("skipped", None)
    assert steps.said == [
        f"{chain.plan.dataset.reference}: unchanged; run {chain.run.id} of this version and these settings is finished "
        "already"
    ]
    forced = plan(store, chain.plan.dataset, RetrainConfig(force=True), None, options_of(store))
    assert forced.trains
    assert forced.why == "unchanged; forced"
    assert forced.init_from == str(chain.run.newest_checkpoint())
    other = plan(
        store, chain.plan.dataset, RetrainConfig(begin_with="nothing"),
        TrainConfig.model_validate({**tiny_run.TINY, "seed": 1}), options_of(store),
    )  # fmt: skip
    assert other.trains
    assert other.init_from is None


def test_a_decision_is_traced(chain: Retrained, store: Store) -> None:
    """From the decision to photographs, and from a photograph to the decision, by files alone."""
    assert chain.run is not None
    assert chain.decision is not None
    found = trace(store, chain.decision.decision)
    assert [step.kind for step in found.steps] == ["decision", "checkpoint", "training run", "dataset"]
    assert found.steps[0].facts["quality"].startswith("passes: kid_efficientnet_lite0")
    assert found.steps[2].facts["why"] == "the first training"
    [checkpoint] = [
        made for made in trace(store, chain.run.id).made if made.name == chain.decision.candidate.checkpoint
    ]
    decided = [made.name for made in checkpoint.made if made.kind == "decision"]
    assert decided == [chain.decision.decision]
    assert trace(store, "sample:champion").steps[0].kind == "checkpoint"


def test_a_removal_leads_to_training_from_nothing(chain: Retrained, store: Store, cluster: str) -> None:
    """What is left of a version is trained on, with the reason on the run, and not with the champion's weights."""
    gone = chain.plan.dataset
    found = find(store, Asked(hash=(gone.images()[0]["photo_sha256"],), similar=False))
    forget(store, found, BuildOptions(store=store.root, scheduler=cluster), run_with(lambda _: None))
    left, options = open_dataset(store, "sample"), options_of(store)
    planned = plan(store, left, RetrainConfig(), None, options, None, "photographs were forgotten")
    assert planned.trains
    [held] = found.held
    assert planned.why == f"{held.photographs} withdrawn since; photographs were forgotten"
    assert planned.init_from is None
    assert gone.reference in planned.begins
    run = prepare_run(left.reference, planned.config, options, None, None, None, planned.why)
    assert trace(store, run.id).steps[0].facts["why"] == planned.why
    assert plan(store, left, RetrainConfig(), None, options).known == run, "who was killed is gone on with"


# ------------------------------------------------------------------------------------------------- the gate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Run, Run]:
    """A store with a trained run, and one whose weights are noise."""
    store = Store(tmp_path_factory.mktemp("gate"))
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(13))
    good, bad = tiny_run.trained(store, dataset), tiny_run.trained(store, dataset, seed=1)
    ruin(bad)
    return store, good, bad


def ruin(run: Run) -> None:
    """Make a run's newest weights such that it draws one colour, as a training that has collapsed."""
    path = run.newest_checkpoint() / "generator_ema.safetensors"
    with torch.no_grad():
        save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}, path)
    state = path.with_name("state.json")
    value: dict[str, Any] = json.loads(state.read_bytes())
    value["sha256"][path.name] = file_digest(path)
    state.write_text(json.dumps(value))


def test_a_worse_model_is_refused(gate: tuple[Store, Run, Run]) -> None:
    """A collapsed generator does not take the champion's place, and a better one takes a worse one's."""
    store, good, bad = gate
    first = judge(bad, bad.newest_checkpoint(), SCORECARD, CPU)
    assert settle(store, first), first.reasons
    better = judge(good, good.newest_checkpoint(), SCORECARD, CPU)
    put_decision(store, better)
    assert better.outcome == "promote", better.reasons
    assert settle(store, better)
    worse = judge(bad, bad.newest_checkpoint(), SCORECARD, CPU, withdrawn=1)
    put_decision(store, worse)
    assert worse.outcome == "refuse", worse.reasons
    assert {one.name for one in worse.criteria if one.verdict == "fails"} == {"quality", "licences"}
    assert not settle(store, worse)
    assert champion_of(store, "faces").run_id == good.id


def test_champions_are_kept_and_come_back(
    gate: tuple[Store, Run, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """gc keeps the versions of champions; a rollback checks the former one's files, and says who is champion."""
    store, good, bad = gate
    if alias_of(store, "faces").former is None:
        test_a_worse_model_is_refused(gate)
    assert find_garbage(store, keep=1, grace_s=0).versions == []
    status, out, _ = likeness(capsys, "rollback", "faces", "--store", store.root, "--dry-run")
    assert (status, out) == (0, f"faces: {good.id} would give way to {bad.id}\n")
    status, out, _ = likeness(capsys, "rollback", "faces", "--store", store.root, "--json")
    assert (status, json.loads(out)["champion"]["run_id"]) == (0, bad.id)
    status, _, err = likeness(capsys, "rollback", "faces", "--store", store.root)
    assert status == 1
    assert "no former champion" in err
    with pytest.raises(NotFoundError, match="no champion"):
        find_run(store, "others:champion")


def test_a_person_decides(gate: tuple[Store, Run, Run], capsys: pytest.CaptureFixture[str]) -> None:
    """Who waits is told with status 2 and how to answer; an answer is given once."""
    store, good, _ = gate
    decided = last_decision(store, "faces", good.id)
    assert decided is not None
    checkpoint = good.checkpoints()[0].name
    candidate = decided.candidate.model_copy(update={"checkpoint": checkpoint})
    fields = decided.model_dump(exclude={"decision", "name", "decided_at", "format"}, exclude_unset=True)
    waiting = new_decision("faces", **{**fields, "candidate": candidate, "outcome": "wait"})
    put_decision(store, waiting)
    found = last_decision(store, "faces", good.id, checkpoint)
    assert found is not None
    assert found.waits
    place = ("--checkpoint", checkpoint, "--store", store.root)
    status, out, _ = likeness(capsys, "promote", good.id, "--refuse", *place)
    assert (status, "was refused" in out) == (1, True)
    status, _, err = likeness(capsys, "promote", good.id, "--approve", *place)
    assert status == 1
    assert "waits for nobody" in err


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_quick_commands_load_no_torch(command: str, tmp_path: Path) -> None:
    """Going back must not wait for libraries that draw."""
    code = (
        "import sys; from flows.cli.main import main\n"
        f"try: main(['{command}', 'nobody', '--store', {str(tmp_path)!r}])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'prefect', 'mlflow', 'cv2', 'dask'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nobody" in done.stderr
