"""The command line `likeness`: a file for each kind of command."""

from flows.cli.main import build_dataset_main, main

__all__ = ["build_dataset_main", "main"]
