"""The base of every config: a frozen Pydantic model that refuses unknown fields and has one digest.

A config is the command line, the Prefect form and the lineage record at once, so each field is bounded and
described where it is declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from storage.digest import json_digest


class Config(BaseModel):
    """Frozen, closed to unknown fields, compared and hashed by value."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

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
