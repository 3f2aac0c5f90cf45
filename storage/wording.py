"""Numbers with their nouns, and texts of anybody in one line, for people to read."""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=://)[^/\s?#]*@")


def numbered(num: int, noun: str) -> str:
    """A number and what it is of: "1 shard", "2 shards"."""
    return f"{num} {plural(num, noun)}"


def plural(num: int, noun: str) -> str:
    """A noun as it goes with a number; of "set of splits" there are sets, of "request to forget" requests."""
    thing = re.split(" (?:of|to) ", noun)[0]
    return noun if num == 1 else f"{thing}s{noun.removeprefix(thing)}"


def plain(text: object) -> str:
    """A text of the web, or of anybody, in one line without what would steer a terminal."""
    text = str(text)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def without_user(text: str) -> str:
    """A text whose addresses name no user and no password: what `http://ann:secret@host` says is `http://host`."""
    return _USER.sub("", text)
