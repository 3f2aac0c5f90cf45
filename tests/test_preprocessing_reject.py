"""preprocessing.reject: every reason is explained, and those of other versions are kept as they are."""

from __future__ import annotations

import pickle

import pytest

from preprocessing.reject import CRAWL, MEANING, TRANSIENT, Reason, in_order
from storage.errors import IntegrityError


def test_every_reason_is_explained() -> None:
    """A reason of this version has a meaning of its own."""
    assert set(MEANING) == set(Reason)
    assert len({reason.meaning for reason in Reason}) == len(Reason)


def test_a_reason_of_another_version_is_its_text() -> None:
    """It equals itself wherever it was read, travels, is counted after the others, and is in no set of them."""
    other = Reason("too_blue")
    assert other == Reason("too_blue") == pickle.loads(pickle.dumps(other)) == "too_blue"
    assert (other.value, str(other), other in MEANING) == ("too_blue", "too_blue", False)
    assert "another version" in other.meaning
    assert other not in CRAWL | TRANSIENT | set(Reason)
    found = [Reason("unseen"), Reason.POSE, other, Reason.BAD_URL, Reason("too_blue")]
    assert in_order(found) == [Reason.BAD_URL, Reason.POSE, "too_blue", "unseen"]


@pytest.mark.parametrize("value", ["", "Too Blue", "../index", "a" * 65, None, 7])
def test_what_cannot_be_a_reason_is_refused(value: object) -> None:
    """A reason names a page and a count, so what no version would write is damage."""
    with pytest.raises(IntegrityError, match="is no reason"):
        Reason(value)  # type: ignore[arg-type]
