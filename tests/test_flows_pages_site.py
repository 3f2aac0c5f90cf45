"""The site of a dataset: every image with its facts, whom to ask, what changed; looked at in a real browser."""

from __future__ import annotations

import asyncio
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import Browser, find_browser
from flows.cli.main import main
from flows.pages.site import PER_PAGE
from storage.datasets.dataset import open_dataset
from storage.digest import bytes_digest
from storage.store import Store
from tiny_run import tiny_dataset

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028"


def images(num: int) -> list[Any]:
    """Pictures of 16 px, no two alike, in the order that a version has them in."""
    rng = np.random.default_rng(0)
    return sorted((rng.integers(0, 256, (16, 16, 3)).astype(np.uint8) for _ in range(num)), key=key_of)


def key_of(pixels: Any) -> str:
    """The sha256 of the PNG that `tiny_dataset` makes of a picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return bytes_digest(file.getvalue())


def written(store: Store, out: Path, *options: str) -> Path:
    """The site of `faces`, written by the command."""
    with pytest.raises(SystemExit) as info:
        main(
            [
                "site",
                "faces",
                "--store",
                str(store.root),
                "--out",
                str(out),
                "--contact",
                "a@b.example",
                *options,
            ]
        )
    assert not info.value.code
    return out


def said(site: Path) -> list[dict[str, Any]]:
    """What all of its pages say of images, in order."""
    rows = []
    for number, path in enumerate(sorted((site / "pages").glob("*.js"))):
        match = re.fullmatch(rf"page\({number}, (.*)\);\n", path.read_text("utf-8"), re.DOTALL)
        assert match is not None
        rows += json.loads(match[1])
    return rows


def test_a_site_says_what_is_on_record_of_every_image(tmp_path: Path) -> None:
    """In the order of keys, a page of PER_PAGE after the other; the same version gives the same bytes."""
    store = Store(tmp_path / "store")
    tiny_dataset(store, images(PER_PAGE + 3))
    site = written(store, tmp_path / "site")
    rows = open_dataset(store, "faces").images()
    shown = said(site)
    names = ("key", "photo_sha256", "ref", "page", "author", "license")
    assert [{name: one[name] for name in names} for one in shown] == [
        {name: row[name] for name in names} for row in rows
    ]
    again = written(store, tmp_path / "again")
    files = sorted(path.relative_to(site) for path in site.rglob("*") if path.is_file())
    assert [str(file) for file in files] == [
        "index.html", "pages/00000.jpg", "pages/00000.js", "pages/00001.jpg", "pages/00001.js"
    ]  # fmt: skip
    assert [(site / file).read_bytes() for file in files] == [(again / file).read_bytes() for file in files]


def test_what_strangers_wrote_stays_text(tmp_path: Path) -> None:
    """An author's name that would end a script ends none, and is found as it was."""
    store = Store(tmp_path / "store")
    tiny_dataset(store, images(2), authors=[HOSTILE, "b"])
    site = written(store, tmp_path / "site")
    assert {row["author"] for row in said(site)} == {HOSTILE, "b"}
    assert not any("<img" in path.read_text("utf-8") for path in site.rglob("*.*") if path.suffix != ".jpg")


def test_without_pictures_there_are_none(tmp_path: Path) -> None:
    """`--no-pictures` writes facts alone."""
    store = Store(tmp_path / "store")
    tiny_dataset(store, images(2))
    site = written(store, tmp_path / "site", "--no-pictures")
    assert not list(site.rglob("*.jpg"))
    assert len(said(site)) == 2


def test_a_site_says_what_changed(tmp_path: Path) -> None:
    """Since the version that the name had before, in numbers."""
    store = Store(tmp_path / "store")
    first = tiny_dataset(store, images(3))
    assert "No earlier version" in (written(store, tmp_path / "first") / "index.html").read_text()
    tiny_dataset(store, images(5)[1:])
    text = (written(store, tmp_path / "second") / "index.html").read_text()
    assert f"faces@{first.version}" in text
    assert "2 images added, 1 removed" in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "contact"),
        (["--contact", "nobody"], "neither a mail address nor the address of a page"),
        (["--contact", "javascript:alert(1)"], "neither a mail address nor the address of a page"),
    ],
)
def test_somebody_can_be_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    """A site without a contact that a link can lead to is none."""
    store = Store(tmp_path / "store")
    tiny_dataset(store, images(2))
    with pytest.raises(SystemExit) as info:
        main(["site", "faces", "--store", str(store.root), "--out", str(tmp_path / "site"), *options])
    assert info.value.code == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is at `--out` stays."""
    store = Store(tmp_path / "store")
    tiny_dataset(store, images(2))
    (tmp_path / "site").write_text("mine")
    with pytest.raises(SystemExit):
        main(
            [
                "site",
                "faces",
                "--store",
                str(store.root),
                "--out",
                str(tmp_path / "site"),
                "--contact",
                "a@b.c",
            ]
        )
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "site").read_text() == "mine"


@pytest.mark.browser
def test_the_site_in_a_browser(tmp_path: Path) -> None:
    """From disk, without any other host: gallery, search, an image by its address and by the keyboard, two widths."""
    program = find_browser()
    if program is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is on the PATH")
    store = Store(tmp_path / "store")
    tiny_dataset(store, images(PER_PAGE + 3), authors=[HOSTILE, *["Ada"] * (PER_PAGE + 2)])
    site = written(store, tmp_path / "site")
    home = (site / "index.html").as_uri()
    rows = open_dataset(store, "faces").images()

    async def looked_at() -> None:
        async with Browser(program, tmp_path / "profile") as browser:
            await browser.size(1100, 800)
            await browser.open(home)
            await browser.until("document.querySelectorAll('#images li').length === 200")
            assert await browser.run("find('status').textContent") == "Images 1 to 200 of 203"
            await browser.run("find('after').click()")
            await browser.until("document.querySelectorAll('#images li').length === 3")
            await browser.run("find('words').value = 'ONERROR'; find('search').requestSubmit()")
            await browser.until("find('status').textContent === '1 found'")
            await browser.run("document.querySelector('#images button').focus()")
            await browser.press("Enter")
            await browser.until("dialog.open")
            assert HOSTILE.strip() in await browser.run("dialog.textContent")
            await browser.press("Escape")
            await browser.until("!dialog.open && location.hash.startsWith('#q=')")
            await browser.open(f"{home}#image={rows[-1]['key']}")
            await browser.until(f"dialog.open && dialog.textContent.includes('{rows[-1]['ref']}')")
            assert "subject=Removal" in await browser.run("find('ask').href")
            for width in (360, 1100):
                await browser.size(width, 800, dark=width == 360)
                assert await browser.run("document.documentElement.scrollWidth") <= width
            assert browser.errors == []
            assert {address.partition(":")[0] for address in browser.requests} == {"file"}

    asyncio.run(looked_at())
