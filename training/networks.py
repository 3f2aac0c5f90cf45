"""The generator and discriminator of the style-based GAN (Karras, Laine, Aila 2019), and the traditional
generator it is compared with; between the two, the configurations of the paper's table 1.

The networks are pure functions of their inputs: latents and noise come in as arguments. Two things are set on them:
`lod`, the level of detail of progressive growing, and `dtype`, the type that features are computed and stored in;
images, styles, statistics and logits stay in the weights' type. No loss, no optimizer and no file is here.

Suffixes: N images, Z and D entries of z and w, L layers, C channels, H height, W width.
Levels count resolutions from 0 at 4x4; two layers a level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.ops import (
    GAIN_LRELU,
    EqualConv2d,
    EqualLinear,
    FromColours,
    ToColours,
    activated,
    append_batch_deviation,
    blur,
    downsample,
    lrelu,
    pixel_norm,
    styled,
    upsample,
)

Resampling = Literal["bilinear", "nearest"]
"""Nearest upscaling and averaging down with the binomial filter, or without it as Progressive GAN has them."""
SynthesisInput = Literal["const", "w", "latent"]
"""What the style-based generator draws on: a learned constant, or w or z through a layer."""


def level_of(resolution: int) -> int:
    """The level of a resolution: 0 for 4 pixels, 1 for 8, and so on."""
    return int(math.log2(resolution)) - 2


def level_and_fade(resolution: int, lod: float) -> tuple[int, float]:
    """The highest level at `lod`, and how much of the level below still shows (0 to 1)."""
    whole = math.floor(lod)
    return level_of(resolution) - whole, lod - whole


def one_hot(label_N: Tensor, num: int, dtype: torch.dtype) -> Tensor:
    """1 at each label's place (N, num) and 0 elsewhere; PyTorch's own looks at values, which a recorded step cannot."""
    return (label_N[:, None] == torch.arange(num, device=label_N.device)).to(dtype)


def blend(high: Tensor, low: Tensor, fade: Tensor | float) -> Tensor:
    """`high` where `fade` is 0, `low` where it is 1."""
    return high + (low - high) * fade


def resampling_filter(resampling: Resampling) -> Callable[[Tensor], Tensor]:
    """What features pass after upscaling and before downscaling, at the higher resolution."""
    return blur if resampling == "bilinear" else _unfiltered


def _unfiltered(x_NCHW: Tensor) -> Tensor:
    return x_NCHW


def channels_at(level: int, channel_base: int, max_channels: int) -> int:
    """Feature channels at a level: halved with each doubling of resolution, up to a limit."""
    return max(1, min(channel_base >> (level + 1), max_channels))


# --------------------------------------------------------------------------------------------------------------
# Style-based generator (fig. 1b)


class MappingNetwork(nn.Module):
    """f: Z to W, fully connected layers on the normalised z (section 2), trained 100 times slower (App. C).

    Of images with labels, a learned code of the label's as wide as z stands beside it before it is normalised.
    """

    label: int | None = None
    """Whose images are drawn where no labels are given."""

    def __init__(self, z_dim: int, w_dim: int, num_layers: int, num_labels: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(num_labels, z_dim)) if num_labels else None
        widths = [z_dim * (2 if num_labels else 1)] + [w_dim] * num_layers
        self.layers = nn.ModuleList(
            EqualLinear(widths[i], widths[i + 1], lr_multiplier=0.01) for i in range(num_layers)
        )

    def forward(self, z_NZ: Tensor, label_N: Tensor | None = None) -> Tensor:
        """(N, z_dim) to (N, w_dim)."""
        x = z_NZ
        if self.embedding is not None:
            assert label_N is not None or self.label is not None, "these networks need labels"
            if label_N is None:
                label_N = torch.full(z_NZ.shape[:1], self.label or 0, device=z_NZ.device)
            code_NZ = one_hot(label_N, len(self.embedding), x.dtype) @ self.embedding.to(x.dtype)
            x = torch.cat([x, code_NZ], dim=1)
        x = pixel_norm(x)
        for layer in self.layers:
            x = lrelu(layer(x))
        return x


class StyledLayer(nn.Module):
    """A convolution (none on the input), then noise unless it is switched off, bias, leaky ReLU and AdaIN."""

    def __init__(
        self, conv: EqualConv2d | None, channels: int, w_dim: int, resampling: Resampling, noise: bool
    ) -> None:
        super().__init__()
        self.conv = conv
        self.filters = conv is not None and conv.resample == "up" and resampling == "bilinear"
        self.noise_strength = nn.Parameter(torch.zeros(channels)) if noise else None
        self.bias = nn.Parameter(torch.zeros(channels))
        self.style = EqualLinear(w_dim, 2 * channels, gain=1.0)  # A in fig. 1b

    def forward(
        self, x_NCHW: Tensor, w_ND: Tensor, noise_N1HW: Tensor | None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """One layer, its output in `dtype` if not in the input's; it has 2H where the convolution upsamples."""
        x = x_NCHW if self.conv is None else self.conv(x_NCHW)
        noise = None if self.noise_strength is None else noise_N1HW  # B in fig. 1b
        scale, shift = self.style(w_ND).chunk(2, dim=1)  # styles start near 1
        y = styled(x, noise, self.noise_strength, self.bias, scale + 1, shift, filters=self.filters)
        return y.to(dtype or x.dtype)


class SynthesisNetwork(nn.Module):
    """g: styles and noise to an image, from a learned constant (section 2).

    Before the constant (config C of table 1) it begins with the traditional generator's input layer, which is fed
    with the first layer's w, or with the normalised z; its bias is the first layer's.
    """

    def __init__(
        self,
        resolution: int,
        z_dim: int,
        w_dim: int,
        channel_base: int,
        max_channels: int,
        resampling: Resampling,
        synthesis_input: SynthesisInput,
        input_gain: float,
        noise: bool,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.dtype: torch.dtype | None = None
        widths = [channels_at(i, channel_base, max_channels) for i in range(level_of(resolution) + 1)]
        self.const = nn.Parameter(torch.ones(1, widths[0], 4, 4)) if synthesis_input == "const" else None
        self.input = None
        self.input_is_w = synthesis_input == "w"
        if synthesis_input != "const":
            width = w_dim if self.input_is_w else z_dim
            self.input = EqualLinear(width, widths[0] * 16, gain=input_gain, bias=False)
        self.layers = nn.ModuleList()
        for level, width in enumerate(widths):
            first = None
            if level > 0:
                first = EqualConv2d(widths[level - 1], width, 3, bias=False, resample="up")
            second = EqualConv2d(width, width, 3, bias=False)
            self.layers.extend(StyledLayer(conv, width, w_dim, resampling, noise) for conv in (first, second))
        self.to_rgb = nn.ModuleList(ToColours(width) for width in widths)

    @property
    def num_layers(self) -> int:
        """Layers with a style: 18 at 1024."""
        return len(self.layers)

    def forward(
        self,
        w_NLD: Tensor,
        noise: Sequence[Tensor],
        lod: float = 0.0,
        fade: Tensor | None = None,
        z_NZ: Tensor | None = None,
    ) -> Tensor:
        """Images (N, 3, R, R) in about [-1, 1], at the resolution R of `lod`.

        `noise` holds one (N, 1, H, W) tensor a layer, as many as `lod` needs or more; none where noise is off. `fade`
        stands for the fraction of `lod` where that must not be a constant, as in a compiled step. `z_NZ` is needed
        where the input is the latent, and not used elsewhere.
        """
        level, fraction = level_and_fade(self.resolution, lod)
        full = w_NLD.dtype
        if self.const is not None:
            # As it is: near 1, where it starts, bfloat16 has steps of 1/128, and instance norm enlarges differences.
            x = self.const.expand(w_NLD.shape[0], -1, -1, -1)
        else:
            assert self.input is not None
            assert self.input_is_w or z_NZ is not None, "this network begins with z: it needs z_NZ beside w"
            code = pixel_norm(z_NZ) if z_NZ is not None and not self.input_is_w else w_NLD[:, 0]
            x = self.input(code).unflatten(1, (-1, 4, 4))
        previous = x
        for index, layer in enumerate(self.layers[: 2 * level + 2]):
            if index % 2 == 0:
                previous = x
            x = layer(x, w_NLD[:, index], noise[index] if noise else None, self.dtype or full)
        image = self.to_rgb[level](x).to(full)
        if fraction > 0:
            low = upsample(self.to_rgb[level - 1](previous).to(full))
            image = blend(image, low, fraction if fade is None else fade)
        return image  # type: ignore[no-any-return]


class Generator(nn.Module):
    """The style-based generator: mapping and synthesis, style mixing, truncation.

    By default it is that of configs E and F of table 1; `noise` off makes it D's, and `synthesis_input` "w" with it
    C's. Truncation and mixing act on w: an input of "latent", z itself, has the first code, untruncated.
    """

    w_avg: Tensor

    def __init__(
        self,
        resolution: int,
        *,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 8192,
        max_channels: int = 512,
        resampling: Resampling = "bilinear",
        synthesis_input: SynthesisInput = "const",
        input_gain: float = GAIN_LRELU,
        noise: bool = True,
        num_labels: int = 0,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.z_dim = z_dim
        self.lod = 0.0
        self.has_noise = noise
        self.num_labels = num_labels
        self.mapping = MappingNetwork(z_dim, w_dim, mapping_layers, num_labels)
        self.synthesis = SynthesisNetwork(
            resolution,
            z_dim,
            w_dim,
            channel_base,
            max_channels,
            resampling,
            synthesis_input,
            input_gain,
            noise,
        )
        self.register_buffer("w_avg", torch.zeros(w_dim))

    @property
    def num_layers_in_use(self) -> int:
        """Layers that draw an image at the present level of detail."""
        return 2 * level_and_fade(self.resolution, self.lod)[0] + 2

    def draw_noise(self, num: int, rng: torch.Generator) -> list[Tensor]:
        """Fresh noise for `num` images: one (num, 1, H, W) a layer in use, or none where noise is off."""
        if not self.has_noise:
            return []
        sides = [4 << (index // 2) for index in range(self.num_layers_in_use)]
        return [torch.randn(num, 1, side, side, generator=rng, device=rng.device) for side in sides]

    def broadcast(self, w_ND: Tensor) -> Tensor:
        """The same w for every layer: (N, D) to (N, L, D)."""
        return w_ND[:, None].expand(-1, self.synthesis.num_layers, -1)

    def truncate(self, w_NLD: Tensor, psi: float, cutoff: int = 8) -> Tensor:
        """Pull the first `cutoff` layers' w towards its mean (Appendix B); psi 1 changes nothing."""
        truncated = torch.lerp(self.w_avg.expand_as(w_NLD), w_NLD, psi)
        index_L = torch.arange(w_NLD.shape[1], device=w_NLD.device)
        return torch.where((index_L < cutoff)[None, :, None], truncated, w_NLD)

    def mix(self, w1_NLD: Tensor, w2_NLD: Tensor, crossover_N: Tensor) -> Tensor:
        """Style mixing (section 3.1): image n takes w1 below layer `crossover_N[n]`, w2 from there on."""
        index_L = torch.arange(w1_NLD.shape[1], device=w1_NLD.device)
        return torch.where((index_L[None] < crossover_N[:, None])[..., None], w1_NLD, w2_NLD)

    @torch.no_grad()
    def update_w_avg(self, w_D: Tensor, beta: float) -> None:
        """Move the running mean of w towards a batch's mean (D,)."""
        assert w_D.shape == self.w_avg.shape, w_D.shape
        self.w_avg.lerp_(w_D, 1 - beta)

    def forward(
        self,
        z_NZ: Tensor,
        noise: Sequence[Tensor],
        *,
        psi: float = 1.0,
        cutoff: int = 8,
        label_N: Tensor | None = None,
    ) -> Tensor:
        """Images (N, 3, R, R) from latents and noise, truncated at `psi`, of labels or of the label that is set."""
        w_NLD = self.truncate(self.broadcast(self.mapping(z_NZ, label_N)), psi, cutoff)
        return self.synthesis(w_NLD, noise, self.lod, z_NZ=z_NZ)  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------------------
# Traditional generator (fig. 1a)


class TraditionalGenerator(nn.Module):
    """The generator of Progressive GAN (config A of table 1), by default with this paper's bilinear upsampling (B).

    z enters at the input layer; each convolution is followed by leaky ReLU and pixel norm. It has no mapping,
    no noise and so neither style mixing nor truncation, and takes no labels.
    """

    num_labels = 0

    def __init__(
        self,
        resolution: int,
        *,
        z_dim: int = 512,
        channel_base: int = 8192,
        max_channels: int = 512,
        resampling: Resampling = "bilinear",
        input_gain: float = GAIN_LRELU,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.z_dim = z_dim
        self.lod = 0.0
        self.dtype: torch.dtype | None = None
        self.filtered = resampling_filter(resampling)
        widths = [channels_at(i, channel_base, max_channels) for i in range(level_of(resolution) + 1)]
        self.input = EqualLinear(z_dim, widths[0] * 16, gain=input_gain, bias=False)
        self.input_bias = nn.Parameter(torch.zeros(widths[0]))
        self.layers = nn.ModuleList([EqualConv2d(widths[0], widths[0], 3)])
        for width, narrow in pairwise(widths):
            self.layers.append(EqualConv2d(width, narrow, 3, bias=False, resample="up"))
            self.layers.append(EqualConv2d(narrow, narrow, 3))
        self.up_biases = nn.ParameterList(torch.zeros(width) for width in widths[1:])
        self.to_rgb = nn.ModuleList(ToColours(width) for width in widths)

    def draw_noise(self, num: int, rng: torch.Generator) -> list[Tensor]:
        """None: this generator takes no noise."""
        return []

    def forward(self, z_NZ: Tensor, noise: Sequence[Tensor] = (), fade: Tensor | None = None) -> Tensor:
        """Images (N, 3, R, R) from latents; `noise` is not used, `fade` stands for the fraction of lod."""
        level, fraction = level_and_fade(self.resolution, self.lod)
        full = self.input_bias.dtype
        x = self.input(pixel_norm(z_NZ)).unflatten(1, (-1, 4, 4)) + self.input_bias[:, None, None]
        x = pixel_norm(lrelu(x.to(self.dtype or full)))
        x = pixel_norm(lrelu(self.layers[0](x)))
        previous = x
        for index in range(level):
            previous = x
            # The bias follows the blur: before it, the zero padding would darken the border.
            y = self.filtered(self.layers[2 * index + 1](x)) + self.up_biases[index][:, None, None]
            x = pixel_norm(lrelu(y.to(x.dtype)))
            x = pixel_norm(lrelu(self.layers[2 * index + 2](x)))
        image = self.to_rgb[level](x).to(full)
        if fraction > 0:
            low = upsample(self.to_rgb[level - 1](previous).to(full))
            image = blend(image, low, fraction if fade is None else fade)
        return image  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------------------
# Discriminator (Progressive GAN, table 2; by default with blur before downsampling)


class DiscriminatorBlock(nn.Module):
    """Two convolutions that halve the resolution."""

    def __init__(self, in_channels: int, out_channels: int, resampling: Resampling) -> None:
        super().__init__()
        self.filters = resampling == "bilinear"
        self.conv = EqualConv2d(in_channels, in_channels, 3)
        self.down = EqualConv2d(in_channels, out_channels, 3, resample="down")

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H/2, W/2)."""
        assert self.conv.bias is not None
        assert self.down.bias is not None
        x = activated(self.conv.without_bias(x_NCHW), self.conv.bias, filters=self.filters)
        return activated(self.down.without_bias(x), self.down.bias, filters=False)


class Discriminator(nn.Module):
    """Images to realness logits; of images with labels, a logit a label, of which the image's own counts."""

    def __init__(
        self,
        resolution: int,
        *,
        channel_base: int = 8192,
        max_channels: int = 512,
        resampling: Resampling = "bilinear",
        num_labels: int = 0,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.num_labels = num_labels
        self.lod = 0.0
        self.dtype: torch.dtype | None = None
        widths = [channels_at(i, channel_base, max_channels) for i in range(level_of(resolution) + 1)]
        self.from_rgb = nn.ModuleList(FromColours(width) for width in widths)
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(wide, narrow, resampling) for narrow, wide in pairwise(widths)
        )
        self.conv = EqualConv2d(widths[0] + 1, widths[0], 3)
        self.dense = EqualLinear(widths[0] * 16, widths[0])
        self.out = EqualLinear(widths[0], max(num_labels, 1), gain=1.0)

    def forward(self, x_N3HW: Tensor, fade: Tensor | None = None, label_N: Tensor | None = None) -> Tensor:
        """(N, 3, R, R) at the resolution R of `lod` to logits (N,); `fade` stands for the fraction of lod."""
        level, fraction = level_and_fade(self.resolution, self.lod)
        dtype = self.dtype or x_N3HW.dtype
        x = self.from_rgb[level](x_N3HW.to(dtype))
        for index in range(level, 0, -1):
            x = self.blocks[index - 1](x)
            if index == level and fraction > 0:
                low = self.from_rgb[level - 1](downsample(x_N3HW).to(dtype))
                x = blend(x, low, fraction if fade is None else fade)
        x = lrelu(self.conv(append_batch_deviation(x)))
        x = lrelu(self.dense(x.flatten(1)))
        logits = self.out(x.to(self.out.weight.dtype))
        if self.num_labels:
            assert label_N is not None, "this network needs labels"
            own_NL = one_hot(label_N, self.num_labels, logits.dtype)
            return (logits * own_NL).sum(dim=1)  # type: ignore[no-any-return]
        return logits.squeeze(1)  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------------------
# From a config


def build_generator(config: TrainConfig) -> Generator | TraditionalGenerator:
    """The generator `config` describes, with fresh weights from torch's global random state."""
    if config.generator == "traditional":
        return TraditionalGenerator(
            config.resolution, z_dim=config.z_dim, input_gain=config.input_gain, **_shared(config)
        )
    return Generator(
        config.resolution,
        z_dim=config.z_dim,
        w_dim=config.w_dim,
        mapping_layers=config.mapping_layers,
        synthesis_input=config.synthesis_input,
        input_gain=config.input_gain,
        noise=config.noise,
        num_labels=len(config.label_values),
        **_shared(config),
    )


def build_discriminator(config: TrainConfig) -> Discriminator:
    """The discriminator `config` describes, with fresh weights from torch's global random state."""
    return Discriminator(config.resolution, num_labels=len(config.label_values), **_shared(config))


def _shared(config: TrainConfig) -> dict[str, Any]:
    """What every network is told of its layers."""
    return config.model_dump(include={"channel_base", "max_channels", "resampling"})
