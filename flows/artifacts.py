"""What a flow run shows in Prefect: a table a stage, progress while it runs, pictures and links.

Mirrors only: every figure here is also in the store's own records, and nothing reads it back from Prefect.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from PIL import Image
from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

UPDATE_S = 5.0
"""Least time between two updates of a progress artifact: each is a call to the server."""
PICTURE_PX = 768


class ProgressArtifact:
    """A progress bar in the Prefect UI and a line in the flow run's log, at most every `UPDATE_S`."""

    def __init__(self, key: str, description: str) -> None:
        self._description = description
        self._id = create_progress_artifact(0.0, key=key, description=description)
        self._last = time.monotonic()

    def update(self, done: float, total: float, note: str) -> None:
        """Show `done` of `total`; the end is always shown."""
        now = time.monotonic()
        if done < total and now - self._last < UPDATE_S:
            return
        self._last = now
        assert isinstance(self._id, UUID)
        percent = 100.0 * done / total if total else 100.0
        get_run_logger().info("%s: %s", self._description, note)
        update_progress_artifact(self._id, progress=percent, description=f"{self._description}: {note}")


def counts_table(key: str, description: str, counts: Mapping[str, int]) -> None:
    """A table of what a stage did with its inputs."""
    rows = [{"outcome": name, "count": count} for name, count in counts.items()]
    create_table_artifact(rows or [{"outcome": "nothing", "count": 0}], key=key, description=description)


def picture(key: str, title: str, path: Path) -> None:
    """A picture, embedded and scaled down, so that the UI shows it wherever it runs."""
    with Image.open(path) as original:
        image = original.convert("RGB")
    image.thumbnail((PICTURE_PX, PICTURE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    create_markdown_artifact(
        f"## {title}\n\n![{title}](data:image/jpeg;base64,{data})\n\n`{path}`\n", key=key, description=title
    )


def link(key: str, text: str, path: Path) -> None:
    """A link to a file or folder of the store, for a browser on the machine that holds it."""
    create_link_artifact(path.as_uri(), link_text=text, key=key, description=str(path))


def facts(key: str, title: str, values: Mapping[str, Any]) -> None:
    """A page of names and values: where things are, and which they are."""
    lines = [f"| {name} | `{value}` |" for name, value in values.items()]
    create_markdown_artifact(
        "\n".join([f"## {title}", "", "| | |", "|---|---|", *lines]), key=key, description=title
    )
