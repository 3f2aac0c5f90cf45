"""Secrets of services, such as a key of Flickr: from the environment, or else from Prefect's blocks.

    FLICKR_API_KEY in the environment, or a Secret block `flickr-api-key` on the server

Neither a log nor a record holds their values. Not here: which secrets there are (`preprocessing.sources`).
"""

from __future__ import annotations

from prefect.blocks.system import Secret

from preprocessing.sources.access import environment


def secret(name: str) -> str | None:
    """The value of a secret, None where there is none."""
    found = environment(name)
    if found is not None:
        return found
    try:
        block: Secret[str] = Secret.load(block_name(name))  # type: ignore[assignment]
    except ValueError:  # no such block
        return None
    return str(block.get()) or None


def block_name(name: str) -> str:
    """What the block of a secret is called: Prefect takes small letters and dashes."""
    return name.lower().replace("_", "-")
