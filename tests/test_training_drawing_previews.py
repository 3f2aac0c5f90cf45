"""training.drawing.previews: a small picture is what the whole one looks like shrunk, and is drawn without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.drawing.figures import fixed_noise
from training.drawing.images import synthesized, w_from_seeds
from training.drawing.previews import Preview, features, fit_colours, shrunk
from training.drawing.trained import open_bundled
from training.networks import Generator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def generator() -> Generator:
    """The one in the box."""
    return open_bundled(CPU).style_generator("a test")


def off(one: Tensor, other: Tensor) -> float:
    """By how many grey levels images differ, as the root of the mean square."""
    return float((127.5 * (one.clamp(-1, 1) - other.clamp(-1, 1))).square().mean().sqrt())


@pytest.mark.parametrize(("size", "factor"), [(3, 2), (3, 8), (5, 2), (5, 4)])
def test_a_shrunk_kernel_is_exact_for_equal_pixels(size: int, factor: int) -> None:
    """On an image of equal blocks, a convolution and the blocks' means are one convolution of the small image."""
    rng = torch.Generator().manual_seed(0)
    small = torch.randn(1, 3, 6, 6, generator=rng, dtype=torch.double)
    kernel = torch.randn(2, 3, size, size, generator=rng, dtype=torch.double)
    large = F.conv2d(
        small.repeat_interleave(factor, 2).repeat_interleave(factor, 3), kernel, padding=size // 2
    )
    torch.testing.assert_close(
        F.conv2d(small, shrunk(kernel, factor), padding=1), F.avg_pool2d(large, factor)
    )


@pytest.mark.parametrize("level", [2, 3, 4])
def test_a_preview_is_like_the_shrunk_picture(generator: Generator, level: int) -> None:
    """Small pictures are many times nearer to whole ones than the stale toRGB of their level draws them; a toRGB that
    is fitted to others is nearer too.
    """
    preview, colours = Preview.of(generator, level), fit_colours(generator, level, 8, num=8)
    assert preview.side_px == colours.side_px == 4 << level
    for seed in (101, 102):
        w_1LD, noise = w_from_seeds(generator, [seed], 0.7), fixed_noise(generator, seed)
        with torch.no_grad():
            whole = F.adaptive_avg_pool2d(synthesized(generator, w_1LD, noise), 4 << level)
            x_NCHW = features(generator, w_1LD, noise, level)
            stale = generator.synthesis.to_rgb[level](x_NCHW)
            fitted = torch.einsum("nchw,cd->ndhw", x_NCHW, colours.weight_C3)
            fitted = fitted + colours.bias_3[:, None, None]
            drawn = preview.images(w_1LD, noise)
        assert off(drawn, whole) < 0.25 * off(stale, whole)
        assert off(fitted, whole) < 0.6 * off(stale, whole)


@pytest.mark.parametrize("lod", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("more", [{}, {"noise": False}, {"synthesis_input": "w"}, {"resampling": "nearest"}])
def test_at_the_highest_level_it_is_the_picture(more: dict[str, object], lod: float) -> None:
    """With no layer above, a small picture is the whole one; below, it is of its side, also while it grows."""
    torch.manual_seed(0)
    sizes = {"z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 128, "max_channels": 8}
    generator = Generator(32, **sizes, **more).requires_grad_(False)  # type: ignore[arg-type]
    generator.lod = lod
    top = 3 - int(lod)
    w_NLD = w_from_seeds(generator, [1, 2])
    noise = [layer.expand(2, -1, -1, -1) for layer in fixed_noise(generator, 3)]
    if lod in (0, 1):
        whole = generator.synthesis(w_NLD, noise, lod)
        torch.testing.assert_close(Preview.of(generator, top).images(w_NLD, noise), whole)
    for level in range(top):
        images = Preview.of(generator, level).images(w_NLD, noise)
        assert images.shape == (2, 3, 4 << level, 4 << level)
        assert bool(images.isfinite().all())
