"""storage.wording: one of a thing is one thing."""

from __future__ import annotations

import pytest

from storage.wording import numbered


@pytest.mark.parametrize(
    ("num", "text"), [(0, "0 shards"), (1, "1 shard"), (2, "2 shards"), (21, "21 shards")]
)
def test_a_noun_goes_with_its_number(num: int, text: str) -> None:
    """Only of one thing is there no s."""
    assert numbered(num, "shard") == text


def test_the_thing_has_the_s() -> None:
    """Of what is of something, or to do something, it is not that."""
    assert [numbered(2, noun) for noun in ("set of splits", "request to forget")] == [
        "2 sets of splits", "2 requests to forget",
    ]  # fmt: skip
