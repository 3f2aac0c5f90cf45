"""What hosts publish of how they may be asked, as far as a crawler of photographs meets them.

A crawl goes no faster, whatever its settings say; slower settings hold. Not here: what a host says while it is asked,
which is `Crawl-delay` and `Retry-After`, and services that answer in JSON (`preprocessing.crawl.ask`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Requests at once, the least time between the starts of two, and the bytes a second of all of them together."""

    at_once: int
    delay_s: float = 0.0
    bytes_per_s: float = math.inf


PUBLISHED = {
    "upload.wikimedia.org": Published(2, bytes_per_s=25e6 / 8),  # robot policy: media
    "wikimedia.org": Published(9, 0.06),  # robot policy: pages, under 10 at once and under 20 a second
    "wikipedia.org": Published(9, 0.06),
    "wikidata.org": Published(9, 0.06),
    "unitedstates.github.io": Published(1),  # none is published; its bandwidth is limited by the month
    "loc.gov": Published(1, 1.0),  # working within limits: 10 items in 10 s
    "tile.loc.gov": Published(1, 0.25),  # 40 resources in 10 s
    "metmuseum.org": Published(1, 1.0),  # refuses far below the 80 a second that it documents
}
"""By host; a name stands for the names below it that have no entry."""
FREE = Published(2**31)


def published(host: str) -> Published:
    """What holds for a host: of itself, or of the nearest name above it."""
    while host not in PUBLISHED and "." in host:
        host = host.partition(".")[2]
    return PUBLISHED.get(host, FREE)
