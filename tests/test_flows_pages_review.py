"""The page of `likeness review`: every face with what its verdict needs, in one file."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from browser import Browser, find_browser
from commands import likeness
from flows.cli.main import main
from storage.datasets.dataset import open_dataset
from storage.store import Store
from tiny_run import tiny_dataset


def test_the_page_holds_every_face(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With image, photograph and index of each, its picture in the page, and nothing loaded from elsewhere."""
    rng = np.random.default_rng(0)
    store = Store(tmp_path / "store")
    tiny_dataset(store, [rng.integers(0, 256, (16, 16, 3)).astype(np.uint8) for _ in range(5)])
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit) as info:
        main(["review", "faces", "--store", str(store.root), "--out", str(page), "--json"])
    assert not info.value.code
    assert json.loads(capsys.readouterr().out)["images"] == 5
    text = page.read_text()
    dataset = open_dataset(store, "faces")
    shown = re.findall(r'data-image="(\w+)" data-photo="(\w+)" data-face="(\d+)"', text)
    assert sorted(shown) == sorted(
        (row["image_sha256"], row["photo_sha256"], str(row["face_index"])) for row in dataset.images()
    )
    assert text.count("data:image/jpeg;base64,") == 5
    assert not re.search(r'(?:src|href)="(?!data:)', text)


def test_a_long_page_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--limit` takes so many evenly, and the page lies in the version's folder unless it is asked for elsewhere."""
    store = Store(tmp_path / "store")
    tiny_dataset(store, [np.full((16, 16, 3), number * 20, np.uint8) for number in range(10)])
    page = open_dataset(store, "faces").folder / "review.html"
    with pytest.raises(SystemExit):
        main(["review", "faces", "--store", str(store.root), "--limit", "3", "--dry-run", "--json"])
    assert (json.loads(capsys.readouterr().out)["images"], page.exists()) == (3, False)
    with pytest.raises(SystemExit):
        main(["review", "faces", "--store", str(store.root), "--limit", "3"])
    assert page.read_text().count("<figure") == 3
    assert str(page) in capsys.readouterr().out


@pytest.mark.browser
def test_a_person_reviews_by_key_and_a_build_takes_the_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys keep, refuse and unsay, a reason is typed, verdicts outlive a reload, and the saved file is a rule."""
    program = find_browser()
    if program is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is on the PATH")
    where = ["--store", str(tmp_path / "store")]
    build = ["build", "--source", "sample:4", "--name", "faces", "--resolution", "32", "--workers", "1"]
    build += ["--curate.preset", "none", "--curate.pdq-max-distance", "none", *where]
    assert likeness(capsys, *build)[0] == 0
    page = tmp_path / "page.html"
    assert likeness(capsys, "review", "faces", "--out", page, *where)[0] == 0

    async def driven() -> list[str]:
        async with Browser(program, tmp_path / "profile") as browser:
            downloads = {"behavior": "allow", "downloadPath": str(tmp_path)}
            await browser.call("Page.setDownloadBehavior", **downloads)
            await browser.open(page.as_uri())
            await browser.until("document.activeElement.dataset.image && document.images.length >= 3")
            await browser.until("[...document.images].every(image => image.naturalWidth)")
            images: list[str] = await browser.run("figures.map(figure => figure.dataset.image)")
            await browser.run("document.getElementById('reviewer').focus()")
            await browser.call("Input.insertText", text="Ann")
            await browser.press("Enter")
            await browser.until("document.activeElement === figures[0]")
            await browser.press("k")
            await browser.run("document.getElementById('reason').focus()")
            await browser.call("Input.insertText", text='a "drawn" face, so')
            await browser.press("r")  # is typed, and no verdict
            await browser.press("Escape")
            await browser.until("document.activeElement === figures[1]")
            await browser.press("R")
            await browser.press("k")
            await browser.press("ArrowLeft")
            await browser.press("ArrowRight")
            await browser.press("ArrowLeft")
            await browser.until("document.activeElement === figures[2]")
            await browser.press("u")
            await browser.open("about:blank")
            await browser.open(page.as_uri())
            counted = "document.getElementById('count').textContent"
            await browser.until(f"{counted}.startsWith('1 kept, 1 refused, ')")
            await browser.run("document.getElementById('save').click()")
            deadline = time.monotonic() + 60
            while not (tmp_path / "verdicts.jsonl").is_file() and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            assert not browser.errors
            assert all(
                address.startswith(("file:", "data:", "blob:", "about:")) for address in browser.requests
            )
        return images

    kept, refused, *_ = asyncio.run(driven())
    rows = {
        row["image"]: row for row in map(json.loads, (tmp_path / "verdicts.jsonl").read_text().splitlines())
    }
    assert {image: row["verdict"] for image, row in rows.items()} == {kept: "keep", refused: "refuse"}
    assert rows[refused]["reason"] == 'a "drawn" face, sor'
    assert rows[refused]["reviewer"] == rows[kept]["reviewer"] == "Ann"
    assert rows[kept]["reason"] is None
    status, _, error = likeness(capsys, *build, "--curate.reviews", tmp_path / "verdicts.jsonl")
    assert status == 0, error
    images = {row["image_sha256"] for row in open_dataset(Store(tmp_path / "store"), "faces").images()}
    assert kept in images
    assert refused not in images


@pytest.mark.browser
def test_the_face_that_is_looked_at_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a wide and on a narrow screen the page is no wider than the window, and no head of it lies on the face that a
    key led to; it is dark where the screen is, and a screen reader is told verdicts.
    """
    program = find_browser()
    if program is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is on the PATH")
    store = Store(tmp_path / "store")
    name = "faces-of-a-folder-whose-name-is-long"
    tiny_dataset(store, [np.full((16, 16, 3), number * 6, np.uint8) for number in range(40)], name)
    page = tmp_path / "page.html"
    assert likeness(capsys, "review", name, "--store", store.root, "--out", page)[0] == 0
    below_head = """(() => {
        const box = document.activeElement.getBoundingClientRect();
        const at = document.elementFromPoint(box.left + box.width / 2, box.top + 8);
        return document.activeElement.contains(at);
    })()"""

    async def driven() -> None:
        async with Browser(program, tmp_path / "profile") as browser:
            for width, height in ((1200, 700), (320, 640)):
                await browser.size(width, height, dark=width < 400)
                await browser.open("about:blank")
                await browser.open(page.as_uri())
                await browser.until("document.activeElement.dataset.image")
                assert await browser.run("document.documentElement.scrollWidth") <= width
                for key in ["ArrowDown"] * 5 + ["ArrowUp"] * 3:
                    await browser.press(key)
                    assert await browser.run(below_head), (width, key)
            assert await browser.run("getComputedStyle(document.body).color") == "rgb(255, 255, 255)"
            await browser.press("ArrowUp")
            await browser.press("k")
            await browser.press("ArrowLeft")
            said: str = await browser.run("document.activeElement.getAttribute('aria-label')")
            assert said.endswith(": keep"), said

    asyncio.run(driven())
