"""Surfaces that others rely on are as they were, or their change is meant: it is renewed by a command, and is seen."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import pytest
from surfaces import DATA, ROOT, SURFACES

from flows.cli.help import pages

HELP = ROOT / "docs" / "help"


def changes(kept: Path, now: str) -> str:
    """What differs, in lines; nothing where nothing does."""
    was = kept.read_text(encoding="utf-8") if kept.is_file() else ""
    return "\n".join(
        difflib.unified_diff(was.splitlines(), now.splitlines(), "kept", "now", n=1, lineterm="")
    )


@pytest.mark.parametrize("file", SURFACES)
def test_surfaces_are_frozen(file: str) -> None:
    """Deployments' parameters, a manifest's keys, tables' columns and public names are those on file."""
    if difference := changes(DATA / file, SURFACES[file]()):
        pytest.fail(f"tests/data/{file} has changed; if this is meant: make frozen\n{difference}")


def test_no_schema_is_of_a_deployment_that_is_no_more() -> None:
    """The schemas on file are those of the deployments, no more and no fewer."""
    kept = {f"schemas/{path.name}" for path in (DATA / "schemas").iterdir()}
    assert kept == {file for file in SURFACES if file.startswith("schemas/")}, (
        "make frozen, or remove the others"
    )


def test_help_is_what_is_captured() -> None:
    """docs/help has the help page of every command as it is now, and no other page."""
    now = pages()
    assert {path.name for path in HELP.iterdir()} == now.keys(), "renew the pages: make frozen"
    if difference := "\n".join(filter(None, (changes(HELP / name, text) for name, text in now.items()))):
        pytest.fail(f"docs/help has changed; if this is meant: make frozen\n{difference}")


READS = {"diff", "doctor", "figure", "ledger", "likeness", "trace", "verify", "worker"}
"""Commands that only read, beside those that only have others, and one that works until it is stopped."""
ASKS = {"forget": "--yes", "gc": "--delete"}
"""Commands that say what they would do, until an option has them do it."""


def test_every_command_says_what_it_would_do() -> None:
    """Whatever a command writes, it can be asked about first."""
    lacking = {
        name
        for name, text in pages().items()
        if "--dry-run" not in text and name.partition(".")[0] not in READS
    }
    assert lacking == {f"{name}.txt" for name in ASKS}
    for name, option in ASKS.items():
        assert option in pages()[f"{name}.txt"]


def test_every_field_of_a_form_is_described() -> None:
    """Whatever Prefect's forms ask for says what it is, by its own words or those of the settings that it holds."""
    for path in sorted((DATA / "schemas").glob("*.json")):
        schema = json.loads(path.read_text())
        definitions = schema["definitions"]
        for of in (schema, *definitions.values()):
            for name, field in of.get("properties", {}).items():
                held = definitions.get(field.get("$ref", "").rpartition("/")[2], {})
                assert field.get("description") or held.get("description"), f"{path.name}: {name}"
