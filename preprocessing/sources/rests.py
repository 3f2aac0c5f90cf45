"""Services that are left alone as long as they asked for, by later runs of this machine too.

    with asker(access, Limits(interval_s=1.0), "huggingface.co") as service:
        service.download(web_address("https://huggingface.co/..."), path)

Not here: hosts of photographs, whose wishes the ledger keeps (`preprocessing.crawl.ledger`).
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from preprocessing.crawl.ask import Asker, Limits
from preprocessing.crawl.hosts import PutOff
from preprocessing.reject import Reason, Rejected
from preprocessing.sources.access import Access
from storage.errors import PipelineError
from storage.local import write_whole
from storage.records import StoredRecord

logger = logging.getLogger(__name__)


class RestRecord(StoredRecord):
    """Until when a service wants to be left alone, and in which words."""

    until: str
    detail: str


def asker(access: Access, limits: Limits, host: str) -> Asker:
    """What asks a service, not before it wants to be asked; `Rejected` where that is further off than a crawl waits."""
    path = access.store.path(f"cache/rests/{host}.json") if access.store is not None else None
    rest_s = 0.0

    def wished(rest: PutOff) -> None:
        if path is not None:
            record = RestRecord.new(until=rest.until.isoformat(), detail=rest.detail)
            write_whole(path, record.as_bytes(), durable=False)

    if path is not None and path.is_file():
        try:
            rest = RestRecord.read(path)
            rest_s = (datetime.fromisoformat(rest.until) - datetime.now(UTC)).total_seconds()
        except (PipelineError, ValueError, TypeError) as error:
            logger.warning("when a service wants to be asked again is not known: %s", error)
        else:
            if rest_s > access.fetch.max_wait_s:
                raise Rejected(Reason.SERVER_ERROR, rest.detail)
    return Asker(access.fetch, limits, wished, max(rest_s, 0.0))
