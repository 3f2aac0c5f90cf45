"""The base of every config: a frozen Pydantic model that refuses unknown fields and has one digest.

A config is the command line, the Prefect form and the lineage record at once, so each field is bounded and
described where it is declared.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from storage.digest import json_digest
from storage.errors import ConfigError
from storage.wording import without_user

logger = logging.getLogger(__name__)


class Config(BaseModel):
    """Frozen, closed to unknown fields, compared and hashed by value."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_by_name=True
    )

    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of the fully resolved config."""
        return json_digest(self.model_dump(mode="json"))

    @classmethod
    def recorded(cls, settings: Mapping[str, Any], of: str, *, exact: bool = False) -> Self:
        """The config that was put on record of something, perhaps by another version of likeness.

        A setting that this version does not know is left out, with one warning that names all such, or refused where
        the config must be `exact`; a setting that was not there yet has its default. ConfigError where a value is none
        that this version takes.
        """
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            unknown = [tuple(e["loc"]) for e in error.errors() if e["type"] == "extra_forbidden"]
        try:
            config = cls.model_validate(_without(settings, unknown))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise ConfigError(
                f"{of} has a setting of another version of likeness: {_dotted(problem['loc'])}: "
                f"{problem['msg'].removeprefix('Value error, ')}"
            ) from error
        names = ", ".join(map(_dotted, unknown))
        if exact:
            raise ConfigError(f"{of} has settings that this version of likeness does not know: {names}")
        _warn(f"{of} has settings that this version of likeness does not know and ignores: {names}")
        return config


@cache
def _warn(message: str) -> None:
    """Once a process, however often the record is read."""
    logger.warning(message)


def _without(settings: Mapping[str, Any], places: list[tuple[int | str, ...]]) -> dict[str, Any]:
    kept = deepcopy(dict(settings))
    for *above, name in places:
        folder: Any = kept
        for step in above:
            folder = folder[step]
        del folder[name]
    return kept


def _dotted(place: tuple[int | str, ...]) -> str:
    return ".".join(map(str, place))


@dataclass(frozen=True, init=False)
class OneOf:
    """Bounds an int field to some values, given as numbers or as text, which a Literal of numbers refuses.

    resolution: Annotated[int, OneOf(64, 128, 256)] = 128
    """

    values: tuple[int, ...]

    def __init__(self, *values: int) -> None:
        object.__setattr__(self, "values", values)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "enum": list(self.values)}

    def _check(self, value: int) -> int:
        if value not in self.values:
            raise ValueError(f"{value} is not one of {', '.join(map(str, self.values))}")
        return value


def also(name: str, old: str) -> dict[str, Any]:
    """For a field `name`: that it may be given by an `old` name too, which no schema and no record shows.

    num_images: int = Field(1000, **also("num_images", "images"))
    """
    return {"alias": old, "validation_alias": AliasChoices(name, old), "serialization_alias": name}


def comma_separated(value: Any) -> Any:
    """The parts of a text such as "a,b", or of a list of such texts, as a command line collects them.

    Whatever else is given stays as it is, for the field's own check.
    """
    parts: list[Any] = []
    for part in [value] if isinstance(value, str) else value if isinstance(value, list) else ():
        parts += [word.strip() for word in part.split(",")] if isinstance(part, str) else [part]
    return parts or value


def tracking_address(uri: str | None) -> str | None:
    """An address of MLflow that records may hold; ValueError where it has a user or a password."""
    if uri is not None and uri != (shown := without_user(uri)):
        raise ValueError(
            f"{shown} is given with a user, which records would hold: MLflow takes MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD from the environment"
        )
    return uri
