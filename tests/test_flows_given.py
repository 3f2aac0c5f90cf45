"""flows.given: what a form fills in by itself is not what somebody asked for."""

from __future__ import annotations

from typing import Any

from flows.given import given
from training.config import TrainConfig

USUAL: dict[str, Any] = {"preset": "smoke"}


def form(**asked: Any) -> TrainConfig:
    """What Prefect's form sends: every default that it shows, the deployment's settings, and what was asked for."""
    shown = TrainConfig.model_json_schema()["properties"]
    defaults = {name: about["default"] for name, about in shown.items() if "default" in about}
    return TrainConfig.model_validate(defaults | USUAL | asked)


def test_an_untouched_form_gives_nothing() -> None:
    """Whoever only names a run to go on with changes none of its settings, whatever the form sends beside."""
    dataset, config = given("faces", form(), "faces", USUAL)
    assert dataset is None
    assert config.model_fields_set == set()


def test_what_was_asked_for_is_given() -> None:
    """A setting that is neither a default nor the deployment's is given, and so is another dataset."""
    dataset, config = given("others", form(total_kimg=500.0, preset="face128"), "faces", USUAL)
    assert dataset == "others"
    assert config.model_fields_set == {"total_kimg", "preset"}
    assert (config.total_kimg, config.preset) == (500.0, "face128")
