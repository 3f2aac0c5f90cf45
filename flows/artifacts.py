"""What a flow run shows in Prefect: a table a stage, progress while it runs, pictures and links.

Mirrors only: every figure here is also in the store's own records, and nothing reads it back from Prefect. So a server
that does not answer, as while it is started again, costs a warning and not the run.
"""

from __future__ import annotations

import base64
import io
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote
from uuid import UUID

import httpx
from PIL import Image
from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.states import Running

from flows.options import STORE_URL
from storage.store import Store

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

UPDATE_S = 5.0
"""Least time between two updates of a progress artifact: each is a call to the server."""
LIFE_S = 60.0
"""Least time between two looks at what the server shows a run as."""
PICTURE_PX = 768
GENERATED_NAME = re.compile("[a-z]+-[a-z]+")
"""What Prefect calls a run that nobody named, such as `brisk-otter`."""


def mirrored(
    call: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result | None:
    """What a call of Prefect gives; None, and a warning, where its server does not take it."""
    try:
        return call(*args, **kwargs)
    except (httpx.HTTPError, PrefectException, OSError) as error:
        get_run_logger().warning("Prefect's server did not take %s: %s", call.__name__, error)
        return None


class ProgressArtifact:
    """A progress bar in the Prefect UI and a line in the flow run's log, at most every `UPDATE_S`."""

    def __init__(self, key: str, description: str) -> None:
        self._description = description
        self._id = mirrored(create_progress_artifact, 0.0, key=key, description=description)
        self._last = self._looked = time.monotonic()

    def update(self, done: float, total: float, note: str) -> None:
        """Show `done` of `total`; the end is always shown.

        A run that is shown as Crashed, as after a silence of the server, is Running again: this process works on it.
        """
        now, context = time.monotonic(), FlowRunContext.get()
        if now - self._looked > LIFE_S and context is not None and context.flow_run is not None:
            self._looked = now
            mirrored(_revive, context.flow_run.id)
        if done < total and now - self._last < UPDATE_S:
            return
        self._last = now
        percent = 100.0 * done / total if total else 100.0
        get_run_logger().info("%s: %s", self._description, note)
        if isinstance(self._id, UUID):
            about = f"{self._description}: {note}"
            mirrored(update_progress_artifact, self._id, progress=percent, description=about)


def _revive(flow_run_id: UUID) -> None:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run_id).state
        if state is not None and state.type == StateType.CRASHED:
            message = f"Its process works: the server had not heard of it, and said {state.message!r}."
            client.set_flow_run_state(flow_run_id, Running(message=message), force=True)
            get_run_logger().warning("this flow run was shown as Crashed, and is Running again")


def counts_table(key: str, description: str, counts: Mapping[str, int]) -> None:
    """A table of what a stage did with its inputs."""
    rows = [{"outcome": name, "count": count} for name, count in counts.items()]
    rows = rows or [{"outcome": "nothing", "count": 0}]
    mirrored(create_table_artifact, rows, key=key, description=description)


def picture(key: str, title: str, path: Path) -> None:
    """A picture, embedded and scaled down, so that the UI shows it wherever it runs."""
    with Image.open(path) as original:
        image = original.convert("RGB")
    image.thumbnail((PICTURE_PX, PICTURE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    page(key, title, f"![{title}](data:image/jpeg;base64,{data})\n\n`{path}`\n")


def link(key: str, text: str, path: Path, store: Store) -> None:
    """A link to a file or folder of the store."""
    mirrored(create_link_artifact, address(path, store), link_text=text, key=key, description=str(path))


def page_link(key: str, text: str, url: str) -> None:
    """A link to a page elsewhere."""
    mirrored(create_link_artifact, url, link_text=text, key=key, description=url)


def address(path: Path, store: Store) -> str:
    """Where a browser finds a file of the store: at the address that serves it, else on the machine that holds it."""
    served = os.environ.get(STORE_URL)
    if served is None or not path.is_relative_to(store.root):
        return path.as_uri()
    inside = quote(path.relative_to(store.root).as_posix())
    return f"{served.rstrip('/')}/{inside}{'/' if path.is_dir() else ''}"


def describe(name: str | None, **tags: str) -> None:
    """Name the flow run after what it is of, unless somebody has named it, and tag it `tag:value`."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        mirrored(_describe, context.flow_run.id, name, [f"{tag}:{value}" for tag, value in tags.items()])


def _describe(flow_run_id: UUID, name: str | None, tags: list[str]) -> None:
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run_id)
        shown = name if GENERATED_NAME.fullmatch(run.name) else None
        client.update_flow_run(flow_run_id, name=shown, tags=list(dict.fromkeys([*run.tags, *tags])))


def facts(key: str, title: str, values: Mapping[str, Any]) -> None:
    """A page of names and values: where things are, and which they are."""
    lines = [f"| {name} | `{value}` |" for name, value in values.items()]
    page(key, title, "\n".join(["| | |", "|---|---|", *lines]))


def page(key: str, title: str, markdown: str) -> None:
    """A page of a flow run, under its title."""
    mirrored(create_markdown_artifact, f"## {title}\n\n{markdown}", key=key, description=title)
