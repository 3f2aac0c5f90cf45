"""training.drawing.settings: what is drawn, given as numbers or as text."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from training.drawing.settings import GenerateConfig, NoiseConfig, TruncationConfig, VideoConfig


def test_seeds_are_numbers_or_text() -> None:
    """Numbers and inclusive ranges give their seeds in the order given, and record as numbers."""
    for given in ("0-3,20", ["0-3", "20"], [0, "1-3", 20], (0, 1, 2, 3, 20)):
        config = GenerateConfig.model_validate({"seeds": given})
        assert config.seeds == (0, 1, 2, 3, 20)
        assert config.model_dump(mode="json")["seeds"] == [0, 1, 2, 3, 20]
    assert GenerateConfig.model_validate({"seeds": " 7 , 5-5"}).seeds == (7, 5)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("", "neither a number nor a range"),
        ("1,-2", "'-2' is neither"),
        ("a-b", "'a-b' is neither"),
        ("5-1", "5-1 runs backwards"),
        ("0-99999999", "at most 10000 seeds"),
        ("0-9999,1", "at most 10000 seeds"),
        (str(2**63), r"below 2\^63"),
        ([-1], "greater than or equal to 0"),
        ([], "at least 1 item"),
        ([[1]], "valid integer"),
    ],
)
def test_wrong_seeds_are_named(seeds: object, message: str) -> None:
    """What is no list of seeds is refused in one sentence that names it."""
    with pytest.raises(ValidationError, match=message):
        GenerateConfig.model_validate({"seeds": seeds})


def test_psis_are_numbers_or_text() -> None:
    """Truncations are split at commas; one that is no number, or too large, is refused."""
    assert TruncationConfig.model_validate({"psis": "1, 0.7,-0.5"}).psis == (1.0, 0.7, -0.5)
    assert TruncationConfig(psis=(0.5,)).psis == (0.5,)
    for wrong in ("1,a", "1,nan", "2.1", ""):
        with pytest.raises(ValidationError):
            TruncationConfig.model_validate({"psis": wrong})


def test_old_names_are_taken_and_never_shown() -> None:
    """A field is set by its old name too; schema and record have the new one."""
    old = NoiseConfig.model_validate({"crops": 3, "realisations": 7})
    assert old == NoiseConfig(num_crops=3, num_realisations=7)
    assert old.model_dump().keys() == NoiseConfig.model_json_schema()["properties"].keys()
    assert {"num_crops", "num_realisations"} <= old.model_dump().keys()


def test_a_walk_has_seeds_and_frames() -> None:
    """Less than two seeds, or than one frame, is no film."""
    assert VideoConfig(seconds=0.5, fps=8).num_frames == 4
    with pytest.raises(ValidationError, match="a walk needs two seeds or more"):
        VideoConfig(seeds=(4,))
    with pytest.raises(ValidationError, match="less than one frame"):
        VideoConfig(seconds=0.1, fps=1)


def test_configs_need_no_torch() -> None:
    """The configs of drawing and measuring import neither torch nor what imports it."""
    code = "import sys, training.drawing.settings, training.metrics.settings; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "pydantic" in loaded
    assert loaded.isdisjoint({"torch", "scipy", "PIL"})
