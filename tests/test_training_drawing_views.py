"""training.drawing.views: an address says a picture, which is what the commands draw; its preview is like it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ConfigError
from training.config import TrainConfig
from training.drawing.directions import direction_of, moved
from training.drawing.figures import fixed_noise
from training.drawing.images import images_from_seeds, images_from_w, w_from_seeds
from training.drawing.trained import Trained, open_bundled
from training.drawing.views import Overtaken, Stage, View
from training.networks import Generator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stage() -> Stage:
    """The generator in the box."""
    return Stage(open_bundled(CPU))


moves = st.dictionaries(
    st.sampled_from(["sefa.all.0", "pca.fine.3"]), st.integers(-30, 30).map(lambda tenths: tenths / 10)
)
flat = st.builds(
    View,
    seed=st.integers(0, 2**63 - 1),
    psi=st.integers(-20, 20).map(lambda tenths: tenths / 10),
    cutoff=st.none() | st.integers(0, 18),
    moves=moves,
    noise=st.lists(st.integers(0, 30).map(lambda tenths: tenths / 10), max_size=12).map(tuple),
    noise_seeds=st.lists(st.none() | st.integers(0, 99), max_size=12).map(tuple),
)


@given(flat, st.none() | flat, st.integers(0, 18))
def test_an_address_says_a_view(view: View, mixed: View | None, boundary: int) -> None:
    """A view, written as a query and read again, is itself."""
    mixing = {} if mixed is None else {"mixed": mixed, "boundary": boundary}
    view = view.model_copy(update=mixing)
    assert View.of_query(view.query()) == view


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("seed=-1", "seed: Input should be greater than or equal to 0"),
        ("seed=a", "seed: Input should be a valid integer"),
        ("psi=9", "psi: Input should be less than or equal to 2"),
        ("noise=1,nan", "noise.1: Input should be a finite number"),
        ("with=seed%3D1%26with%3Dseed%253D2", "mixed of two, and the second of none"),
        ("move=sefa.all.0:99", "Input should be less than or equal to 10"),
    ],
)
def test_other_addresses_are_one_sentence(query: str, message: str) -> None:
    """What an address says that is no view is told by its field."""
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        View.of_query(query)


def test_a_view_is_what_generate_draws(stage: Stage) -> None:
    """Seed and psi alone are the picture of `likeness generate`, and renewed noise is that of another seed."""
    drawn = images_from_seeds(stage.generator, [7], 0.7, truncation_cutoff=stage.trained.cutoff)[0]
    assert np.abs(stage.picture(View(seed=7)).astype(int) - drawn.transpose(1, 2, 0)).max() <= 1
    w_1LD = w_from_seeds(stage.generator, [7], 0.7, stage.trained.cutoff)
    noise = [*fixed_noise(stage.generator, 7)[:2], fixed_noise(stage.generator, 9)[2] * 2]
    noise += fixed_noise(stage.generator, 7)[3:]
    other = images_from_w(stage.generator, w_1LD, noise)[0].transpose(1, 2, 0)
    view = View(seed=7, noise_seeds=(None, None, 9), noise=(1, 1, 2))
    assert np.abs(stage.picture(view).astype(int) - other).max() <= 1


def test_styles_are_moved_and_mixed(stage: Stage) -> None:
    """Below the boundary styles are the view's own, moved; from it on they are the other's."""
    view = View(seed=1, moves={"sefa.coarse.0": 1.5}, mixed=View(seed=2, psi=0.5), boundary=5)
    w_LD = stage.styles(view)
    own = w_from_seeds(stage.generator, [1], 0.7, stage.trained.cutoff)[0]
    own = moved(own, direction_of(stage.generator, "sefa.coarse.0"), [1.5])[0]
    assert torch.equal(w_LD[:5], own[:5])
    assert torch.equal(w_LD[5:], w_from_seeds(stage.generator, [2], 0.5, stage.trained.cutoff)[0, 5:])


def test_what_is_overtaken_is_given_up(stage: Stage) -> None:
    """A picture that is no longer wanted stops before the layer that comes next, and the stage draws on."""
    asked = []

    def is_overtaken() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Overtaken):
        stage.picture(View(seed=1), is_overtaken=is_overtaken)
    assert len(asked) == 4
    assert stage.picture(View(seed=1)).shape == (128, 128, 3)


@pytest.mark.parametrize(("noise", "lod"), [(False, 0.0), (True, 0.5), (True, 1.0)])
def test_other_generators_have_a_stage(noise: bool, lod: float) -> None:
    """Without noise, and while it grows, a generator is steered too, and its preview is smaller than its picture."""
    torch.manual_seed(0)
    generator = Generator(
        64, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, max_channels=8, noise=noise
    )
    generator.lod = lod
    config = TrainConfig(resolution=64, noise=noise)
    stage = Stage(Trained(generator.requires_grad_(False), config, {}), preview_seconds=1e-9)
    view = View(seed=1, moves={"sefa.all.0": 1.0}, noise=(0.5,), noise_seeds=(None, 3))
    assert stage.picture(view).shape == (64, 64, 3)
    assert stage.picture(view, preview=True).shape == (16, 16, 3)


def test_the_newest_picture_is_not_drawn_twice(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who saves what he looks at does not wait for it again; another picture is drawn."""
    shown = stage.picture(View(seed=21))
    drawn = []
    monkeypatch.setattr(stage, "drawn", lambda *_, **__: drawn.append(1) or shown)
    assert stage.picture(View(seed=21)) is shown
    assert drawn == []
    stage.picture(View(seed=22))
    assert drawn == [1]
