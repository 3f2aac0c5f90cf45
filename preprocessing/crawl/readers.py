"""Readers of every signal against the use of a photograph: text of a host, a file or a source in, evidence out.

    read = read_robots(parse_robots(body), "/a.jpg", agents) + read_headers(headers, agents) + read_photograph(data)

    robots.txt          Allow and Disallow (RFC 9309)
    content-usage       `train-ai=n` in robots.txt or a header (draft-ietf-aipref-attach, draft-ietf-aipref-vocab)
    content-signal      `ai-train=no` in robots.txt or a header (contentsignals.org)
    x-robots-tag        `noai` and its kin in a header (de facto)
    tdm-reservation     a header, or /.well-known/tdmrep.json (TDMRep, W3C Community Group final report, 2024-05-10)
    c2pa-training       `c2pa.training-mining` (C2PA) or `cawg.training-mining` (CAWG 1.1) in the file
    plus-data-mining    `plus:DataMining` (IPTC Photo Metadata, PLUS) in the file
    no-cv               a source's own flag (FFHQ's README, Privacy)
    synthetic           `DigitalSourceType` (IPTC NewsCodes) in the file: the picture is no photograph

Nothing that a server or a file says may raise. Not here: requests, and what is made of the evidence
(`preprocessing.crawl.signals`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from preprocessing.crawl.retry import may_pass
from preprocessing.crawl.robots_txt import (
    RobotsTxt,
    Rule,
    deciding,
    parse_robots,
    path_matches,
    stating,
)
from preprocessing.crawl.signals import Evidence, Place, Signal, Signals
from preprocessing.photo.c2pa import statements
from preprocessing.photo.embedded import embedded
from preprocessing.photo.xmp import properties

BOT = "likeness"
"""The name by which the crawler may be addressed, whoever operates it."""
TDMREP_PATH = "/.well-known/tdmrep.json"

_LONGEST_TEXT = 1000
_MOST_OF_FILE = 1000
_MOST_BROKEN_RULES = 100
"""Of a tdmrep.json that is no JSON; after these, nothing more is read of it."""
_PRODUCT = r"([^\s/;,()]+)"
_FIRST_PRODUCT = re.compile(rf"\s*{_PRODUCT}")
_COMPATIBLE = re.compile(rf"compatible;\s*{_PRODUCT}", re.IGNORECASE)

_DIRECTIVES = frozenset(
    {
        "all",
        "none",
        "noindex",
        "nofollow",
        "noarchive",
        "nocache",
        "nosnippet",
        "noodp",
        "notranslate",
        "noai",
    }
    | {"noimageai", "noml", "noimageindex", "indexifembedded", "index", "follow"}
)
"""Of X-Robots-Tag, those that take no value."""
_TAKES_VALUE = re.compile(r"max-[a-z-]+|unavailable_after")
_BOT_NAME = re.compile(r"[a-z*][a-z0-9_.*+-]*(?:/[0-9a-z_.+-]*)?")
_WORD = re.compile(r"[a-z0-9_-]{1,40}")
_EVERYBODY = frozenset({"*", "all", "robots"})

_MEMBER = re.compile(r'(?:"(?:[^"\\]|\\.|\\$)*(?:"|$)|[^",])+', re.DOTALL)
_PREFERENCE = re.compile(r"([a-z*][a-z0-9_.*-]{0,63})[ \t]*=[ \t]*([A-Za-z0-9]{1,16})")
_RESERVED = {"1": "1", "true": "1", "0": "0", "false": "0"}


def product_tokens(user_agent: str) -> tuple[str, ...]:
    """The names, in lower case, by which a crawler may be addressed: that of its User-Agent, and `BOT`.

    The name is the first product's (RFC 9309, section 2.2.1), or where that is Mozilla, the one it is compatible with.
    """
    product = _FIRST_PRODUCT.match(user_agent)
    if product and product[1].lower() == "mozilla":
        product = _COMPATIBLE.search(user_agent)
    own = [product[1].lower()] if product else []
    return tuple(dict.fromkeys([*own, BOT]))


def read_robots_answer(status: int, body: bytes | str, target: str, agents: Sequence[str]) -> Signals:
    """What the answer to a request for robots.txt says of a path and query.

    A server that fails forbids everything for now; one that has none, or denies it, allows everything (RFC 9309,
    sections 2.3.1.3 and 2.3.1.4).
    """
    if may_pass(status):
        return unreachable_robots(f"status {status}")
    return read_robots(parse_robots(body if 200 <= status < 300 else ""), target, agents)


def unreachable_robots(why: str) -> Signals:
    """A robots.txt that could not be had, which forbids everything for now."""
    said = Evidence(signal=Signal.ROBOTS, place=Place.ROBOTS_TXT, text=_kept(why), says=("unreachable",))
    return Signals(looked_at=(Signal.ROBOTS,), evidence=(said,))


def read_robots(robots: RobotsTxt, target: str, agents: Sequence[str]) -> Signals:
    """What a robots.txt says of a path and query, asked under each of a crawler's names: the rules that decide."""
    evidence = []
    for agent, rules, usages, signals in robots.said_to(agents):
        if rule := deciding(rules, target):
            evidence.append(_of_line(Signal.ROBOTS, rule, agent))
        for rule in stating(usages, target):
            evidence.append(_of_line(Signal.CONTENT_USAGE, rule, agent))
        for rule in stating(signals, target):
            evidence.append(_of_line(Signal.CONTENT_SIGNAL, rule, agent))
    return Signals(looked_at=(Signal.ROBOTS,), evidence=tuple(evidence)) if evidence else _SILENT_ROBOTS


def read_headers(headers: Iterable[tuple[str, str]], agents: Sequence[str]) -> Signals:
    """What the headers of a photograph's answer say to a crawler of these names; a field may come several times."""
    evidence = []
    for name, value in headers:
        if (key := name.lower()) not in _SPEAKING:
            continue
        match key:
            case "x-robots-tag":
                signal, says = Signal.X_ROBOTS_TAG, _directives(value.lower(), frozenset(agents))
            case "content-usage":
                signal, says = Signal.CONTENT_USAGE, _preferences(value)
            case "content-signal":
                signal, says = Signal.CONTENT_SIGNAL, _preferences(value.lower())
            case _:
                signal, says = Signal.TDM_RESERVATION, _reservations(value)
        evidence.append(
            Evidence(signal=signal, place=Place.HEADER, name=_kept(name), text=_kept(value), says=_once(says))
        )
    if not evidence:
        return _SILENT_HEADERS
    return Signals(looked_at=_SILENT_HEADERS.looked_at, evidence=tuple(evidence))


def read_tdmrep(body: bytes | str, target: str) -> Signals:
    """What a host's tdmrep.json says of a path and query: the first rule in sequence whose location matches."""
    if not body:
        return _NO_TDMREP
    path = target.partition("?")[0]
    evidence: tuple[Evidence, ...] = ()
    for number, rule in enumerate(_tdm_rules(body), start=1):
        location, reservation, terms = map(rule.get, ("location", "tdm-reservation", "tdm-policy"))
        if isinstance(location, str) and (path_matches(location, target) or path_matches(location, path)):
            if isinstance(reservation, float) and reservation.is_integer():
                reservation = int(reservation)
            said = str(reservation) if isinstance(reservation, str | int | float) else ""
            text = f"{location} {said} {terms if isinstance(terms, str) else ''}"
            evidence = (
                Evidence(
                    signal=Signal.TDM_RESERVATION,
                    place=Place.TDMREP,
                    text=_kept(text.strip()),
                    says=_once(_reservations(said)),
                    line=number,
                ),
            )
            break
    return Signals(looked_at=(Signal.TDM_RESERVATION,), evidence=evidence)


_SILENT_ROBOTS = Signals(looked_at=(Signal.ROBOTS,))
_SILENT_HEADERS = Signals(
    looked_at=(Signal.CONTENT_USAGE, Signal.CONTENT_SIGNAL, Signal.X_ROBOTS_TAG, Signal.TDM_RESERVATION)
)
_SILENT_FILE = Signals(looked_at=(Signal.C2PA_TRAINING, Signal.PLUS_DATA_MINING, Signal.SYNTHETIC))
_NO_TDMREP = Signals(looked_at=(Signal.TDM_RESERVATION,))
_SPEAKING = frozenset({"x-robots-tag", "content-usage", "content-signal", "tdm-reservation"})
"""Headers that say something."""


def read_photograph(data: bytes) -> Signals:
    """What the XMP and the C2PA manifests of a file say, each thing once."""
    evidence = dict.fromkeys(islice(_in_file(data), _MOST_OF_FILE))
    if not evidence:
        return _SILENT_FILE
    return Signals(looked_at=_SILENT_FILE.looked_at, evidence=tuple(evidence))


def read_source(no_cv: bool, text: str = "no_cv") -> Signals:
    """What a source's list says: `no_cv` where the owner wants no computer vision, `text` in the list's words."""
    said = Evidence(signal=Signal.NO_CV, place=Place.SOURCE, text=_kept(text), says=("no_cv",))
    return Signals(looked_at=(Signal.NO_CV,), evidence=(said,) if no_cv else ())


_OF_PROPERTY = {"use": Signal.C2PA_TRAINING, "DigitalSourceType": Signal.SYNTHETIC}


@lru_cache(maxsize=4096)
def _of_line(signal: Signal, rule: Rule, agent: str) -> Evidence:
    """What a rule says to one of a crawler's names; most photographs of a host are under few rules."""
    return Evidence(
        signal=signal,
        place=Place.ROBOTS_TXT,
        text=_kept(rule.text),
        says=_said_by(signal, rule),
        line=rule.line,
        group=_kept(rule.group),
        agent=_kept(agent),
    )


def _said_by(signal: Signal, rule: Rule) -> tuple[str, ...]:
    if signal is Signal.ROBOTS:
        return (rule.kind,)
    return _once(_preferences(rule.value if signal is Signal.CONTENT_USAGE else rule.value.lower()))


def _in_file(data: bytes) -> Iterator[Evidence]:
    found = embedded(data)
    for packet in found.xmp:
        for one in properties(packet):
            yield _of_file(
                one.name, one.value, f"XMP {one.name}{'' if one.is_parsed else ', not well-formed'}"
            )
    for store in found.c2pa:
        for said in statements(store):
            yield _of_file(said.name, said.value, f"C2PA {said.label}")


def _of_file(name: str, value: str, where: str) -> Evidence:
    signal = _OF_PROPERTY.get(name, Signal.PLUS_DATA_MINING)
    term = re.split("[/:#]", value.rstrip("/#"))[-1].strip()  # vocabularies give their terms as addresses
    mining = term if term.upper().startswith("DMI-") else value  # words, where some tool has written those
    said = {"use": value, "DataMining": mining.upper(), "DigitalSourceType": term}.get(name)
    says = () if said is None else (_kept(said),)
    return Evidence(signal=signal, place=Place.FILE, name=_kept(where), text=_kept(value), says=says)


def _directives(value: str, agents: frozenset[str]) -> Iterator[str]:
    """The directives of one X-Robots-Tag, in lower case, that are said to everybody or to one of `agents`.

    `name: directive` turns to the crawler of that name, for all that follows; `name: value` is a directive of its own,
    which a name that is not known is taken for as well, so that an opt-out behind it is not lost.
    """
    is_ours = True
    for part in re.split("[,;]", value):
        part = part.strip(" \t\"'")
        name, colon, rest = (piece.strip() for piece in part.partition(":"))
        if (
            colon
            and _BOT_NAME.fullmatch(name)
            and (name in _EVERYBODY or not _is_directive(name))
            and (not rest or _is_directive(rest))
        ):
            is_ours = name.partition("/")[0] in agents | _EVERYBODY
            part, (name, colon, rest) = rest, (piece.strip() for piece in rest.partition(":"))
        if not is_ours:
            continue
        if _WORD.fullmatch(name):
            yield name
            yield from (word for word in rest.split()[1:] if word in _DIRECTIVES)  # a comma is missing
        else:
            yield from (word for word in part.split() if word in _DIRECTIVES)


def _is_directive(text: str) -> bool:
    """Whether a text begins with a directive that is known."""
    words = re.split(r"[\s:]+", text, maxsplit=1)
    return words[0] in _DIRECTIVES or _TAKES_VALUE.fullmatch(words[0]) is not None


def _preferences(value: str) -> Iterator[str]:
    """The members of a dictionary (RFC 9651, section 3.2) whose value is a token, as `train-ai=n`.

    Keys have case, parameters mean nothing, and a value of another kind is unknown (draft-ietf-aipref-vocab, 6.4). A
    member that is malformed takes none of the others with it, and of two for one key both are said: any `n` refuses.
    """
    for member in _MEMBER.finditer(value):
        if preference := _PREFERENCE.fullmatch(member[0].partition(";")[0].strip()):
            yield f"{preference[1]}={preference[2]}"


def _reservations(value: str) -> Iterator[str]:
    """0 or 1; another value is as if none were set (TDMRep, section 5)."""
    for part in value.split(","):
        if (said := part.partition(";")[0].strip(" \t\"'").lower()) in _RESERVED:
            yield _RESERVED[said]


@lru_cache(maxsize=16)
def _tdm_rules(body: bytes | str) -> tuple[dict[str, Any], ...]:
    """The rules of a tdmrep.json; of one that is no JSON, as one that was cut, those that are whole."""
    try:
        rules = json.loads(body.lstrip("\ufeff") if isinstance(body, str) else body)
    except ValueError:
        text = body if isinstance(body, str) else body.decode("utf-8", "surrogateescape")
        rules = list(_whole_rules(text))
    except RecursionError:
        return ()
    rules = [rules] if isinstance(rules, dict) else rules
    return tuple(rule for rule in rules if isinstance(rule, dict)) if isinstance(rules, list) else ()


def _whole_rules(text: str) -> Iterator[Any]:
    decoder, at, num_broken = json.JSONDecoder(), text.find("{"), 0
    while at >= 0 and num_broken < _MOST_BROKEN_RULES:
        try:
            rule, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            num_broken += 1
            at += 1
        else:
            yield rule
        at = text.find("{", at)


def _once(says: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(says))


def _kept(text: str) -> str:
    """Text that any record can hold: bytes that were no UTF-8 are escaped, and what is long is cut."""
    return text[:_LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()
