"""What sources of the web have in common: photographs at addresses, fetched as they arrive, by one set of rules.

Not here: which addresses, which each source lists, and how one is fetched (`preprocessing.crawl`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from preprocessing.crawl.fetch import DEFAULT_USER_AGENT, FetchConfig, Fetched
from preprocessing.crawl.hosts import Memory
from preprocessing.crawl.queues import arriving
from preprocessing.crawl.safety import host_refusal
from preprocessing.crawl.urls import WebAddress, web_address
from preprocessing.records import Item, Rejection
from preprocessing.reject import Reason, Rejected
from storage.errors import ConfigError


@dataclass(frozen=True)
class Web:
    """Photographs whose `ref` is their address; a source adds its `kind`, `description` and `items`."""

    fetch: FetchConfig
    # What was learned of the hosts, for as long as this object lives.
    _memory: Memory = field(default_factory=Memory, repr=False, compare=False, kw_only=True)
    # URLs as they were given, by refs that must differ: records hold no passwords, and nothing but Unicode text.
    _listed: dict[str, str] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    def address(self, item: Item) -> WebAddress:
        """Where the photograph is, with user and password if it has any; raises `Rejected` where it is nowhere."""
        return web_address(self._listed.get(item.ref, item.ref))

    def read(self, items: Sequence[Item]) -> Iterator[tuple[Item, bytes] | Rejection]:
        """The photographs as they arrive, in any order."""
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(self.arriving(items, Path(folder))) as batches,
        ):
            for batch in batches:
                for outcome in batch:
                    if isinstance(outcome, Rejection):
                        yield outcome
                    else:
                        item, fetched = outcome
                        yield item, fetched.body.path.read_bytes()

    def arriving(
        self, items: Sequence[Item], folder: Path
    ) -> Generator[list[tuple[Item, Fetched] | Rejection], None, None]:
        """What became of the items, in batches of a second at most, the bodies as files of `folder`.

        Spellings of one address are fetched once, and share a file. ConfigError where a host is public, and the user
        agent does not say who asks.
        """
        wanted: dict[WebAddress, list[Item]] = {}
        spelled: dict[tuple[str, tuple[str, str] | None], WebAddress] = {}
        rejections: list[tuple[Item, Fetched] | Rejection] = []
        for item in items:
            try:
                address = self.address(item)
            except Rejected as rejected:
                rejections.append(Rejection(item.ref, rejected.reason, detail=rejected.detail))
                continue
            address = spelled.setdefault((address.key, address.credentials), address)
            wanted.setdefault(address, []).append(item)
        check_contact(self.fetch, wanted)
        if rejections:
            yield rejections
        with closing(arriving(list(wanted), self.fetch, self._memory, folder)) as batches:
            for batch in batches:
                yield [
                    outcome for address, answer in batch for outcome in _outcomes(wanted.pop(address), answer)
                ]

    def web_rules(self) -> dict[str, object]:
        """The rules by which photographs of the web are refused, for a source's description."""
        rules = {"max_bytes", "max_redirects", "respect_robots", "respect_opt_out"}
        if not self.fetch.reject_synthetic:
            rules.add("reject_synthetic")
        return self.fetch.model_dump(mode="json", include=rules)


def check_contact(fetch: FetchConfig, addresses: Iterable[WebAddress]) -> None:
    """Raise ConfigError where a host is public, and the user agent does not say who asks."""
    if fetch.user_agent != DEFAULT_USER_AGENT:
        return
    public = next((address.host for address in addresses if host_refusal(address.host) is None), None)
    if public is not None:
        raise ConfigError(
            f"fetch.user_agent names nobody, and {public} is a public host, whose operator must be able to reach "
            f"you: --fetch.user-agent 'NAME/VERSION (+https://YOUR-PAGE; YOU@YOUR-DOMAIN)'"
        )


def _outcomes(
    items: Sequence[Item], answer: Fetched | Rejected
) -> Iterator[tuple[Item, Fetched] | Rejection]:
    """The outcome of each item of one address."""
    if isinstance(answer, Rejected):
        for item in items:
            yield Rejection(item.ref, answer.reason, detail=answer.detail)
        return
    sha256 = answer.body.sha256
    promised = [item.expected_sha256 in (None, sha256) for item in items]
    if not any(promised):
        answer.body.path.unlink()
    for item, is_promised in zip(items, promised, strict=True):
        if is_promised:
            yield item, answer
        else:
            detail = f"expected {item.expected_sha256}"
            yield Rejection(item.ref, Reason.CHECKSUM_MISMATCH, sha256, detail=detail)
