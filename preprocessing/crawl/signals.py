"""What a host, a file or a source says against the use of a photograph, as evidence, and the policy that judges it.

    verdict = policy(signals, SignalsConfig())

Evidence is what was said, where, and in which words, whether or not today's policy honours it: a stricter policy is
applied later to what was stored, without asking anybody again. Not here: how signals are read
(`preprocessing.crawl.readers`), and what to do about a verdict.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from itertools import chain
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from preprocessing.reject import Reason
from storage.config import Config, comma_separated


class Signal(StrEnum):
    """What may refuse a photograph, in the order in which a verdict looks for it."""

    ROBOTS = "robots.txt"
    CONTENT_USAGE = "content-usage"
    CONTENT_SIGNAL = "content-signal"
    X_ROBOTS_TAG = "x-robots-tag"
    TDM_RESERVATION = "tdm-reservation"
    C2PA_TRAINING = "c2pa-training"
    PLUS_DATA_MINING = "plus-data-mining"
    NO_CV = "no-cv"
    SYNTHETIC = "synthetic"


class Place(StrEnum):
    """Where a signal stands."""

    ROBOTS_TXT = "robots.txt"
    TDMREP = "tdmrep.json"
    HEADER = "header"
    FILE = "file"
    SOURCE = "source"


class Evidence(BaseModel):
    """What one place says, in its own words and in ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    signal: Signal
    place: Place
    text: str
    """The words as they stand there, cut where they are long."""
    says: tuple[str, ...]
    """What they mean, a token each: disallow, noai, train-ai=n, DMI-PROHIBITED. Empty where they mean nothing."""
    name: str | None = None
    """Of the header, or of the property or assertion of the file."""
    line: int | None = None
    """Of robots.txt, or the rule of tdmrep.json, counted from 1."""
    group: str | None = None
    """Of robots.txt: the crawlers that it is said to."""
    agent: str | None = None
    """Of robots.txt: the name under which it was asked."""


class Hop(BaseModel):
    """A redirect on the way to a photograph: what was looked at for it, and what was found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    """The address that answered with it, without credentials."""
    looked_at: tuple[Signal, ...] = ()
    evidence: tuple[Evidence, ...] = ()


class Signals(BaseModel):
    """What was looked at for one photograph, and what was found; what is looked at may say nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    looked_at: tuple[Signal, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    """Of the address that gave the photograph, or refused it."""
    hops: tuple[Hop, ...] = ()
    """The redirects that led to it."""

    def __add__(self, other: Signals) -> Signals:
        """Both together."""
        if not (self.evidence or other.evidence or self.hops or other.hops):  # as of most photographs
            return _silent(self.looked_at, other.looked_at)
        looked_at = _in_order(self.looked_at, other.looked_at)
        return Signals(
            looked_at=looked_at, evidence=self.evidence + other.evidence, hops=self.hops + other.hops
        )

    def of(self, *places: Place) -> Signals:
        """What stands in some places, and was looked at there; redirects stand in headers."""
        evidence = tuple(one for one in self.evidence if one.place in places)
        looked_at = (
            signal for signal in self.looked_at if any(place in places for place in PLACES_OF[signal])
        )
        hops = self.hops if Place.HEADER in places else ()
        return Signals(looked_at=tuple(looked_at), evidence=evidence, hops=hops)

    def redirected(self, url: str) -> Signals:
        """The same before anything is known of the address that a redirect of `url` leads to."""
        return Signals(hops=(*self.hops, Hop(url=url, looked_at=self.looked_at, evidence=self.evidence)))


NOTHING = Signals()
"""Nothing was looked at."""


@lru_cache(maxsize=1024)
def _silent(*found: tuple[Signal, ...]) -> Signals:
    """What was looked at, and said nothing."""
    return Signals(looked_at=_in_order(*found))


def _in_order(*found: tuple[Signal, ...]) -> tuple[Signal, ...]:
    """Signals of several, each once."""
    together = {signal for some in found for signal in some}
    return tuple(signal for signal in Signal if signal in together)


PLACES_OF = {
    Signal.ROBOTS: (Place.ROBOTS_TXT,),
    Signal.CONTENT_USAGE: (Place.ROBOTS_TXT, Place.HEADER),
    Signal.CONTENT_SIGNAL: (Place.ROBOTS_TXT, Place.HEADER),
    Signal.X_ROBOTS_TAG: (Place.HEADER,),
    Signal.TDM_RESERVATION: (Place.TDMREP, Place.HEADER),
    Signal.C2PA_TRAINING: (Place.FILE,),
    Signal.PLUS_DATA_MINING: (Place.FILE,),
    Signal.NO_CV: (Place.SOURCE,),
    Signal.SYNTHETIC: (Place.FILE,),
}
"""Where each signal may stand."""


Words = BeforeValidator(comma_separated)


class SignalsConfig(Config):
    """Which signals refuse a photograph; all of them do by default."""

    honoured: Annotated[tuple[Signal, ...], Words] = Field(
        default=tuple(Signal),
        description="Signals that may refuse a photograph; the others are only recorded.",
    )
    x_robots_tag: Annotated[tuple[str, ...], Words] = Field(
        default=("noai", "noimageai", "noml"),
        description="Directives of X-Robots-Tag that refuse; noindex and noimageindex may be added.",
    )
    content_usage: Annotated[tuple[str, ...], Words] = Field(
        default=("train-ai", "train-genai"), description="Uses of Content-Usage whose `n` refuses."
    )
    content_signal: Annotated[tuple[str, ...], Words] = Field(
        default=("ai-train",), description="Uses of Content-Signal whose `no` refuses."
    )
    c2pa_training: Annotated[tuple[str, ...], Words] = Field(
        default=("data_mining", "ai_training", "ai_generative_training", "ai_inference"),
        description="Entries of C2PA's training and mining that refuse where they are not plainly allowed.",
    )
    synthetic: Annotated[tuple[str, ...], Words] = Field(
        default=(
            "trainedAlgorithmicMedia",
            "compositeWithTrainedAlgorithmicMedia",
            "compositeSynthetic",
            "algorithmicMedia",
        ),
        description="IPTC's digital source types of pictures that are no photographs.",
    )


class Verdict(BaseModel):
    """Whether a photograph may be used, and by which rule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    is_allowed: bool
    rule: str
    """The signal and the statement that decided, or that nothing refuses."""
    reason: str | None = None
    """Of the rejection: robots_disallowed, opted_out or synthetic."""
    evidence: Evidence | None = None
    """Where the rule was found; None where nothing was said."""
    unread: tuple[Signal, ...] = ()
    """Signals that the policy honours and nobody looked at."""


def policy(signals: Signals, config: SignalsConfig) -> Verdict:
    """The verdict on one photograph: one honoured statement that refuses it is enough, of a redirect to it too."""
    places = [*(hop.evidence for hop in signals.hops), signals.evidence]
    unread = tuple(signal for signal in config.honoured if signal not in signals.looked_at)
    for signal in Signal:
        if signal not in config.honoured:
            continue
        for evidence in chain.from_iterable(_standing(evidence, signal) for evidence in places):
            for said in evidence.says:
                if _refuses(signal, said, config):
                    reason = _REASONS.get(signal, Reason.OPTED_OUT.value)
                    rule = f"{signal}: {said}"
                    return Verdict(
                        is_allowed=False, rule=rule, reason=reason, evidence=evidence, unread=unread
                    )
    allowing = next((one for one in signals.evidence if one.says == ("allow",)), None)
    rule = f"{Signal.ROBOTS}: allow" if allowing else "nothing refuses"
    return Verdict(is_allowed=True, rule=rule, evidence=allowing, unread=unread)


_REASONS = {Signal.ROBOTS: Reason.ROBOTS_DISALLOWED.value, Signal.SYNTHETIC: Reason.SYNTHETIC.value}


def _refuses(signal: Signal, said: str, config: SignalsConfig) -> bool:
    name, _, value = said.partition("=")
    match signal:
        case Signal.ROBOTS:
            return said in ("disallow", "unreachable")
        case Signal.CONTENT_USAGE:
            return value == "n" and name in config.content_usage
        case Signal.CONTENT_SIGNAL:
            return value == "no" and name in config.content_signal
        case Signal.X_ROBOTS_TAG:
            return said in config.x_robots_tag
        case Signal.TDM_RESERVATION:
            return said == "1"
        case Signal.C2PA_TRAINING:
            return value.lower() != "allowed" and name in config.c2pa_training
        case Signal.PLUS_DATA_MINING:
            return "PROHIBITED" in said
        case Signal.NO_CV:
            return said == "no_cv"
        case Signal.SYNTHETIC:
            return said.lower() in {one.lower() for one in config.synthetic}


def _standing(evidence: Iterable[Evidence], signal: Signal) -> list[Evidence]:
    """The evidence of a signal that holds: a TDM reservation of the header replaces that of the host's file."""
    found = [one for one in evidence if one.signal is signal]
    if signal is Signal.TDM_RESERVATION and any(one.place is Place.HEADER and one.says for one in found):
        return [one for one in found if one.place is not Place.TDMREP]
    return found
