"""Advice: what took more than half, and the setting that changes it."""

from __future__ import annotations

from collections import Counter
from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.advice import SETTINGS, advice, limits
from preprocessing.config import BuildConfig
from preprocessing.reject import Reason

CONFIG = BuildConfig(curate={"preset": "ffhq"}).resolved()


@given(
    st.integers(0, 9),
    st.dictionaries(st.sampled_from([reason.value for reason in Reason]), st.integers(1, 9)),
)
def test_advice_is_of_what_took_more_than_half(kept: int, rejected: dict[str, int]) -> None:
    """One sentence where one reason took more than all others and what was kept; none otherwise."""
    said = advice(kept, rejected, CONFIG)
    total = kept + sum(rejected.values())
    lost = [reason for reason, count in rejected.items() if 2 * count > total]
    assert (said is None) == (not lost)
    assert said is None or said.startswith(f"{lost[0]} took {rejected[lost[0]]:,} of {total:,}: ")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (Reason.QUAD_TOO_SMALL, "quad_too_small took 1,500 of 1,735: --curate.min-quad-px is 256"),
        (Reason.LICENSE_NOT_ALLOWED, "license_not_allowed took 1,500 of 1,735: --licenses.allow is open"),
        (Reason.TOO_MANY_OF_IDENTITY, "--curate.max-faces-per-identity is not set"),
        (Reason.POSE, "--curate.max-abs-yaw-deg is 40.0, --curate.max-abs-pitch-deg is 30.0"),
        (Reason.BROKEN_IMAGE, "broken_image took 1,500 of 1,735: The file begins as an image"),
    ],
)
def test_the_setting_is_named_with_its_value(reason: Reason, said: str) -> None:
    """The option as it is typed, and what it is in this build; the meaning where no setting helps."""
    assert said in str(advice(63, Counter({reason.value: 1500, "near_duplicate": 172}), CONFIG))


def test_every_setting_is_one() -> None:
    """What is named can be set."""
    for setting in (setting for settings in SETTINGS.values() for setting in settings):
        attrgetter(setting)(BuildConfig())


def test_what_excludes_commercial_use_is_named() -> None:
    """The landmark model by default, the embedding and licences where they are asked for; nothing of a clean build."""
    (said,) = limits(CONFIG)
    assert "iBUG 300-W" in said
    assert "--detect.predictor" in said
    clean = BuildConfig.model_validate(
        {"detect": {"predictor": "own.dat"}, "licenses": {"allow": "commercial"}}
    )
    assert limits(clean.resolved()) == []
    research = {
        "scores": {"embedding": True},
        "licenses": {"allow": "research"},
        "detect": {"predictor": "own.dat"},
    }
    said, licences = limits(BuildConfig.model_validate(research).resolved())
    assert "embedding" in said
    assert "CC-BY-NC, CC-BY-NC-SA" in licences
