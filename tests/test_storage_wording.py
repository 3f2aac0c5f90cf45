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
