"""storage.datasets.splits: splits follow from the set alone, move only where groups merge, and no pair crosses."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.curation.kin import kin
from storage.datasets.splits import COLUMNS, Kinship, Splits, crossings
from storage.errors import ConfigError, IntegrityError

SPLITS = Splits.parse("train=0.6,val=0.2,test=0.2")
ORDER = list(SPLITS.shares)
KINSHIP = Kinship(of=str(SPLITS), pdq_max_distance=36, min_pdq_quality=50, identity_max_distance=0.6)


def sha256(number: int) -> str:
    """Of a photograph."""
    return hashlib.sha256(f"photograph {number}".encode()).hexdigest()


def split_of(groups: list[set[int]]) -> dict[int, str]:
    """The split of each photograph, by its group."""
    photos = [photo for group in groups for photo in sorted(group)]
    numbers = [number for number, group in enumerate(groups) for _ in group]
    found = SPLITS.assigned(pa.array([sha256(photo) for photo in photos]), np.array(numbers, np.int64))
    return dict(zip(photos, found.to_pylist(), strict=True))


def test_shares_are_kept() -> None:
    """Of many photographs each split has its share, in the order in which they are listed or not."""
    photos = pa.array([sha256(number) for number in range(20_000)])
    counts = Counter(
        Splits.parse("train=0.9,val=0.05,test=0.05").assigned(photos, np.arange(20_000)).to_pylist()
    )
    assert counts["train"] == pytest.approx(18_000, rel=0.01)
    assert counts["val"] == pytest.approx(1000, rel=0.1)
    assert counts["test"] == pytest.approx(1000, rel=0.1)


@given(st.lists(st.sets(st.integers(0, 300), min_size=1, max_size=6), max_size=30), st.randoms())
def test_images_move_only_where_groups_merge(drawn: list[set[int]], random: object) -> None:
    """Whatever groups merge, an image that moves is of a merged one, and goes to its last split, never back."""
    groups: list[set[int]] = []
    for group in drawn:  # apart, as components are
        groups.append(group - set().union(*groups) if groups else group)
    groups = [group for group in groups if group]
    before = split_of(groups)
    merged = [set().union(*groups[start : start + 2]) for start in range(0, len(groups), 2)]
    grown = [*merged, *({number} for number in range(1000, 1020))]
    after = split_of(grown)
    for group in grown:
        wanted = [before[photo] for photo in group if photo in before]
        for photo in group & before.keys():
            assert after[photo] == max(wanted, key=ORDER.index)
    assert split_of(grown[::-1]) == after
    assert split_of([*groups, {5000}]) == {**before, **split_of([{5000}])}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no NAME=SHARE"), ("Train=0.5,val=0.5", "no NAME=SHARE"),
        ("train=0.9,train=0.1", "no NAME=SHARE of its own"),
        ("train", "is no share"), ("a=0.5;b=0.5", "is no share"), ("train=1", "between 0 and 1"),
        ("train=1.5,val=-0.5", "between 0 and 1"), ("train=nan,val=0.5", "between 0 and 1"),
        ("train=0.9,val=0.2", r"add up to 1\.1"),
    ],
)  # fmt: skip
def test_what_is_no_split_is_refused(text: str, message: str) -> None:
    """Names and shares that are none, or do not add up, are errors that say what is wrong."""
    with pytest.raises(ValueError, match=message):
        Splits.parse(text)


def test_one_form() -> None:
    """Spaces and zeros make no other setting."""
    assert str(Splits.parse(" train=0.90, val=.05,test=5e-2")) == "train=0.9,val=0.05,test=0.05"


def images(num: int, seed: int = 0) -> pa.Table:
    """Images of different photographs, pictures and people, in whatever split each is alone."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(num, 128))
    table = pa.table(
        {
            "key": [f"{number:016x}" for number in range(num)],
            "photo_sha256": [sha256(number) for number in range(num)],
            "pdq": [rng.bytes(32).hex() for _ in range(num)],
            "pdq_quality": pa.array([100] * num, pa.int32()),
            "embedding": pa.array(list(map(list, vectors)), pa.list_(pa.float64())),
        }
    )
    return with_splits(table)


def groups_of(table: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """As a build makes them."""
    photos = table["photo_sha256"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return kin(table, photos, KINSHIP)


def with_splits(table: pa.Table) -> pa.Table:
    """As a build splits them."""
    names = SPLITS.assigned(table["photo_sha256"], groups_of(table))
    return table.drop_columns(["split"] if "split" in table.column_names else []).append_column(
        "split", names
    )


def changed(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    """With another value in one place."""
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(
        table.column_names.index(column), column, pa.array(values, table.schema.field(column).type)
    )


def pair_in_two_splits(table: pa.Table) -> tuple[int, int]:
    """Two images, of which the second is held out for longer."""
    splits = table["split"].to_pylist()
    return splits.index("train"), splits.index("test")


def near(table: pa.Table, kind: str, one: int, other: int) -> pa.Table:
    """With two images that must not be parted."""
    if kind == "photograph":
        return changed(table, "photo_sha256", one, table["photo_sha256"][other].as_py())
    if kind == "picture":
        flipped = int(table["pdq"][other].as_py(), 16) ^ (2**36 - 1)  # 36 bits
        return changed(table, "pdq", one, f"{flipped:064x}")
    return changed(
        table, "embedding", one, (np.array(table["embedding"][other].as_py()) + 0.59 / 128**0.5).tolist()
    )


@pytest.mark.parametrize("kind", ["photograph", "picture", "person"])
def test_no_pair_crosses(kind: str) -> None:
    """Images of one photograph, picture or person that are parted are named; split by a build, they are together."""
    table = images(300)
    assert list(table.column_names) == list(COLUMNS)
    assert list(crossings(table, KINSHIP)) == []
    one, other = pair_in_two_splits(table)
    table = near(table, kind, one, other)
    [problem] = crossings(table, KINSHIP)
    assert {table["key"][one].as_py(), table["key"][other].as_py()} <= set(problem.replace("(", " ").split())
    assert "in two splits" in problem
    mended = with_splits(table)
    assert list(crossings(mended, KINSHIP)) == []
    if kind != "photograph":
        assert mended["split"][one].as_py() == "test"


def test_a_chain_is_one_group() -> None:
    """Whoever is near one of a group is of the group, whatever connects them, and nobody else is."""
    table = images(40)
    for kind, one, other in (("photograph", 3, 4), ("picture", 4, 5), ("person", 6, 5)):
        table = near(table, kind, one, other)
    groups = groups_of(table)
    assert len({int(groups[row]) for row in (3, 4, 5, 6)}) == 1
    assert len(set(groups.tolist())) == 37


def test_a_hash_of_nothing_joins_nobody() -> None:
    """Below the least quality equal hashes say nothing."""
    table = near(images(40), "picture", 3, 4)
    low = changed(table, "pdq_quality", 3, 10)
    assert len(set(groups_of(low).tolist())) == 40 > len(set(groups_of(table).tolist()))


def test_people_are_told_apart_or_that_they_are_not(caplog: pytest.LogCaptureFixture) -> None:
    """A group of people that holds much of the set is told; images without embeddings are an error."""
    table = images(120)
    same = pa.array([[0.0] * 128] * 120, pa.list_(pa.float64()))
    everyone = table.set_column(4, "embedding", same)
    assert set(groups_of(everyone).tolist()) == {0}
    assert "--split-identity-distance lower than 0.6" in caplog.text
    assert len(set(with_splits(everyone)["split"].to_pylist())) == 1
    without = changed(table, "embedding", 3, None)
    with pytest.raises(ConfigError, match="splits needs embedding"):
        groups_of(without)
    with pytest.raises(IntegrityError, match="no embedding"):
        list(crossings(without, KINSHIP))


def test_an_image_of_no_split_is_named() -> None:
    """Another name, or none."""
    for value in ("exam", None):
        [problem] = crossings(changed(images(9), "split", 4, value), KINSHIP)
        assert problem == "image 0000000000000004 is in none of the splits train, val, test"
