"""What a row of the ledger means under today's settings: whether its photograph may be used, and whether to ask again.

A photograph that was fetched stays fetched whatever the settings are now; whether it may be used is judged by what was
said of it. A refusal has a class (`preprocessing.crawl.retry`) and an age: what is final is never asked again, what is
doubtful after some days, or when the user agent or the rule is another, and what is passing by the next build.

Not here: rows and their files (`preprocessing.crawl.ledger`), and requests.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Self

from pydantic import BaseModel, ConfigDict

from preprocessing.crawl.fetch import FetchConfig, refused
from preprocessing.crawl.retry import DOUBTFUL, FINAL, PASSING, outcome_of
from preprocessing.crawl.rows import GONE, KEPT, Entry, timestamp
from preprocessing.crawl.signals import Signals
from preprocessing.reject import Reason, Rejected

_BY_SIGNALS = frozenset({Reason.ROBOTS_DISALLOWED, Reason.OPTED_OUT, Reason.SYNTHETIC})


class Rule(BaseModel):
    """The settings that an address was asked under, as far as they can change the outcome."""

    model_config = ConfigDict(frozen=True)

    user_agent: str
    respect_robots: bool
    respect_opt_out: bool
    max_bytes: int
    max_redirects: int
    allow_networks: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: FetchConfig) -> Self:
        """The rule of some settings."""
        return cls.model_validate(config.model_dump(include=set(cls.model_fields)))


@dataclass(frozen=True)
class Standing:
    """Today's settings: by them rows are judged, at the time `now`.

    `retry` are reasons that are asked again whatever their age; what was asked before `refetch_since` is asked again.
    """

    config: FetchConfig
    now: datetime
    retry: frozenset[str] = frozenset()
    refetch_since: str | None = None
    _verdicts: dict[str, Rejected | None] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _rule(self) -> Rule:
        return Rule.of(self.config)

    @cached_property
    def _oldest(self) -> str:
        return timestamp(self.now - timedelta(days=self.config.doubtful_days))

    def refusal(self, entry: Entry, promised: str | None = None) -> Rejected | None:
        """Why the photograph of a row may not be used; None where it may. It must have the sha256 `promised`."""
        if entry.state == GONE or not self._is_had(entry):
            return Rejected(Reason(entry.reason or Reason.UNEXPECTED_ERROR), entry.detail)
        if (entry.num_bytes or 0) > self.config.max_bytes:
            return Rejected(Reason.TOO_MANY_BYTES, f"more than {self.config.max_bytes}")
        if rejected := self._by_signals(entry.signals):
            return rejected
        if promised not in (None, entry.sha256):
            return Rejected(Reason.CHECKSUM_MISMATCH, f"expected {promised}")
        return None

    def withdrawal(self, entry: Entry) -> Rejected | None:
        """Why a photograph that was had may not be used any more; None where it may, or its host may answer again."""
        rejected = self.refusal(entry)
        return rejected if rejected and outcome_of(rejected) != PASSING else None

    def is_due(self, entry: Entry, promised: Collection[str | None], *, is_stored: bool) -> bool:
        """Whether to ask for the address of a row.

        `promised` are the hashes that its items must have, None of an item that takes any; `is_stored` is whether the
        photograph of the row lies in the store.
        """
        if entry.state == GONE:
            return False
        if self.refetch_since is not None:
            return entry.asked_at < self.refetch_since
        if entry.reason in self.retry:
            return True
        if entry.state == KEPT:
            return (
                not is_stored
                or (None not in promised and entry.sha256 not in promised)
                or self._asks_more(entry.rule)
                or (entry.outcome == DOUBTFUL and self._is_old(entry))
            )
        if entry.outcome == FINAL:
            return False
        if entry.outcome == PASSING or self._is_old(entry):
            return True
        reason = Reason(entry.reason or "")
        if reason is Reason.CHECKSUM_MISMATCH:
            return None in promised or entry.sha256 in promised
        if entry.rule is None:
            return False
        then = _rule(entry.rule)
        if reason in _BY_SIGNALS and then.user_agent == self.config.user_agent:
            is_allowed = self._by_signals(entry.signals) is None
            return is_allowed and not (is_stored and self._is_had(entry))
        return then != self._rule

    def _is_had(self, entry: Entry) -> bool:
        """Whether a photograph was fetched, and nothing but a signal was ever against it."""
        if entry.state == KEPT:
            return True
        return entry.sha256 is not None and Reason(entry.reason or "") in _BY_SIGNALS

    def _asks_more(self, rule: str | None) -> bool:
        """Whether something would be looked at today that was not when a photograph was fetched."""
        if rule is None:
            return False
        then, now = _rule(rule), self.config
        return now.respect_robots > then.respect_robots or now.respect_opt_out > then.respect_opt_out

    def _is_old(self, entry: Entry) -> bool:
        return entry.asked_at < self._oldest

    def _by_signals(self, signals: str | None) -> Rejected | None:
        """What the policy makes of the evidence, which many rows have in common."""
        if signals is None:
            return None
        if signals not in self._verdicts:
            if len(self._verdicts) > 4096:
                self._verdicts.clear()
            self._verdicts[signals] = refused(Signals.model_validate_json(signals), self.config.signals)
        return self._verdicts[signals]


@lru_cache(maxsize=1024)
def _rule(text: str) -> Rule:
    return Rule.model_validate_json(text)
