"""A batch in several passes: less memory, and the same training to rounding."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import tiny_run
from storage.errors import TrainingError
from storage.store import Store
from training.config import TrainConfig
from training.engine.ranks import Ranks
from training.engine.state import Training, num_passes
from training.loop import train
from training.process import images_of
from training.schedule import Stage, stage_at
from training.tracking import Tracker

TINY: dict[str, Any] = {
    "resolution": 8, "channel_base": 64, "max_channels": 8, "z_dim": 8, "w_dim": 8, "mapping_layers": 2,
    "batch_size": 16, "device": "cpu",
}  # fmt: skip


def stepped(num: int, given: dict[str, Any]) -> tuple[Training, list[int]]:
    """A training after so many steps, and how many images each evaluation of a phase was of."""
    config = TrainConfig.model_validate({**TINY, **given})
    training = Training.begin(config, torch.device("cpu"))
    seen: list[int] = []
    for name, function in training.gradients.items():
        training.gradients[name] = Counted(function, seen)  # type: ignore[assignment]
    rng = torch.Generator().manual_seed(0)
    for _ in range(num):
        stage = stage_at(config, training.num_images)
        training.enter(stage)
        training.step(stage, torch.randint(256, (16, 3, 8, 8), dtype=torch.uint8, generator=rng))
    return training, seen


class Counted:
    """A gradient function that notes how many latents it was given."""

    def __init__(self, function: Any, seen: list[int]) -> None:
        self.function, self.seen = function, seen

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """What the function gives."""
        self.seen.append(next(x.shape[1] for x in inputs if x.dim() == 3))
        return self.function(*inputs)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"augment": "ada", "augment_p": 0.5, "w_avg_updates": "both"},
        {"generator": "traditional"},
        {"loss": "wgan_gp", "r1_gamma": 0},
        {"loss": "r3", "r1_interval": 2},
    ],
    ids=["logistic", "ada", "traditional", "wgan_gp", "r3"],
)
@pytest.mark.parametrize(("limit", "at_once"), [(4, 4), (8, 8), (12, 8), (16, 16), (64, 16)])
def test_a_batch_in_passes_trains_as_the_whole(given: dict[str, Any], limit: int, at_once: int) -> None:
    """After two steps losses, weights, averages and the mean of w are those of whole batches, to rounding."""
    whole, _ = stepped(2, given)
    parts, seen = stepped(2, {**given, "images_per_pass": limit})
    assert set(seen) == {at_once}
    assert len(seen) == 2 * 2 * 16 // at_once
    expected = whole.tally.means()
    assert parts.tally.means() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for name, network in whole.networks.items():
        found, expected_weights = (
            torch.cat([tensor.flatten() for tensor in now.state_dict().values()])
            for now in (parts.networks[name], network)
        )
        # Adam's first steps move a weight by the whole rate, whichever way a gradient that is nearly zero points.
        share = ((found - expected_weights).abs() > 1e-4).float().mean()
        assert share < 0.02, f"{name}: {share:.1%} of the weights differ"


def test_path_lengths_in_passes_are_near() -> None:
    """Only the mean that a pass is compared with has moved towards its own images alone."""
    given = {"path_length_weight": 2.0, "path_length_interval": 1}
    whole, _ = stepped(1, given)
    parts, seen = stepped(1, {**given, "images_per_pass": 4})
    assert sorted(seen) == [4] * 10
    found, expected = parts.tally.means(), whole.tally.means()
    assert found["path_length"] == pytest.approx(expected["path_length"], rel=1e-4)
    assert found["path_penalty"] == pytest.approx(expected["path_penalty"], rel=0.03)


@pytest.mark.parametrize("world", [1, 2])
def test_passes_keep_groups_whole(world: int) -> None:
    """Whatever the ranks and passes, each image is shown once, and beside those that it is compared with."""
    batch = torch.arange(48)
    groups = {tuple(range(first, 48, 12)) for first in range(12)}
    shown = []
    for rank in range(world):
        training = Training.begin(
            TrainConfig.model_validate({**TINY, "batch_size": 48, "images_per_pass": 8}),
            torch.device("cpu"),
            Ranks(rank, world),
        )
        own = training.ranks.own(batch)
        for of in training._shares(Stage(0.0, 8, 48, 0.001), len(own), compared=True):
            part = of(own, 0)
            assert len(part) == 8
            shown += [tuple(column) for column in part.reshape(4, -1).T.tolist()]
    assert set(shown) == groups
    assert len(shown) == len(groups)


def test_passes_are_as_few_as_can_be() -> None:
    """Each pass is of as many images and none above the limit; where groups count, of whole ones."""
    for num in (4, 8, 12, 20, 32, 44):
        for limit in range(4, num + 1, 4):
            passes = num_passes(num, limit, compared=True)
            assert num % passes == 0
            assert num // passes <= limit
            assert num // passes % 4 == 0
            assert all(num % (4 * fewer) for fewer in range(math.ceil(num / limit), passes))
    assert num_passes(3, 4, compared=True) == 1
    assert num_passes(6, 4, compared=False) == 2


def test_passes_go_by_the_resolution() -> None:
    """An entry holds from its resolution on; below the first, and without any, a batch is whole."""
    for limits, expected in (({"16": 4}, [16, 4, 4]), ({}, [16, 16, 16]), (8, [8, 8, 8])):
        config = TrainConfig.model_validate({**TINY, "resolution": 32, "images_per_pass": limits})
        training = Training.begin(config, torch.device("cpu"))
        stages = [Stage(0.0, side, 16, 0.001) for side in (8, 16, 32)]
        assert [training.images_at_once(stage) for stage in stages] == expected
    with pytest.raises(ValueError, match="multiple of 4"):
        TrainConfig.model_validate({**TINY, "images_per_pass": 6})


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (
            64,
            r"8 images of 8 px at once need more memory than cpu has free: --images-per-pass\.8 4 takes less",
        ),
        (4, "4 images of 8 px at once .*: fewer are not possible: choose a lower resolution or channel_base"),
    ],
)
def test_a_gpu_without_room_is_one_line(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, limit: int, said: str
) -> None:
    """What torch says where memory has run out, which a CPU cannot show, becomes a line with what to set."""
    store = Store(tmp_path)
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(8))
    run = tiny_run.untrained(store, dataset, images_per_pass=limit)
    config = TrainConfig.model_validate(run.record.config)

    def full(*inputs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("training.engine.gradients.GradientFunction.__call__", full)
    with pytest.raises(TrainingError, match=said):
        train(run, config, images_of(run, config), torch.device("cpu"), Tracker())


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # compilers warn of what they like
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_passes_need_less_of_a_gpu() -> None:
    """A batch in eight passes peaks at less than half of the memory that it takes whole.

    Networks and images are those of 256 px: of small ones, what convolutions work in outweighs the images.
    """
    peaks = []
    for limit in (32, 4):
        given = {"resolution": 256, "start_resolution": 256, "batch_size": 32, "images_per_pass": limit}
        config = TrainConfig.model_validate(
            {"preset": "paper256", "compile": False, "device": "cuda", **given}
        )
        device = torch.device("cuda")
        training = Training.begin(config, device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        stage = stage_at(config, 0)
        training.enter(stage)
        training.step(stage, torch.zeros(32, 3, 256, 256, dtype=torch.uint8, device=device))
        training.check_health()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del training
        torch.cuda.empty_cache()
    assert peaks[1] < peaks[0] / 2, peaks
