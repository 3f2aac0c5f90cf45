"""What whoever built a dataset should know of it, in a sentence each: what it lost most to, and what limits its use.

Not here: why a single photograph or face was rejected (`preprocessing.explain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preprocessing.reject import Reason
from preprocessing.scores.catalogue import BOUNDS
from preprocessing.sources.licenses import LicensesConfig

SETTINGS: dict[Reason, tuple[str, ...]] = {
    Reason.NO_LICENSE: ("licenses.assume",),
    Reason.LICENSE_NOT_ALLOWED: ("licenses.allow",),
    Reason.NO_AUTHOR: ("licenses.assume_author",),
    Reason.TIMED_OUT: ("fetch.timeout_s",),
    Reason.TOO_MANY_BYTES: ("fetch.max_bytes",),
    Reason.TOO_MANY_PIXELS: ("decode.max_pixels",),
    Reason.NO_FACE: ("detect.min_quad_px",),
    Reason.NOT_SINGLE: ("curate.faces",),
    Reason.NOT_LARGEST: ("curate.faces",),
    Reason.TOO_MANY_FACES: ("curate.max_faces_per_photo",),
    Reason.NEAR_DUPLICATE: ("curate.pdq_max_distance",),
    Reason.TOO_MANY_OF_IDENTITY: ("curate.max_faces_per_identity",),
}
"""The settings behind reasons that no rule on a score gives."""
for _score, _bound in BOUNDS:
    SETTINGS[_bound.reason] = (*SETTINGS.get(_bound.reason, ()), f"curate.{_bound.setting}")


def advice(kept: int, rejected: Mapping[str, int], config: Mapping[str, Any]) -> str | None:
    """What took more than half of all faces and photographs without one, and how to keep more; None where nothing did.

    `config` is the build's, resolved.
    """
    total = kept + sum(rejected.values())
    reason, count = max(rejected.items(), key=lambda item: item[1], default=("", 0))
    if 2 * count <= total:
        return None
    said = f"{reason} took {count:,} of {total:,}"
    values = {setting: _value(config, setting) for setting in SETTINGS.get(Reason(reason), ())}
    options = [
        f"--{setting.replace('_', '-')} is {value}" for setting, value in values.items() if value is not None
    ] or [f"--{setting.replace('_', '-')} is not set" for setting in values]
    return f"{said}: {', '.join(options)}" if options else f"{said}: {Reason(reason).meaning}"


def _value(config: Mapping[str, Any], setting: str) -> Any:
    value: Any = config
    for name in setting.split("."):
        value = value[name]
    return ",".join(map(str, value)) if isinstance(value, list) else value


def limits(config: Mapping[str, Any]) -> list[str]:
    """Which parts of a build exclude commercial use, a sentence each; none where nothing in it does.

    `config` is the build's, resolved. Licences of photographs are taken at their word.
    """
    found = []
    if config["detect"]["predictor"] is None and not config.get("aligned"):
        found.append(
            "not for commercial use: dlib's 68-point landmark model, by its training data (iBUG 300-W); "
            "--detect.predictor takes another"
        )
    if config["scores"]["embedding"]:
        found.append("not for commercial use: dlib's face embedding, by its training data (VGG, FaceScrub)")
    families = LicensesConfig.model_validate(config["licenses"]).families
    if reserved := sorted(family for family in families if "-NC" in family):
        found.append(
            f"not for commercial use: photographs under {', '.join(reserved)}; --licenses.allow commercial"
        )
    return found
