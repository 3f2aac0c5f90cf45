"""What Prefect is told of photographs that were forgotten, where a server is configured; nothing where none is.

`dataset.withdrawn` is emitted for each name whose latest version was withdrawn, with what is left of it. Artifacts that
show or name a withdrawn version are deleted: a contact sheet is kept on the server. Not here: what is forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from storage.store import Store
from storage.withdrawals import Certificate

logger = logging.getLogger(__name__)

WITHDRAWN = "dataset.withdrawn"
TOLD, NOT_REACHED, NONE = "told", "not reached", "no server is configured"
"""What came of telling Prefect."""
OF_DATASETS = ["contact-sheet", "dataset", "report", "dataset-folder"]
"""The keys of artifacts that a build leaves of its version."""
PAGE = 200
"""Artifacts that a server gives at a time."""


def announce(store: Store, certificate: Certificate) -> str:
    """Delete pictures of withdrawn versions from the server, and say what was withdrawn; one of TOLD and so on."""
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        return NONE
    try:
        _delete_artifacts([version.reference for version in certificate.withdrawn])
    except Exception as error:
        if not (isinstance(error, OSError) or type(error).__module__.startswith("httpx")):
            raise
        logger.warning(
            "Prefect's server at %s may hold pictures of what is forgotten, and was not reached (%s): ask for the same "
            "again when it runs",
            url,
            error,
        )
        return NOT_REACHED
    _emit(store, certificate)
    return TOLD


def _delete_artifacts(references: Sequence[str]) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    ours = ArtifactFilter(key=ArtifactFilterKey(any_=OF_DATASETS))
    with get_client(sync_client=True) as client:
        named, offset = [], 0
        while page := client.read_artifacts(artifact_filter=ours, limit=PAGE, offset=offset):
            offset += len(page)
            for artifact in page:
                said = f"{artifact.description} {artifact.data}"
                if any(reference in said or reference.replace("@", "/") in said for reference in references):
                    named.append(artifact.id)
        for artifact_id in named:
            client.delete_artifact(artifact_id)


def _emit(store: Store, certificate: Certificate) -> None:
    from prefect.events import emit_event

    for after in certificate.published:
        successor = f"{after.name}@{after.version}" if after.version else None
        emit_event(
            WITHDRAWN,
            # a deployment that trains on `dataset.*` must be given something to train on
            resource={
                "prefect.resource.id": f"{'dataset' if successor else 'withdrawn'}.{after.name}",
                "prefect.resource.name": successor or after.name,
            },
            payload={
                "name": after.name,
                "reference": successor,
                "store": str(store),
                "withdrawn": [v.reference for v in certificate.withdrawn if v.name == after.name],
                "runs": [run.run_id for run in certificate.runs],
                "forget": certificate.forget,
            },
        )
