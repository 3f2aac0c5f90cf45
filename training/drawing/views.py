"""One picture of the explorer: what it is made of, as an address says it, and how it is drawn, first small, then whole.

    view = View.of_query("seed=3&psi=0.7&move=sefa.coarse.0:1.5")
    stage = Stage(trained)
    pixels_HWC = stage.picture(view)
    pixels_HWC = stage.picture(view, preview=True)

Nothing is drawn before it is asked for. Not here: how a picture is seen small (`training.drawing.previews`), and any
server (`flows.explorer`).

Suffixes: N images, L layers, D entries of w, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache, partial
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from storage.config import Config
from storage.errors import ConfigError
from training.data import ImageArray
from training.drawing.directions import Direction, direction_of, directions, moved
from training.drawing.figures import fixed_noise
from training.drawing.images import pixels, synthesized, w_from_seeds
from training.drawing.previews import Preview
from training.drawing.settings import DirectionsConfig, Psi, Seed, Strength
from training.drawing.trained import Trained
from training.networks import Generator, StyledLayer, level_and_fade

PREVIEW_SECONDS = 0.05
"""What a preview may take: the highest level that is drawn in it."""
LEAST_LEVEL = 2
"""Of a preview: 16 px."""
NUM_DIRECTIONS = 6
"""Of each method and block, that the explorer offers."""

NoiseStrength = Annotated[float, Field(ge=0, le=4, allow_inf_nan=False)]


class Overtaken(Exception):
    """The picture is no longer wanted: a newer one is."""


class View(Config):
    """What a picture is made of."""

    seed: Seed = 0
    psi: Psi = 0.7
    cutoff: int | None = Field(
        None, ge=0, le=64, description="First layers that truncation acts on; unset: the run's."
    )
    moves: dict[str, Strength] = Field({}, description="Directions by name, and how far along each.")
    noise: tuple[NoiseStrength, ...] = Field((), description="Strength a layer; 1 where it ends.")
    noise_seeds: tuple[Seed | None, ...] = Field(
        (), description="Whose noise each layer has; unset: the seed's own."
    )
    mixed: View | None = Field(None, description="Whose styles the layers from `boundary` on have.")
    boundary: int = Field(0, ge=0, le=64)

    @model_validator(mode="after")
    def _mixes_two(self) -> View:
        if self.mixed is not None and self.mixed.mixed is not None:
            raise ValueError("a picture is mixed of two, and the second of none")
        return self

    @classmethod
    def of_query(cls, query: str) -> View:
        """The view that the query of an address says; ConfigError where it says none."""
        said = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
        fields: dict[str, Any] = {
            name: said[name] for name in ("seed", "psi", "cutoff", "boundary") if name in said
        }
        fields["moves"] = dict(part.split(":", 1) for part in said.get("move", "").split(",") if ":" in part)
        if "noise" in said:
            fields["noise"] = said["noise"].split(",")
        if "renoise" in said:
            fields["noise_seeds"] = [part or None for part in said["renoise"].split(",")]
        if "with" in said:
            fields["mixed"] = cls.of_query(said["with"])
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            where = ".".join(map(str, problem["loc"])) or "view"
            raise ConfigError(f"{where}: {problem['msg'].removeprefix('Value error, ')}") from error

    def query(self) -> str:
        """As an address says it: what `of_query` reads."""
        said: dict[str, str] = {"seed": str(self.seed), "psi": f"{self.psi:g}"}
        if self.cutoff is not None:
            said["cutoff"] = str(self.cutoff)
        if self.moves:
            said["move"] = ",".join(f"{name}:{strength:g}" for name, strength in self.moves.items())
        if self.noise:
            said["noise"] = ",".join(f"{strength:g}" for strength in self.noise)
        if self.noise_seeds:
            said["renoise"] = ",".join("" if seed is None else str(seed) for seed in self.noise_seeds)
        if self.mixed is not None:
            said |= {"with": self.mixed.query(), "boundary": str(self.boundary)}
        return urlencode(said)


class Stage:
    """A generator ready to draw views: its directions, its preview, and what was lately asked for."""

    def __init__(self, trained: Trained, preview_seconds: float = PREVIEW_SECONDS) -> None:
        self.trained = trained
        self.generator: Generator = trained.style_generator("the explorer")
        self._preview_seconds = preview_seconds
        self._is_overtaken: Callable[[], bool] = lambda: False
        for layer in self.generator.synthesis.layers:
            layer.register_forward_pre_hook(self._stop)
            if isinstance(layer, StyledLayer) and layer.conv is not None:
                layer.conv.register_forward_hook(self._stop)  # half way: a layer of 1024 px takes seconds
        self._w = lru_cache(256)(lambda seed: w_from_seeds(self.generator, [seed])[0])
        self._direction = lru_cache(64)(
            lambda name: self.directions.get(name) or direction_of(self.generator, name)
        )
        self._noise = lru_cache(64)(lambda seed: fixed_noise(self.generator, seed))
        self._newest: tuple[str, ImageArray] | None = None

    @cached_property
    def directions(self) -> dict[str, Direction]:
        """Those that the explorer offers, by their names."""
        config = DirectionsConfig(num_directions=NUM_DIRECTIONS)
        return {one.name: one for one in directions(self.generator, config)}

    @cached_property
    def preview(self) -> Preview | None:
        """What small pictures are drawn by, of the highest level that is in time; None where the whole picture is.

        Levels are tried from below, so that this takes a moment.
        """
        w_NLD, noise = self._w(0)[None], self._noise(0)
        top = level_and_fade(self.generator.resolution, self.generator.lod)[0]
        found = None
        for level in range(LEAST_LEVEL, top + 1):
            preview = Preview.of(self.generator, level)
            if _seconds(partial(preview.images, w_NLD, noise), self._preview_seconds) > self._preview_seconds:
                return found or (preview if level < top else None)
            found = preview
        return None

    @property
    def num_layers(self) -> int:
        """Layers that draw."""
        return self.generator.num_layers_in_use

    @torch.no_grad()
    def styles(self, view: View) -> Tensor:
        """w (L, D) of a view: truncated, moved, and mixed with another's."""
        cutoff = self.trained.cutoff if view.cutoff is None else view.cutoff
        w_LD: Tensor = self.generator.truncate(self._w(view.seed)[None], view.psi, cutoff)[0]
        for name, strength in view.moves.items():
            w_LD = moved(w_LD, self._direction(name), [strength])[0]
        if view.mixed is not None:
            w_LD = torch.cat([w_LD[: view.boundary], self.styles(view.mixed)[view.boundary :]])
        return w_LD

    def noise(self, view: View) -> list[Tensor]:
        """Noise a layer, as strong as the view has it."""
        layers = []
        for index, own in enumerate(self._noise(view.seed)):
            seed = view.noise_seeds[index] if index < len(view.noise_seeds) else None
            strength = view.noise[index] if index < len(view.noise) else 1.0
            layers.append((own if seed is None else self._noise(seed)[index]) * strength)
        return layers

    def picture(
        self, view: View, *, preview: bool = False, is_overtaken: Callable[[], bool] = lambda: False
    ) -> ImageArray:
        """Pixels (H, W, 3) of a view; Overtaken, before the next layer, where it is no longer wanted.

        The newest whole picture is kept, for who saves what he looks at.
        """
        key = view.query()
        if not preview and self._newest is not None and self._newest[0] == key:
            return self._newest[1]
        drawn = self.drawn(self.styles(view), self.noise(view), preview=preview, is_overtaken=is_overtaken)
        if not preview:
            self._newest = key, drawn
        return drawn

    @torch.no_grad()
    def drawn(
        self,
        w_LD: Tensor,
        noise: Sequence[Tensor],
        *,
        preview: bool = False,
        is_overtaken: Callable[[], bool] = lambda: False,
    ) -> ImageArray:
        """As `picture`, of styles and noise."""
        with self._until(is_overtaken):
            if preview and self.preview is not None:
                image = self.preview.images(w_LD[None], noise)
            else:
                image = synthesized(self.generator, w_LD[None], noise)
        drawn: ImageArray = pixels(image)[0].transpose(1, 2, 0)
        return drawn

    @contextmanager
    def _until(self, is_overtaken: Callable[[], bool]) -> Iterator[None]:
        self._is_overtaken = is_overtaken
        try:
            yield
        finally:
            self._is_overtaken = lambda: False

    def _stop(self, *_: object) -> None:
        if self._is_overtaken():
            raise Overtaken


def _seconds(draw: Callable[[], object], enough: float) -> float:
    """The shortest of three times, or the first where that is far more than enough."""
    times: list[float] = []
    while len(times) < 3 and not (times and times[0] > 5 * enough):
        begun = time.perf_counter()
        draw()
        times.append(time.perf_counter() - begun)
    return min(times)
