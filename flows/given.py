"""What somebody asked for in a form, told from what the form and its deployment fill in by themselves.

Prefect's form sends every default that it shows, and a deployment its own parameters beside. Whoever goes on with a run
has given neither of them.
"""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from training.config import TrainConfig


def given_in_form(dataset: str | None, config: TrainConfig) -> tuple[str | None, TrainConfig]:
    """The dataset and the settings that are neither defaults nor the deployment's own."""
    filled_in = _of_deployment()
    return given(dataset, config, filled_in.get("dataset"), filled_in.get("config", {}))


def given(
    dataset: str | None, config: TrainConfig, usual_dataset: str | None, usual: dict[str, Any]
) -> tuple[str | None, TrainConfig]:
    """As `given_in_form`, where a dataset and settings are usual."""
    deployed = TrainConfig.model_validate(usual)
    shown = TrainConfig.model_json_schema()["properties"]

    def is_filled_in(name: str) -> bool:
        value = getattr(config, name)
        if name in deployed.model_fields_set and value == getattr(deployed, name):
            return True
        return "default" in shown[name] and value == TrainConfig.model_fields[name].get_default()

    asked = config.model_copy()
    asked.model_fields_set.difference_update([name for name in config.model_fields_set if is_filled_in(name)])
    return (None if dataset == usual_dataset else dataset), asked


def _of_deployment() -> dict[str, Any]:
    """The parameters of the deployment that the running flow is one of, if it is."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        return {"dataset": "faces"}  # the flow's own default
    with get_client(sync_client=True) as client:
        return client.read_deployment(context.flow_run.deployment_id).parameters
