"""Which faces are kept, as settings: `CurateConfig` and the presets it starts from.

Not here: what the settings mean for one face (`preprocessing.curation.rules`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from preprocessing.curation.duplicates import HASH_BITS
from storage.config import Config
from storage.errors import ConfigError

PresetName = Literal["lenient", "ffhq", "none"]

PRESETS: dict[str, dict[str, Any]] = {
    "lenient": {
        "min_detector_score": None,
        "min_feature_margin": 0.0,
        "max_padding_fraction": 0.5,
        "max_landmark_error": 0.12,
        "max_abs_yaw_deg": None,
        "max_abs_pitch_deg": None,
        "max_abs_roll_deg": None,
        "min_sharpness": 0.2,
        "min_brightness": None,
        "max_brightness": None,
        "max_clipped_fraction": 0.4,
        "min_colorfulness": None,
        "pdq_max_distance": 36,
    },
    "ffhq": {
        "min_detector_score": 0.1,  # dark faces score low: 0.3 rejects some that are well exposed
        "min_feature_margin": 0.06,
        "max_padding_fraction": 0.2,
        "max_landmark_error": 0.09,
        "max_abs_yaw_deg": 40.0,
        "max_abs_pitch_deg": 30.0,
        "max_abs_roll_deg": None,  # the crop undoes it
        "min_sharpness": 0.35,
        "min_brightness": 0.1,
        "max_brightness": 0.9,
        "max_clipped_fraction": 0.15,
        "min_colorfulness": None,  # FFHQ holds grey pictures
        "pdq_max_distance": 36,
    },
}
"""Set by looking at what each bound rejects of 1,735 photographs (`docs/curation.md`)."""
PRESETS["none"] = dict.fromkeys(PRESETS["lenient"])
_LENIENT = PRESETS["lenient"]

MEASURED_BY = {"filter_score": "scores.filter_model", "embedding": "scores.embedding"}
"""The setting that makes a build measure a score which is not measured by default."""


def _drop_preset_defaults(schema: dict[str, Any]) -> None:
    """Remove the defaults a preset governs from the JSON schema: a web form submits every default it is shown."""
    for name in _LENIENT:
        schema["properties"][name].pop("default", None)


class CurateConfig(Config):
    """Which faces are kept; none turns a rule off, but for `min_quad_px`."""

    model_config = ConfigDict(json_schema_extra=_drop_preset_defaults)

    preset: PresetName = Field(
        default="lenient",
        description="Named thresholds; every field given beside it wins. lenient drops what is broken, ffhq what is "
        "not a sharp, whole, near-frontal face; none has no rule but the smallest quad.",
    )
    min_quad_px: int | None = Field(
        default=None,
        ge=1,
        description="Smallest side of a crop in its photograph, before resampling; None means the resolution under "
        "the preset ffhq, so that no pixel is invented, and detect.min_quad_px otherwise.",
    )
    min_detector_score: float | None = Field(
        default=_LENIENT["min_detector_score"], description="Lowest detector score."
    )
    max_padding_fraction: float | None = Field(
        default=_LENIENT["max_padding_fraction"],
        ge=0,
        le=1,
        description="Largest share of the crop outside of its photograph.",
    )
    min_feature_margin: float | None = Field(
        default=_LENIENT["min_feature_margin"],
        ge=-10,
        le=0.5,
        description="Smallest distance of eyes and mouth from the edge of crop and photograph, in crop sides.",
    )
    max_landmark_error: float | None = Field(
        default=_LENIENT["max_landmark_error"],
        ge=0,
        description="Furthest that landmarks may move when found anew in the crop, in eye distances.",
    )
    max_abs_yaw_deg: float | None = Field(
        default=_LENIENT["max_abs_yaw_deg"], ge=0, le=180, description="Furthest turn to either side."
    )
    max_abs_pitch_deg: float | None = Field(
        default=_LENIENT["max_abs_pitch_deg"], ge=0, le=180, description="Furthest nod up or down."
    )
    max_abs_roll_deg: float | None = Field(
        default=_LENIENT["max_abs_roll_deg"],
        ge=0,
        le=180,
        description="Furthest tilt in the photograph; the crop itself is upright.",
    )
    min_sharpness: float | None = Field(
        default=_LENIENT["min_sharpness"], ge=0, le=1, description="Lowest sharpness of the crop."
    )
    min_brightness: float | None = Field(
        default=_LENIENT["min_brightness"],
        ge=0,
        le=1,
        description="Lowest mean luma of the face; keep it low, or it selects by skin.",
    )
    max_brightness: float | None = Field(
        default=_LENIENT["max_brightness"], ge=0, le=1, description="Highest mean luma."
    )
    max_clipped_fraction: float | None = Field(
        default=_LENIENT["max_clipped_fraction"],
        ge=0,
        le=1,
        description="Largest share of pixels that are all but black or white.",
    )
    min_colorfulness: float | None = Field(
        default=_LENIENT["min_colorfulness"],
        ge=0,
        description="Lowest colourfulness; 0.01 keeps colour only.",
    )
    min_filter_score: float | None = Field(
        default=None, description="Lowest score by the model that scores.filter_model names."
    )
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
        self,
        output_px: int,
        smallest_found_px: int,
        *,
        measures_filter_score: bool = False,
        measures_embedding: bool = False,
    ) -> CurateConfig:
        """This config with the smallest quad set, for crops of side `output_px` where detection looked for quads
        from `smallest_found_px` (detect.min_quad_px).

        ConfigError where it asks for smaller faces, or for a score that is not measured.
        """
        if self.min_filter_score is not None and not measures_filter_score:
            raise not_measured("curate.min_filter_score", "filter_score")
        if self.max_faces_per_identity is not None and not measures_embedding:
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


def not_measured(setting: str, score: str) -> ConfigError:
    """The error where a setting needs a score that the build did not measure."""
    return ConfigError(f"{setting} needs {score}, which is not measured: build with {MEASURED_BY[score]} set")
