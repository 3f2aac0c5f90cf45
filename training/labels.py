"""What images of a dataset are labelled with: one of its columns, whose values both networks are conditioned on.

config = labelled(dataset, config)          # its label_values filled in
labels = labels_of(dataset, config)         # by an image's key, its place among the values
"""

from __future__ import annotations

from storage.datasets.dataset import Dataset
from storage.errors import ConfigError
from training.config import TrainConfig

MAX_LABELS = 1000


def labelled(dataset: Dataset, config: TrainConfig) -> TrainConfig:
    """The config with the values of its label column; ConfigError where the column is none to be conditioned on."""
    column = config.label_column
    if column is None:
        return config
    values = sorted(set(_values(dataset, column).values()))
    if config.label_values and not set(values) <= set(config.label_values):
        missing = sorted(set(values) - set(config.label_values))
        raise ConfigError(f"label_values has no {missing[0]!r}, which {dataset.reference} has in {column}")
    if len(values) > MAX_LABELS or len(values) < 2:
        raise ConfigError(
            f"label_column {column} of {dataset.reference} has {len(values)} values: 2 to {MAX_LABELS} can be labels"
        )
    given = config.label_values or tuple(values)
    filled = config.model_copy(update={"label_values": given})
    filled.model_fields_set.intersection_update(config.model_fields_set)
    return filled


def labels_of(dataset: Dataset, config: TrainConfig) -> dict[str, int] | None:
    """By an image's key, the place of its label among the config's values; None where there are no labels."""
    if config.label_column is None:
        return None
    place = {value: index for index, value in enumerate(config.label_values)}
    values = _values(dataset, config.label_column)
    if unknown := sorted({value for value in values.values() if value not in place}):
        raise ConfigError(
            f"{dataset.reference} has {unknown[0]!r} in {config.label_column}, which is no label of the run"
        )
    return {key: place[value] for key, value in values.items()}


def _values(dataset: Dataset, column: str) -> dict[str, str]:
    """A column's values as text, by key."""
    table = dataset.table("images")
    names = table.schema.names
    if column not in names:
        raise ConfigError(
            f"label_column {column} is no column of {dataset.reference}: choose of {', '.join(names)}"
        )
    columns = table.read(["key", column])
    values = columns.column(column).to_pylist()
    if empty := sum(value is None for value in values):
        raise ConfigError(f"label_column {column} is empty for {empty} images of {dataset.reference}")
    if not all(isinstance(value, str | bool | int) for value in values):
        raise ConfigError(
            f"label_column {column} is of numbers or lists: labels are texts, whole numbers or yes and no"
        )
    labels = dict(zip(columns.column("key").to_pylist(), map(str, values), strict=True))
    return labels if dataset.keys is None else {key: labels[key] for key in sorted(dataset.keys)}
