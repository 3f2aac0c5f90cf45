"""The base of every config: a frozen Pydantic model that refuses unknown fields and has one digest.

A config is the command line, the Prefect form and the lineage record at once, so each field is bounded and
described where it is declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from storage.digest import json_digest


class Config(BaseModel):
    """Frozen, closed to unknown fields, compared and hashed by value."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_by_name=True
    )

    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of the fully resolved config."""
        return json_digest(self.model_dump(mode="json"))


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
