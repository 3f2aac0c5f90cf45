"""Which faces are kept, as settings: `CurateConfig` and the presets it starts from.

Thresholds on scores and what presets make of them are the catalogue's (`preprocessing.scores.catalogue`). Not here:
what the settings mean for one face (`preprocessing.curation.rules`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ConfigDict, Field, create_model, model_validator

from preprocessing.curation.duplicates import HASH_BITS
from preprocessing.scores.catalogue import BOUNDS, SCORES, Bound, Presets
from storage.config import Config
from storage.errors import ConfigError

PresetName = Literal["lenient", "ffhq", "none"]

PRESETS: dict[str, dict[str, Any]] = {
    name: {
        **{bound.setting: getattr(bound.presets, name) for _, bound in BOUNDS if bound.presets is not None},
        "pdq_max_distance": 36,
    }
    for name in Presets._fields
}
"""What each preset sets: the bounds of the catalogue, and how near pictures may be."""
PRESETS["none"] = dict.fromkeys(PRESETS["lenient"])
_LENIENT = PRESETS["lenient"]


def _drop_preset_defaults(schema: dict[str, Any]) -> None:
    """Remove the defaults a preset governs from the JSON schema: a web form submits every default it is shown."""
    for name in _LENIENT:
        schema["properties"][name].pop("default", None)


def _setting(bound: Bound) -> tuple[Any, Any]:
    """A rule's setting as Pydantic takes a field: its type and the rest."""
    limits: dict[str, Any] = {
        name: limit for name, limit in (("ge", bound.ge), ("le", bound.le)) if limit is not None
    }
    field = Field(default=_LENIENT.get(bound.setting), description=bound.description, **limits)
    return (int if bound.is_whole else float) | None, field


class _Preset(Config):
    """What the thresholds start from."""

    preset: PresetName = Field(
        default="lenient",
        description="Named thresholds; every field given beside it wins. lenient drops what is broken, ffhq what is "
        "not a sharp, whole, near-frontal face; none has no rule but the smallest quad.",
    )


if TYPE_CHECKING:

    class _Thresholds(_Preset):
        min_quad_px: int | None = None
else:
    _Thresholds = create_model(
        "_Thresholds",
        __base__=_Preset,
        __module__=__name__,
        **{bound.setting: _setting(bound) for score in SCORES for bound in score.bounds},
    )


class CurateConfig(_Thresholds):
    """Which faces are kept; none turns a rule off, but for `min_quad_px`."""

    model_config = ConfigDict(json_schema_extra=_drop_preset_defaults)

    faces: Literal["all", "largest", "single"] = Field(
        default="all",
        description="Of a photograph with several faces: all, only the largest, or none (single). Faces smaller than "
        "min_quad_px do not count.",
    )
    max_faces_per_photo: int = Field(
        default=8, ge=1, description="Faces kept of one photograph, the largest first."
    )
    pdq_max_distance: int | None = Field(
        default=_LENIENT["pdq_max_distance"],
        ge=0,
        lt=HASH_BITS // 2,
        description="Crops whose PDQ hashes differ in at most so many of 256 bits are one picture, of which the best "
        "is kept; None keeps all.",
    )
    min_pdq_quality: int = Field(
        default=50,
        ge=0,
        le=100,
        description="Crops whose hash has a lower quality are never near-duplicates.",
    )
    reviews: Path | None = Field(
        default=None,
        description="Verdicts of people, a JSONL as `likeness review` writes it: what they refuse is rejected, what "
        "they keep passes every rule on scores.",
    )
    max_faces_per_identity: int | None = Field(
        default=None, ge=1, description="Faces kept of one person, the best first; needs scores.embedding."
    )
    identity_max_distance: float = Field(
        default=0.6, gt=0, le=2, description="Embeddings no further apart are one person; dlib's own is 0.6."
    )

    @model_validator(mode="before")
    @classmethod
    def _lay_over_preset(cls, data: Any) -> Any:
        """Lay the given fields over the preset's; the text "none", as the command line gives it, is None."""
        if not isinstance(data, Mapping):
            return data
        preset = data.get("preset", "lenient")
        if not isinstance(preset, str) or preset not in PRESETS:
            return data  # the field's own check lists the valid names
        given = {name: None if value == "none" else value for name, value in data.items()}
        return {**PRESETS[preset], **given, "preset": preset}

    def resolved(
        self, output_px: int, smallest_found_px: int, measured: Collection[str] = ()
    ) -> CurateConfig:
        """This config with the smallest quad set, for crops of side `output_px` where detection looked for quads
        from `smallest_found_px` (detect.min_quad_px).

        ConfigError where it asks for smaller faces, or for a score that is not measured: `measured` are those of the
        scores that only some builds measure.
        """
        for score, bound in BOUNDS:
            if score.measured_by and score.name not in measured and getattr(self, bound.setting) is not None:
                raise not_measured(f"curate.{bound.setting}", score.name)
        if self.max_faces_per_identity is not None and "embedding" not in measured:
            raise not_measured("curate.max_faces_per_identity", "embedding")
        if self.min_quad_px is None:
            wanted = output_px if self.preset == "ffhq" else 1
            return self.model_copy(update={"min_quad_px": max(wanted, smallest_found_px)})
        if self.min_quad_px < smallest_found_px:
            raise ConfigError(
                f"curate.min_quad_px={self.min_quad_px} is below detect.min_quad_px={smallest_found_px}: faces that "
                f"small were not looked for; lower detect.min_quad_px too, which detects again"
            )
        return self


def not_measured(setting: str, name: str) -> ConfigError:
    """The error where a setting needs the score `name`, which the build did not measure."""
    [measured_by] = [score.measured_by for score in SCORES if score.name == name]
    how = f"build with {measured_by} set" if measured_by else "build again"
    return ConfigError(f"{setting} needs {name}, which is not measured: {how}")
