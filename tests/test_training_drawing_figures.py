"""training.drawing.figures and training.video: the paper's figures of styles and noise, and walks through w."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from storage.errors import ConfigError
from storage.lineage.origin import read_provenance
from training.drawing.figures import (
    LAYERS,
    busiest_square,
    enlarged,
    fixed_noise,
    layer_range,
    mixing_figure,
    mixing_layers,
    mixing_rows,
    noise_cases,
    noise_deviation,
    noise_figure,
    tiled,
    truncation_figure,
)
from training.drawing.images import images_from_seeds, w_from_seeds
from training.drawing.video import closed_loop, frames, write_video
from training.networks import Generator


@pytest.fixture
def generator() -> Generator:
    """A generator of 16 px whose styles, noise and mean w matter."""
    torch.manual_seed(0)
    generator = Generator(16, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, max_channels=16)
    with torch.no_grad():
        generator.w_avg.copy_(generator.mapping(torch.randn(500, 8)).mean(dim=0))
        for layer in generator.synthesis.layers:
            layer.noise_strength.fill_(0.3)
    return generator.requires_grad_(False)


def largest_step(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference of two pictures, in levels."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_psi_1_is_the_plain_image(generator: Generator) -> None:
    """The column of psi 1 shows what generate draws without truncation, that of psi 0.5 with it on all layers."""
    seeds = range(4)
    figure = truncation_figure(generator, seeds, [1, 0.5])
    assert figure.shape == (4, 2, 3, 16, 16)
    assert largest_step(figure[:, 0], images_from_seeds(generator, seeds, 1)) <= 1
    assert largest_step(figure[:, 1], images_from_seeds(generator, seeds, 0.5, truncation_cutoff=18)) <= 1


def test_truncation_is_of_all_layers_where_none_are_named() -> None:
    """At psi 0 a generator of more layers than training truncates draws one image too."""
    generator = Generator(128, z_dim=8, w_dim=8, mapping_layers=2, channel_base=128, max_channels=4)
    figure = truncation_figure(generator.requires_grad_(False), [0, 1], [0.0], noise_seed=0)
    assert largest_step(figure[0], figure[1]) <= 1
    figure = truncation_figure(generator, [0, 1], [0.0], noise_seed=0, cutoff=8)
    assert largest_step(figure[0], figure[1]) > 1


def test_psi_0_is_one_image(generator: Generator) -> None:
    """At psi 0 every seed draws the mean image, where all have the same noise."""
    same, own = (truncation_figure(generator, range(4), [0], noise_seed=seed)[:, 0] for seed in (7, None))
    assert max(largest_step(image, same[0]) for image in same) <= 1
    assert largest_step(own[0], own[1]) > 1  # their noise


@pytest.mark.parametrize("num_layers", [2, 4, 6, 8, 10, 18])
def test_names_of_layers_partition_them(num_layers: int) -> None:
    """Coarse, middle and fine are all layers, each once, in order: 4 px have two, 1024 px eighteen."""
    named = [index for name in LAYERS for index in layer_range(name, num_layers)]
    assert named == list(range(num_layers))
    assert layer_range("fine", 18) == range(8, 18)


def test_mixing_all_or_no_layers_gives_the_sources(generator: Generator) -> None:
    """With all layers of B a mixed image is B, with none it is A, and the middle layers give neither."""
    a, b, mixed = mixing_figure(generator, [0, 1], [2, 3, 4], [range(6), range(0), "middle"])
    assert mixed.shape == (3, 2, 3, 3, 16, 16)
    for row in range(2):
        for column in range(3):
            assert largest_step(mixed[0, row, column], b[column]) <= 1
            assert largest_step(mixed[1, row, column], a[row]) <= 1
            assert min(largest_step(mixed[2, row, column], one) for one in (a[row], b[column])) > 1


def test_mixing_is_on_the_named_layers(generator: Generator) -> None:
    """Coarse layers are the first four: mixed by hand, they give the same picture."""
    *_, mixed = mixing_figure(generator, [0], [1], ["coarse"], psi=0.7)
    w = w_from_seeds(generator, [0], 0.7)
    w[:, :4] = w_from_seeds(generator, [1], 0.7)[:, :4]
    by_hand = generator.synthesis(w, fixed_noise(generator, 0))
    assert np.abs(mixed[0, 0, 0] - ((by_hand[0] + 1) * 127.5).clamp(0, 255).numpy()).max() <= 1


def test_layers_that_are_not_there_are_refused(generator: Generator) -> None:
    """A small generator has no fine layers; all of those it has are drawn."""
    assert mixing_layers(generator, "all") == ["coarse", "middle"]
    with pytest.raises(ConfigError, match="64 px and above, and this generator ends at 16 px: choose coarse"):
        mixing_layers(generator, "fine")


def test_layout_of_mixing(generator: Generator) -> None:
    """Sources B stand along the top, sources A down the left, once a block; the corner is white."""
    a, b, mixed = mixing_figure(generator, [0, 1], [2], ["coarse", "middle"])
    picture = tiled(mixing_rows(a, b, mixed), gap_px=2)
    assert picture.shape == (5 * 18 - 2, 2 * 18 - 2, 3)
    assert (picture[:16, :16] == 255).all()
    assert (picture[:16, 18:] == b[0].transpose(1, 2, 0)).all()
    assert (picture[3 * 18 : 3 * 18 + 16, :16] == a[0].transpose(1, 2, 0)).all()
    assert (picture[4 * 18 :, 18:] == mixed[1, 1, 0].transpose(1, 2, 0)).all()


def test_deviation_is_0_without_noise(generator: Generator) -> None:
    """Where noise has no strength, its realisations do not differ; where it has, they do."""
    w = w_from_seeds(generator, [0])
    strong = noise_deviation(generator, w, 12, 0)
    for layer in generator.synthesis.layers:
        layer.noise_strength.zero_()
    weak = noise_deviation(generator, w, 12, 0)
    assert weak.max() < 1e-3 < strong.min(), (weak.max(), strong.min())


def test_deviation_is_the_definition(generator: Generator) -> None:
    """The map is the standard deviation of float images over colours and realisations."""
    w = w_from_seeds(generator, [0])
    rng = torch.Generator().manual_seed(5)
    rows = [generator.draw_noise(1, rng) for _ in range(10)]
    images = torch.cat([generator.synthesis(w, row) for row in rows]).numpy() * 127.5
    expected = np.sqrt(images.var(axis=0).mean(axis=0))
    assert np.abs(noise_deviation(generator, w, 10, 5) - expected).max() < 1e-2


def test_noise_figure(generator: Generator) -> None:
    """The image is the seed's; cases differ; on a generator of no fine layers "coarse" is all and "fine" is none."""
    drawn = noise_figure(generator, 3, num_crops=3, num_realisations=9)
    everywhere, nowhere, fine, coarse = drawn.cases
    assert largest_step(drawn.image, images_from_seeds(generator, [3], 1)[0]) <= 1
    assert largest_step(drawn.image, everywhere) <= 1
    assert largest_step(everywhere, nowhere) > 1
    assert (fine == nowhere).all()
    assert (coarse == everywhere).all()
    assert drawn.map.max() == 255
    assert [len(row) for row in drawn.rows()] == [5, 4, 4]
    assert tiled(drawn.rows()).shape == (3 * 18 - 2, 5 * 18 - 2, 3)


def test_noise_cases_part_at_64_px() -> None:
    """Of 18 layers the first eight are coarse; each layer keeps its noise or has zeros."""
    noise = [torch.ones(1, 1, 2, 2) for _ in range(18)]
    kept = [[bool(layer.any()) for layer in case] for case in noise_cases(noise)]
    assert kept == [[True] * 18, [False] * 18, [False] * 8 + [True] * 10, [True] * 8 + [False] * 10]


def test_the_busiest_square_is_found_and_enlarged() -> None:
    """The square whose values sum to the most, each of its pixels repeated."""
    values = np.zeros((16, 16), np.float32)
    values[9:12, 3:7] = 1
    top, left, side = busiest_square(values, 4)
    assert (side, left) == (4, 3)
    assert 8 <= top <= 9
    image = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    large = enlarged(image, (9, 3, 4))
    assert large.shape == image.shape
    assert (large[0, 0, ::4, ::4] == image[0, 0, 9:13, 3:7]).all()
    assert (large[..., ::4, :] == large[..., 3::4, :]).all()


def test_the_loop_is_closed_and_smooth() -> None:
    """It passes each key frame, its end leads to its start, and no step stands out."""
    keys = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    walk = closed_loop(keys, 200)
    assert walk.shape == (200, 2, 3)
    assert torch.allclose(walk[::40], keys, atol=1e-5)
    turn = torch.cat([walk, walk[:2]])
    steps = (turn[1:] - turn[:-1]).flatten(1)
    bends = (steps[1:] - steps[:-1]).norm(dim=1)
    assert bends.max() < 0.1 * steps.norm(dim=1).max(), (bends.max(), steps.norm(dim=1).max())


def test_video_round_trip(generator: Generator, tmp_path: Path) -> None:
    """The file holds every frame at an even, visible size, near what was drawn; the same frames are the same bytes."""
    import av

    w = closed_loop(w_from_seeds(generator, [0, 1, 2]), 12)
    drawn = list(frames(generator, w, fixed_noise(generator, 0)))
    for name in ("a.mp4", "b.mp4"):
        carried = write_video(iter(drawn), tmp_path / "new" / name, 12, {"run_id": "run"})
        assert carried["frames"] == 12
    path = tmp_path / "new" / "a.mp4"
    assert path.read_bytes() == (tmp_path / "new" / "b.mp4").read_bytes()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 12)
        assert container.metadata["comment"] == '{"run_id": "run"}'
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(shown) == 12
    assert shown[0].shape == drawn[0].shape == (256, 256, 3)
    error = max(float(np.abs(a.astype(int) - b).mean()) for a, b in zip(shown, drawn, strict=True))
    assert error < 8, error
    assert read_provenance(path) == carried
