"""robots.txt (RFC 9309), read with the line that each rule stands on, so that a decision can name its evidence.

Beyond Allow and Disallow it reads Crawl-delay, `Content-Usage` (draft-ietf-aipref-attach) and `Content-Signal`
(contentsignals.org), which say what may be done with what was fetched. Where a file breaks the grammar it is read as
the large crawlers read it, and in doubt as its author must have meant it: misspelt fields, a missing colon, a byte
order mark. Anything is a robots.txt: reading never raises.
Not here: fetching it (`preprocessing.crawl.robots`), and what its words mean (`preprocessing.crawl.signals`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote

MAX_BYTES = 512 * 1024
"""Read at most; RFC 9309, section 2.5, asks for 500 KiB."""

_LONGEST_GROUP = 1000
"""Characters of a group's names that its rules carry."""
_FIELD = re.compile(
    r"(?P<agent>user[- ]?agent)|(?P<disallow>dis{1,2}al{1,2}ow|diasllow|disallaw)|(?P<allow>allow)"
    r"|(?P<delay>crawl[- ]?delay)|(?P<usage>content-usage)|(?P<signal>content-signal)",
    re.IGNORECASE,
)
_ENDS_OF_FIELD = re.compile(r"[ \t]*:[ \t]*|[ \t]+|$")
_LINE_END = re.compile(r"\r\n|\r|\n")
_BLANK = " \t\v\f\u0085\u00a0\u2028\u2029\u3000\u200b\u2060\ufeff"
"""Around what a line says: what was copied from a page, or of files that were put together, is no reason to miss it."""
_PRODUCT = re.compile(r"[^\s/;,()*]+")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_LONE_PER_CENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LONE_WITHIN = re.compile(r"%(?![0-9A-Fa-f]{2}|[0-9A-Fa-f]?(?:\*|\Z))")
"""In a pattern: one at the end of a part may be the beginning of an escape."""
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
DECIDING = ("allow", "disallow")
"""The kinds of rules of which one decides on a path."""
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a group: `kind` is allow, disallow, usage or signal, and `value` what the last two say."""

    kind: str
    pattern: str
    value: str
    line: int
    text: str
    group: str
    """The crawlers that its group names, as the file has them."""
    prefix: str
    """What every path begins with that the pattern matches."""


Said = tuple[str, tuple[Rule, ...], tuple[Rule, ...], tuple[Rule, ...]]
"""A crawler's name, and for it the rules of which one decides, those of kind usage, and those of kind signal."""


@dataclass(frozen=True, slots=True)
class Group:
    """What one file asks of some crawlers, by their product tokens in lower case; `*` is all the others."""

    agents: frozenset[str]
    rules: tuple[Rule, ...]
    delay_s: float | None


@dataclass(frozen=True, slots=True)
class RobotsTxt:
    """A file's groups, in its order."""

    groups: tuple[Group, ...]
    _found: dict[tuple[str, ...], tuple[Rule, ...]] = field(default_factory=dict, repr=False, compare=False)
    _spoken: dict[tuple[str, ...], tuple[Said, ...]] = field(default_factory=dict, repr=False, compare=False)

    def said_to(self, agents: Sequence[str]) -> tuple[Said, ...]:
        """The rules for a crawler under each of its names for which there are any."""
        found = self._spoken.get(agents := tuple(agents))
        if found is None:
            rules = self.rules
            said = ((one, rules(one, *DECIDING), rules(one, "usage"), rules(one, "signal")) for one in agents)
            found = self._spoken[agents] = tuple(one for one in said if any(one[1:]))
        return found

    def rules(self, agent: str, *kinds: str) -> tuple[Rule, ...]:
        """The rules of some kinds for a crawler: of the groups that name it, or of those for everybody (2.2.1)."""
        found = self._found.get((agent, *kinds))
        if found is None:
            rules = (rule for group in self._of(agent) for rule in group.rules)
            found = self._found[agent, *kinds] = tuple(rule for rule in rules if rule.kind in kinds)
        return found

    def delay_s(self, agent: str) -> float | None:
        """The longest wait between requests that a crawler is asked for."""
        return max((group.delay_s for group in self._of(agent) if group.delay_s is not None), default=None)

    def _of(self, agent: str) -> list[Group]:
        agent = agent.lower()
        named = [group for group in self.groups if agent in group.agents]
        return named or [group for group in self.groups if "*" in group.agents]


def parse_robots(data: bytes | str) -> RobotsTxt:
    """The file that `data` is, its first `MAX_BYTES`; never raises."""
    groups: list[Group] = []
    names: list[str] = []
    agents: set[str] = set()
    rules: list[Rule] = []
    delay_s: float | None = None
    group = ""
    is_open = False  # whether the next User-agent joins those before it

    def close() -> None:
        if agents:
            groups.append(Group(frozenset(agents), tuple(rules), delay_s))

    for number, text in enumerate(_LINE_END.split(_text(data)), start=1):
        read = _field(text)
        if read is None:
            continue
        kind, value = read
        if kind == "agent":
            if not is_open:
                close()
                names, agents, rules, delay_s, group, is_open = [], set(), [], None, "", True
            names.append(value)
            if value.startswith("*"):
                agents.add("*")
            elif product := _PRODUCT.match(value):
                agents.add(product[0].lower())
            continue
        is_open = False
        if kind == "delay":
            delay_s = _longer(delay_s, value)
        elif value and names:
            pattern, said = (value, "") if kind in ("allow", "disallow") else _path_and_rest(value)
            group = group or ", ".join(names)[:_LONGEST_GROUP]
            pattern = _normalised_pattern(pattern)
            prefix = pattern.removesuffix("$").partition("*")[0]
            rules.append(Rule(kind, pattern, said, number, text.strip(), group, prefix))
    close()
    return RobotsTxt(tuple(groups))


def deciding(rules: tuple[Rule, ...], target: str) -> Rule | None:
    """Of rules of `DECIDING` the one that decides on a path and query: the longest that matches, Allow of two (2.2.2).

    None where no rule speaks of it, which allows it; robots.txt itself is always allowed.
    """
    if not rules or target == "/robots.txt":
        return None
    target = _normalised_target(target)
    matching = [rule for rule in rules if target.startswith(rule.prefix) and _matches(rule.pattern, target)]
    return max(matching, key=lambda rule: (len(rule.pattern), rule.kind == "allow"), default=None)


def stating(rules: tuple[Rule, ...], target: str) -> list[Rule]:
    """Of rules of one kind (usage or signal) those that hold for a path and query: of the longest pattern, all."""
    if not rules:
        return []
    target = _normalised_target(target)
    matching = [rule for rule in rules if target.startswith(rule.prefix) and _matches(rule.pattern, target)]
    longest = max((len(rule.pattern) for rule in matching), default=0)
    return [rule for rule in matching if len(rule.pattern) == longest]


def path_matches(pattern: str, target: str) -> bool:
    """Whether a pattern (`*` any characters, `$` at its end the end) matches from the start of a path (2.2.3)."""
    return _matches(_normalised_pattern(pattern), _normalised_target(target))


def _text(data: bytes | str) -> str:
    if isinstance(data, bytes):
        data = data[:MAX_BYTES]
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # saved as "Unicode" by an editor
            data = data.decode("utf-16", "replace")
        else:
            data = data.decode(
                "utf-8", "surrogateescape"
            )  # of another encoding: a target may have the same bytes
    return data[:MAX_BYTES].replace("\0", "")  # of UTF-16 that does not say so, too


def _field(text: str) -> tuple[str, str] | None:
    """The kind of a line and its value without the comment; None where it is of no kind that is read."""
    line = text.partition("#")[0].strip(_BLANK)
    field = _FIELD.match(line)
    end = field and _ENDS_OF_FIELD.match(line, field.end())
    if not field or not end:
        return None
    assert field.lastgroup is not None
    return field.lastgroup, line[end.end() :].lstrip(_BLANK)


def _path_and_rest(value: str) -> tuple[str, str]:
    """The path of a Content-Usage rule and what it says; without a path, it is said of all paths."""
    if value.startswith("/"):
        path, *rest = value.split(None, 1)
        return path, rest[0] if rest else ""
    return "/", value


def _longer(delay_s: float | None, value: str) -> float | None:
    try:
        asked = float(value) if value.isascii() else -1.0
    except ValueError:
        return delay_s
    return max(asked, delay_s or 0.0) if math.isfinite(asked) and asked >= 0 else delay_s


def _normalised_pattern(pattern: str) -> str:
    """A pattern in the one spelling that a target has; one without a slash at its start is given it."""
    anchor = "$" if pattern.endswith("$") else ""
    pattern = _LONE_WITHIN.sub("%25", pattern) if "%" in pattern else pattern
    body = _normalised(pattern.removesuffix("$")).replace("$", "%24")
    return (body if body.startswith(("/", "*")) else "/" + body) + anchor


@lru_cache(maxsize=1024)
def _normalised_target(target: str) -> str:
    # What has a meaning in patterns is escaped there where it stands for itself.
    target = _LONE_PER_CENT.sub("%25", target) if "%" in target else target
    return _normalised(target).replace("*", "%2A").replace("$", "%24")


def _normalised(text: str) -> str:
    """Text with what need not be escaped unescaped, and what must be escaped (RFC 9309, section 2.2.2)."""
    if "%" in text:
        text = _ESCAPE.sub(_plain_escape, text)
    if text.isascii() and " " not in text:
        return text
    try:
        return quote(text, safe=_PRINTABLE, errors="surrogateescape")
    except UnicodeEncodeError:  # half of a character that UTF-16 was cut in
        return quote(text, safe=_PRINTABLE, errors="replace")


def _plain_escape(match: re.Match[str]) -> str:
    character = chr(int(match[0][1:], 16))
    return character if character in _UNRESERVED else match[0].upper()


def _matches(pattern: str, target: str) -> bool:
    """Whether a normalised pattern matches; in time that grows with the product of both lengths at most."""
    is_anchored = pattern.endswith("$")
    first, *parts = pattern.removesuffix("$").split("*")
    if not target.startswith(first):
        return False
    if not parts:
        return not is_anchored or target == first
    at = len(first)
    last = parts.pop()
    for part in parts:
        found = target.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    if is_anchored:
        return target.endswith(last) and len(target) - len(last) >= at
    return target.find(last, at) >= 0
