"""flows.near: a photograph that was resized or encoded again is found by its faces."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from commands import likeness
from flows.near import trace_near
from storage.errors import NotFoundError
from storage.store import Store

GOLDEN = Path(__file__).with_name("data") / "golden" / "store"
ANNA = "850566706e68108318011694a9031afc5fb5ffe40cac018b31713ec9bc3ce293"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The golden store."""
    return Store(shutil.copytree(GOLDEN, tmp_path_factory.mktemp("near") / "store"))


def copy_of(store: Store, sha256: str, path: Path, scale: float, quality: int = 90) -> Path:
    """A photograph at another size, encoded again."""
    with Image.open(io.BytesIO(store.original(sha256))) as image:
        size = (round(image.width * scale), round(image.height * scale))
        image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(path, quality=quality)
    return path


@pytest.mark.parametrize(
    ("scale", "name", "quality"), [(1.0, "a.jpg", 60), (0.8, "b.png", 90), (1.5, "c.webp", 80)]
)
def test_a_copy_leads_where_the_photograph_does(
    store: Store, tmp_path: Path, scale: float, name: str, quality: int
) -> None:
    """Whatever its size and its encoding, a copy of a photograph leads to the images and runs of that."""
    chain = trace_near(store, copy_of(store, ANNA, tmp_path / name, scale, quality), 36)
    assert {row["photo_sha256"] for row in chain.images} == {ANNA}
    assert {row["dataset"].partition("@")[0] for row in chain.images} == {"golden", "golden-web"}
    assert chain.asked.facts["bits_apart"] <= 36
    assert any(product.made for product in chain.made)


def test_the_command_takes_a_copy(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --near a copy is traced; without it the command says so; a picture without a face is told."""
    path = copy_of(store, ANNA, tmp_path / "a.jpg", 0.8, quality=70)
    where = ("--store", store.root)
    status, _, err = likeness(capsys, "trace", path, *where)
    assert (status, "--near looks for its faces" in err) == (1, True)
    status, out, _ = likeness(capsys, "trace", path, "--near", *where)
    assert status == 0
    assert out.startswith("photograph anna.jpg\n")
    status, out, _ = likeness(capsys, "trace", path, "--near", "--json", *where)
    assert json.loads(out)["asked"]["photo_sha256"] == ANNA
    Image.new("RGB", (200, 200)).save(tmp_path / "grey.png")
    with pytest.raises(NotFoundError, match=r"grey\.png shows no face that could be compared"):
        trace_near(store, tmp_path / "grey.png", 36)
    with pytest.raises(NotFoundError, match="has a face within 0 bits"):
        trace_near(store, path, 0)
    for wrong in (["--as", "photograph"], ["--near-bits", "300"]):
        assert likeness(capsys, "trace", path, "--near", *wrong, *where)[0] == 1
