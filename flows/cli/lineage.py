"""Commands that read what is there: trace, verify. They decode and draw nothing, and import nothing that does.

Not here: any work.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from flows.cli.output import print_value, say
from flows.cli.parameters import FLAT, Json
from flows.options import StoreOptions
from storage.store import Store


def trace(
    reference: Annotated[
        str,
        Parameter(
            help="A drawn or exported file, a checkpoint or run, a dataset (NAME or NAME@VERSION), an image's key, "
            "a photograph's file, URL or sha256."
        ),
    ],
    *,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    limit: Annotated[int, Parameter(help="How many images of a dataset to print.")] = 5,
    json_: Json = False,
) -> None:
    """Say what something was made of, down to original photographs, by files alone."""
    from storage.lineage.trace import trace as trace_reference

    chain = trace_reference(Store(options.store), reference)
    if json_:
        return print_value(chain.as_json(), json_)
    for line in chain.lines(limit):
        say(line)


def verify(
    dataset: Annotated[str, Parameter(help="NAME or NAME@VERSION.")],
    *,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    json_: Json = False,
) -> None:
    """Check every hash of a dataset version: manifest, tables, shards, images, original photographs."""
    from storage.datasets.dataset import open_dataset
    from storage.datasets.verify import verify as verify_dataset
    from storage.errors import IntegrityError

    opened = open_dataset(Store(options.store), dataset)
    checked = verify_dataset(opened)
    if json_:
        print_value({"dataset": opened.reference, **checked.as_json()}, json_)
    if checked.problems:
        raise IntegrityError("; ".join(checked.problems))
    if not json_:
        say(f"{opened.reference} is intact: {checked.summary()}")
