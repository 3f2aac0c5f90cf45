"""storage.datasets.diff: what differs between versions is what their rows say, row by row."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from commands import likeness
from preprocessing.columns import IMAGE_SCHEMA, REJECTION_SCHEMA
from storage.datasets.dataset import Dataset, all_versions, open_dataset
from storage.datasets.diff import PLACES, diff
from storage.datasets.manifest import publish
from storage.store import Store
from storage.tables import Row, table_of

GOLDEN = Store(Path(__file__).with_name("data") / "golden" / "store")
FIRST, SECOND = "golden@71485f1fada17d95", "golden@74bfd02313603afd"


def published(store: Store, name: str, images: list[Row], **settings: Any) -> Dataset:
    """A version of these rows."""
    schema = IMAGE_SCHEMA
    rows = [{column: row.get(column) for column in schema.names} for row in images]
    return publish(
        store,
        name,
        settings={"resolution": 64, "config": settings},
        images=[table_of(rows, schema)],
        image_schema=schema,
        rejections=[],
        rejection_schema=REJECTION_SCHEMA,
        shards=[],
        num_photos=len(rows),
    )


@pytest.mark.parametrize("pair", list(permutations(all_versions(GOLDEN), 2)), ids=str)
def test_it_says_what_the_rows_say(pair: tuple[Dataset, Dataset]) -> None:
    """Of any two versions the images and photographs that differ are those by which their rows differ."""
    found = diff(*pair, limit=1000)
    rows = [{row["image_sha256"]: row for row in one.images()} for one in pair]
    for sets, column in ((found.images, "image_sha256"), (found.photographs, "photo_sha256")):
        first, second = ({row[column] for row in each.values()} for each in rows)
        assert set(sets.added[column].to_pylist()) == second - first
        assert set(sets.removed[column].to_pylist()) == first - second
        assert sets.num_common == len(first & second)
    for name in set(IMAGE_SCHEMA.names) & set(rows[0].popitem()[1]) - {*PLACES, *found.facts}:
        for sha256 in rows[0].keys() & rows[1].keys():
            assert rows[0][sha256].get(name) == rows[1][sha256].get(name), name
    assert sum(found.came_from.values()) == found.photographs.added.num_rows
    assert sum(found.went_to.values()) == found.photographs.removed.num_rows
    rejected = found.statistics["rejected"]
    assert {name: new for name, (_, new) in rejected.items() if new} == pair[1].manifest.counts.rejected


def test_a_version_does_not_differ_from_itself() -> None:
    """Nothing is added, removed or changed, and one line says so."""
    version = open_dataset(GOLDEN, FIRST)
    found = diff(version, version)
    assert found.is_none
    assert (found.images.added.num_rows, found.images.removed.num_rows, found.facts, found.settings) == (
        0,
        0,
        {},
        {},
    )
    assert len(list(found.lines(10))) == 2


def test_changed_facts_and_settings_are_told(tmp_path: Path) -> None:
    """A corrected author and a lost licence are told of the photograph, a score of the image, a setting by its name."""
    rows = open_dataset(GOLDEN, FIRST).images()
    before = published(Store(tmp_path), "a", rows, curate={"min_sharpness": 0.1})
    changed = [dict(row) for row in rows]
    victim = dict(next(row for row in changed if row["license"]))
    for row in changed:
        if row["photo_sha256"] == victim["photo_sha256"]:
            row |= {"author": "Somebody else", "license": None}
    changed[0]["sharpness"] = 0.125
    after = published(Store(tmp_path), "b", changed, curate={"min_sharpness": 0.2, "new": []})
    found = diff(before, after)
    assert found.images.num_common == len(rows)
    assert {name: num for name, (num, _) in found.facts.items()} == {
        "author": 1,
        "license": 1,
        "sharpness": 1,
    }
    assert found.facts["license"][1] == [{"of": victim["ref"], "first": victim["license"], "second": None}]
    assert found.facts["sharpness"][1][0]["second"] == 0.125
    assert found.settings == {"curate.min_sharpness": (0.1, 0.2), "curate.new": (None, [])}
    old, new = found.statistics["licences"]["not said"]
    assert new > (old or 0)


def test_nothing_in_common_and_nothing_at_all(tmp_path: Path) -> None:
    """A version without an image has no medians, and all of the other is added to it."""
    rows = open_dataset(GOLDEN, FIRST).images()
    empty = published(Store(tmp_path), "empty", [])
    found = diff(empty, published(Store(tmp_path), "all", rows))
    assert (found.images.added.num_rows, found.images.num_common) == (len(rows), 0)
    assert found.statistics["medians"]["sharpness"][0] is None
    assert found.came_from == {"new": len({row["photo_sha256"] for row in rows})}
    assert list(found.lines(0))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints lines or one JSON object; of what is listed as many as are asked for."""
    where = ["--store", GOLDEN.root]
    status, out, _ = likeness(capsys, "diff", FIRST, "golden", *where, "--limit", "1")
    assert (status, out.splitlines()[0]) == (0, f"{FIRST} -> {SECOND}")
    _, out, _ = likeness(capsys, "diff", FIRST, SECOND, *where, "--limit", "1", "--json")
    told = json.loads(out)
    assert (told["images"]["removed"], len(told["images"]["removed_first"])) == (2, 1)
    assert told["settings"]["curate.faces"] == ["all", "single"]
    status, _, err = likeness(capsys, "diff", FIRST, "nobody", *where)
    assert (status, "no dataset 'nobody'" in err) == (1, True)
