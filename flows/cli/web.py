"""Commands about what was fetched from the web: ledger, recheck.

Not here: fetching (`flows.stages.crawl`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.output import answer, print_value
from flows.cli.parameters import FLAT, DryRun, Json
from flows.options import StoreOptions
from preprocessing.config import BuildConfig
from storage.errors import ConfigError
from storage.store import Store
from storage.wording import plural


def ledger(
    dataset: Annotated[str, Parameter(help="NAME or NAME@VERSION.")],
    *,
    warc: Annotated[Path | None, Parameter(help="Write what was answered to this file, as WARC 1.1.")] = None,
    limit: Annotated[int, Parameter(help="How many hosts to print.")] = 20,
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    json_: Json = False,
) -> None:
    """Say what was asked for a dataset: by host, and by reason and class of what was refused."""
    from preprocessing.crawl.summary import entries_of, summary_of
    from preprocessing.crawl.warc import write_warc
    from storage.datasets.dataset import open_dataset

    opened = open_dataset(Store(options.store), dataset)
    summary = summary_of(entries_of(opened))
    value = {"dataset": opened.reference, **summary.as_json()}
    lines = [opened.reference, *summary.lines(limit)]
    if warc is not None:
        num = write_warc(warc, entries_of(opened), opened.store, opened.reference)
        value["warc"] = {"file": str(warc), "records": num}
        lines.append(f"{num:,} {plural(num, 'record')} in {warc}")
    answer(json_, value, *lines)


def recheck(
    dataset: Annotated[str, Parameter(help="NAME or NAME@VERSION.")],
    *,
    config: Annotated[BuildConfig, FLAT] = BuildConfig(),
    options: Annotated[StoreOptions, FLAT] = StoreOptions(),
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Ask again, conditionally, whether pages, licences, robots.txt and signals of a dataset's photographs still hold.

    Settings of --fetch count, and those of the build where none is given. Nothing is removed.
    """
    from preprocessing.config import recorded_config
    from preprocessing.recheck import recheck as ask_again
    from storage.datasets.dataset import open_dataset

    if others := sorted(config.model_fields_set - {"fetch"}):
        raise ConfigError(f"a recheck takes --fetch options only, not --{others[0].replace('_', '-')}")
    opened = open_dataset(Store(options.store), dataset)
    given = {name: getattr(config.fetch, name) for name in config.fetch.model_fields_set}
    fetch = recorded_config(opened).fetch.model_copy(update=given)
    if dry_run:
        return print_value({"dataset": opened.reference, "fetch": fetch.model_dump(mode="json")}, json_)
    record = ask_again(opened, fetch)
    lines = [
        f"{opened.reference}: {record.photographs:,} photographs of the web asked again",
        f"  {record.holds:,} hold, of which {record.changed:,} have another photograph now",
        f"  {record.unreachable:,} could not be reached, and are as they were",
        f"  {len(record.withdrawn):,} were withdrawn",
    ]
    lines += [f"    {count:,} by {signal}" for signal, count in record.by_signal.items()]
    answer(json_, record.as_json(), *lines)
