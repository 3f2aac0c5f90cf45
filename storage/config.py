"""The base of every config: a frozen Pydantic model that refuses unknown fields and has one digest.

A config is the command line, the Prefect form and the lineage record at once, so each field is bounded and
described where it is declared.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from storage.digest import json_digest


class Config(BaseModel):
    """Frozen, closed to unknown fields, compared and hashed by value."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of the fully resolved config."""
        return json_digest(self.model_dump(mode="json"))
