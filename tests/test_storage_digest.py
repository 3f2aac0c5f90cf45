"""storage.digest: identity does not depend on how a value was written down."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.digest import bytes_digest, canonical_json, json_digest, rows_digest


def test_known_digest() -> None:
    """The digest of an empty mapping is the sha256 of two braces, for ever."""
    assert json_digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@given(
    st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text())
)
def test_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    """A mapping has one digest whatever the order of its keys."""
    assert json_digest(value) == json_digest(dict(reversed(list(value.items()))))


def test_not_a_number_is_refused() -> None:
    """A value that JSON cannot hold has no canonical form."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": math.nan})


def test_rows_are_told_apart() -> None:
    """Moving a value from one row to the next changes the table's digest."""
    assert rows_digest([{"a": 1}, {"b": 2}]) != rows_digest([{"a": 1, "b": 2}])
    assert rows_digest([]) == bytes_digest(b"")
