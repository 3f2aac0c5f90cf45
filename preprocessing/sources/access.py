"""What a source of the web is handed: how to fetch, which licences are wanted, keys, what was answered before.

A plug-in's opener is called with its argument and an `Access`. Not here: any one service.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from preprocessing.crawl.fetch import FetchConfig
from preprocessing.sources.licenses import LicensesConfig
from storage.store import Store

Secret = Callable[[str], str | None]
"""The value of a secret by its name, such as FLICKR_API_KEY; None where there is none."""


def environment(name: str) -> str | None:
    """A secret of the environment."""
    return os.environ.get(name) or None


def unsaid(num_listed: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Access:
    """Settings and means, none of them of one source alone; nothing here holds the value of a secret."""

    fetch: FetchConfig = field(default_factory=FetchConfig)
    licenses: LicensesConfig = field(default_factory=LicensesConfig)
    secret: Secret = environment
    store: Store | None = None
    """Where answers of services are kept for a day; None keeps none."""
    is_fresh: bool = False
    """Whether what was answered before is asked again."""
    speed: float = 1.0
    """How fast the services' clocks run: 1, but in a replay."""
    listed: Callable[[int], None] = unsaid
    """Is told how many photographs are listed so far, now and then."""
