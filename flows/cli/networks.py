"""The command `likeness import-network`. Not here: how such a file is read (`training.imports`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.output import answer, print_value
from flows.cli.parameters import FLAT, Json
from flows.options import StoreOptions
from storage.store import Store


def import_network(
    file: Annotated[Path, Parameter(help="A network file of NVIDIA's StyleGAN 1, a .pkl.")],
    *,
    name: Annotated[str, Parameter(help="What it is called here.")],
    license: Annotated[str, Parameter(help="The licence that the file is under.")] = "CC-BY-NC-4.0",
    origin: Annotated[str | None, Parameter(help="Where it was published, such as its address.")] = None,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Read the file, say what is in it, and stop.")
    ] = False,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    json_: Json = False,
) -> None:
    """Take in the networks of a StyleGAN 1 file, to draw with or to begin a training from.

    Nothing in the file is run: it may hold arrays of numbers, containers and network objects, and nothing else.
    """
    from training.imports import free_folder, read_networks, write_import

    store = Store(options.store)
    if dry_run:
        folder, networks = free_folder(store, name), read_networks(file)
        said = {"name": name, "license": license, "origin": origin, "folder": str(folder)}
        return print_value({**said, "config": networks.config.model_dump(mode="json")}, json_)
    imported = write_import(store, name, file, license=license, origin=origin)
    record = imported.record
    side = record.config["resolution"]
    answer(
        json_,
        {"folder": str(imported.folder), **record.shown()},
        f"import {name}: generator and discriminator of {side} px, {record.license}",
        f"  in {imported.folder}; next: likeness generate {name} --out grid.png",
    )
