"""Numbers with their nouns, for people to read."""

from __future__ import annotations


def numbered(num: int, noun: str) -> str:
    """A number and what it is of: "1 shard", "2 shards"."""
    return f"{num} {plural(num, noun)}"


def plural(num: int, noun: str) -> str:
    """A noun as it goes with a number."""
    return noun if num == 1 else f"{noun}s"
