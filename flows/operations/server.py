"""The Prefect server that this process is configured for, asked so that its silence is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import get_current_settings

from storage.errors import ServiceError


def api_url() -> str:
    """Where the server is; ServiceError where none is configured."""
    url = get_current_settings().api.url
    if url is None:
        raise ServiceError("no Prefect server is configured: set PREFECT_API_URL, or api.url in prefect.toml")
    return str(url)


@contextmanager
def open_server() -> Iterator[SyncPrefectClient]:
    """A client of the server; ServiceError where it does not answer, or refuses."""
    api = api_url()
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.HTTPStatusError as error:
        raise ServiceError(f"the Prefect server at {api} refuses: {error}") from error
    except (httpx.HTTPError, RuntimeError) as error:
        raise ServiceError(
            f"no Prefect server answers at {api}: start it with likeness services, or prefect server start"
        ) from error
