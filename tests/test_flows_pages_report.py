"""flows.pages.report: self-contained pages that show what was chosen, whatever the photographs are called."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from flows.pages.report import KEPT_SHOWN, REJECTED_SHOWN, write_report
from flows.stages.align import Aligned
from flows.stages.crawl import Crawled
from flows.stages.curate import Curated
from preprocessing.columns import (
    IMAGE_SCHEMA,
    ITEM_SCHEMA,
    REJECTION_SCHEMA,
    columns_of,
    item_columns,
    photo_columns,
    rejection_columns,
)
from preprocessing.config import BuildConfig
from preprocessing.curation.facts import with_standing
from preprocessing.records import Face, Item, Photo, Rejection, Scores
from preprocessing.reject import MEANING, Reason
from preprocessing.scores.catalogue import MEASURED, NUMBERS
from preprocessing.sources.licenses import LicensesConfig
from storage.datasets.dataset import Dataset
from storage.datasets.manifest import publish
from storage.digest import bytes_digest
from storage.gathered import Gathered
from storage.store import Store
from storage.tables import table_of

HOSTILE = '"><script>alert(1)</script><img src=//example.org/x onerror=alert(1)>'
MIN_QUAD_PX = 100
NUM_PHOTOS = 260
CONFIG = BuildConfig.model_validate(
    {"resolution": 32, "curate": {"preset": "none", "min_quad_px": MIN_QUAD_PX}}
)
RECORD = {
    "finished_at": "2026-01-02T03:04:05+00:00",
    "seconds": 12.5,
    "unchanged": False,
    "config": CONFIG.model_dump(mode="json") | {"source": HOSTILE},
    "stages": {"align": {"reused": 7}},
    "timings": {"align": {"seconds": 10.0, "done": 250, "unit": "photographs", "per_second": 25.0}},
}
Results = tuple[Dataset, Crawled, Aligned, Curated, pa.Table]


def encoded(seed: int) -> bytes:
    """A crop of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def scored(number: int, photo_sha256: str, image: bytes) -> Face:
    """A face whose crop side is its number, and whose other scores are something."""
    numbers = {"pdq": "0" * 64, "embedding": None, "filter_score": None}
    others = {score.name: number if score.kind == "int" else number / 100 for score in MEASURED}
    scores = Scores(**{**others, **numbers})
    return Face(
        photo_sha256, 0, 400, 300, (0.0, 0.0, 9.0, 9.0), number / 50, ((0.0, 0.0),) * 68, ((0.0, 0.0),) * 4,
        float(number), scores, bytes_digest(image), b"",
    )  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """What stages gave: faces kept and too small, a duplicate, a photograph without a face, an address that failed."""
    store = Store(tmp_path / "store")
    faces, photos, places, rejections = [], [], [], []
    blob = b""
    for number in range(NUM_PHOTOS):
        image, sha256 = encoded(number), f"{number:064x}"
        item = Item(f"photo-{number:04d}.jpg", page=f"https://example.org/{number}", author="A. Photographer")
        faces.append(scored(number, sha256, image))
        places.append({"table": "x.parquet", "row": number, "offset": len(blob), "size": len(image)})
        blob += image
        photos.append(Photo(item, sha256, 1))
        if number < MIN_QUAD_PX:
            detail = f"{number} px < {MIN_QUAD_PX} px"
            rejections.append(Rejection(item.ref, Reason.QUAD_TOO_SMALL, sha256, 0, detail))
    store.put("chunks/x.images", blob)
    twin = Rejection(
        photos[3].item.ref,
        Reason.DUPLICATE_IMAGE,
        photos[3].sha256,
        0,
        "a twin",
        faces[MIN_QUAD_PX].image_sha256,
    )
    photos[5] = replace(
        photos[5], item=Item(photos[5].item.ref, "javascript:alert(1)", HOSTILE, title=HOSTILE)
    )
    photos[200] = replace(photos[200], item=Item(photos[200].item.ref, "data:text/html,x", title=HOSTILE))
    empty = Photo(Item("nobody.png", title=HOSTILE), store.put_original(encoded(1)), 1)
    bad = Item(f"https://example.org/{HOSTILE}")
    of_crawl = rejection_columns([Rejection(bad.ref, Reason.HTTP_STATUS, detail=f"404 {HOSTILE}")])
    of_align = rejection_columns([Rejection("nobody.png", Reason.NO_FACE, empty.sha256)])
    of_curate = rejection_columns([*rejections, twin])
    items = item_columns([*(photo.item for photo in [*photos, empty]), bad])
    crawled = Crawled(
        {"kind": "folder"},
        items,
        with_standing(photo_columns([*photos, empty]), items, LicensesConfig()),
        of_crawl,
        0,
    )
    columns = columns_of(faces, crawled.photos)
    for name in places[0]:
        columns = columns.append_column(name, pa.array([place[name] for place in places]))
    chunks = Gathered(store, "chunks", pa.schema([]), "photo_sha256", "image_sha256")
    kept = np.arange(MIN_QUAD_PX, NUM_PHOTOS)
    dataset = publish(
        store, "faces", settings={"resolution": 32, "source": {"kind": "folder"}}, images=[],
        image_schema=IMAGE_SCHEMA, rejections=[], rejection_schema=REJECTION_SCHEMA, shards=[],
        num_photos=NUM_PHOTOS + 2,
    )  # fmt: skip
    return (
        dataset,
        crawled,
        Aligned(chunks, columns, of_align, 7),
        Curated(kept, kept, of_curate),
        pa.concat_tables([of_crawl, of_align, of_curate]),
    )


def written(results: Results) -> dict[str, str]:
    """The pages, by name."""
    dataset, crawled, aligned, curated, rejections = results
    index = write_report(dataset, RECORD, crawled, aligned, curated, rejections)
    assert index == dataset.folder / "report" / "index.html"
    return {path.name: path.read_text() for path in sorted(index.parent.iterdir())}


class Page(HTMLParser):
    """A page's tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data

    def values(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [value or "" for _, attrs in self.tags for key, value in attrs.items() if key == name]


def test_each_page_needs_nothing_but_itself(results: Results) -> None:
    """Pictures are data URIs, styles inline, links lead to pages beside or to the web, and there is no script."""
    pages = written(results)
    assert set(pages) == {
        "index.html", "quad_too_small.html", "duplicate_image.html", "no_face.html", "http_status.html",
    }  # fmt: skip
    for name, text in pages.items():
        page = Page(text)
        tags = {tag for tag, _ in page.tags}
        assert tags.isdisjoint({"script", "link", "iframe", "object", "base", "form"}), (name, tags)
        assert all(src.startswith("data:image/jpeg;base64,") for src in page.values("src")), name
        assert "url(" not in text, name
        assert "@import" not in text, name
        for href in page.values("href"):
            local = href.partition("#")[0]
            assert href.startswith(("https://", "#")) or local in pages, (name, href)
        assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img"), name


def test_hostile_text_stays_text(results: Results) -> None:
    """Names, titles, authors and details from the web are shown as they are, and make no tag, handler or link."""
    pages = written(results)
    for name, text in pages.items():
        page = Page(text)
        handlers = [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
        assert not handlers, name
        assert "<script" not in text, name
        assert not [
            href for href in page.values("href") if re.match(r"\s*(javascript|data|vbscript):", href, re.I)
        ]
    page = Page(pages["http_status.html"])
    assert f"404 {HOSTILE}" in page.text
    assert f"title: {HOSTILE}" in "\n".join(Page(pages["no_face.html"]).values("title"))


def test_counts_are_those_of_the_build(results: Results) -> None:
    """Totals, reasons, thresholds and seconds are in the first page, and each reason's page has its own."""
    pages = written(results)
    text = " ".join(Page(pages["index.html"]).text.split())
    assert f"{NUM_PHOTOS - MIN_QUAD_PX} images kept" in text
    assert f"{MIN_QUAD_PX} px or more passes. Outside: {MIN_QUAD_PX} of {NUM_PHOTOS} faces" in text
    assert "align 10.00 250 photographs 25.0 7" in text
    assert f"{KEPT_SHOWN} of {NUM_PHOTOS - MIN_QUAD_PX} images" in text
    small = " ".join(Page(pages["quad_too_small.html"]).text.split())
    assert f"{MIN_QUAD_PX} rejected. Those that miss the threshold by least come first" in small
    assert small.index("99 px <") < small.index("98 px <") < small.index("0 px <")


def test_long_pages_are_cut_and_say_so(results: Results) -> None:
    """More rejections than a page holds are on further pages, each once, and every page leads to the others."""
    dataset, crawled, aligned, curated, _ = results
    rejections = rejection_columns(
        Rejection(ref, Reason.TOO_MANY_FACES, sha256, 0)
        for ref, sha256 in zip(*(crawled.photos[name].to_pylist() for name in ("ref", "sha256")), strict=True)
        if ref != "nobody.png"
    )
    pages = written((dataset, crawled, aligned, curated, rejections))
    page = Page(pages["too_many_faces.html"])
    assert f"{NUM_PHOTOS} rejected; 1 to {REJECTED_SHOWN} here" in " ".join(page.text.split())
    assert len(page.values("src")) == REJECTED_SHOWN
    others = [name for name in sorted(pages) if name.startswith("too_many_faces-")]
    assert set(others) <= set(page.values("href"))
    shown = [name for name in ("too_many_faces.html", *others) for name in Page(pages[name]).values("alt")]
    assert len(shown) == len(set(shown)) == NUM_PHOTOS


def test_duplicates_stand_beside_what_is_kept(results: Results) -> None:
    """Both crops are shown, each with its name."""
    page = Page(written(results)["duplicate_image.html"])
    assert len(set(page.values("src"))) == 2
    assert "photo-0003.jpg" in page.text
    assert f"photo-{MIN_QUAD_PX:04d}.jpg" in page.text


def test_order_of_work_does_not_show(results: Results) -> None:
    """Faces and rejections in another order give the same pages, byte for byte."""
    dataset, crawled, aligned, curated, rejections = results
    first = written(results)
    faces_order, others = (
        np.random.default_rng(0).permutation(table.num_rows) for table in (aligned.faces, rejections)
    )
    faces, rejections = aligned.faces.take(pa.array(faces_order)), rejections.take(pa.array(others))
    kept = np.argsort(faces_order)[curated.kept]
    again = written(
        (dataset, crawled, replace(aligned, faces=faces), replace(curated, kept=kept), rejections)
    )
    assert again == first


def test_lost_bytes_leave_a_gap_not_an_error(results: Results) -> None:
    """Crops and photographs that are no longer in the store are named without a picture."""
    store = results[0].store
    shutil.rmtree(store.path("originals"))
    store.put("chunks/x.images", b"other bytes")
    pages = written(results)
    assert all(not Page(text).values("src") for text in pages.values())
    assert "nobody.png" in pages["no_face.html"]
    assert "photo-0000.jpg" in pages["quad_too_small.html"]


def test_every_reason_and_score_is_explained(results: Results) -> None:
    """Every reason has a sentence, and every score that is a number and was measured a section with its meaning."""
    assert set(MEANING) == set(Reason)
    page = Page(written(results)["index.html"])
    measured = [score for score in NUMBERS if score.name != "filter_score"]
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section" and attrs.get("class") == "score"]
    assert sections == [score.name for score in measured]
    assert all(score.meaning in page.text for score in measured)


@pytest.fixture(scope="session")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Chromium as a function from a page to its text once loaded."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is on the PATH")

    def dumped(path: Path) -> str:
        profile = tmp_path_factory.mktemp("profile")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
        command += [
            "--disable-background-networking",
            "--disable-component-update",
            f"--user-data-dir={profile}",
        ]
        command += ["--virtual-time-budget=10000", "--dump-dom", path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout

    return dumped


@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_every_picture(
    results: Results, dump: Callable[[Path], str], tmp_path: Path, width: int
) -> None:
    """In chromium every picture loads, no page is wider than its window, and nothing hostile has run."""
    measure = """
        const seen = [...document.querySelectorAll("iframe")].map(frame => {
          const page = frame.contentDocument, images = [...page.images];
          return {images: images.length, broken: images.filter(image => !image.naturalWidth).length,
                  bars: page.querySelectorAll("rect.kept").length, wide: page.documentElement.scrollWidth}});
        document.body.replaceChildren(JSON.stringify(seen));
    """
    pages = written(results)
    frames = "".join(
        f'<iframe style="width: {width}px; border: 0" srcdoc="{html.escape(text)}"></iframe>'
        for text in pages.values()
    )
    (tmp_path / "frames.html").write_text(
        f"<!doctype html><meta charset=utf-8><body>{frames}<script>onload = () => {{{measure}}}</script>"
    )
    body = re.search(r"<body>(.*?)</body>", dump(tmp_path / "frames.html"), re.S)
    assert body is not None
    seen: list[dict[str, Any]] = json.loads(html.unescape(body[1]))
    for name, found in zip(pages, seen, strict=True):
        assert found["broken"] == 0, (name, found)
        assert found["wide"] <= width, (name, found)
    index = seen[list(pages).index("index.html")]
    assert index["images"] > KEPT_SHOWN
    assert index["bars"] > len(NUMBERS)


def test_licences_are_counted(results: Results) -> None:
    """Each licence has its photographs, images, authors and photographs without one; none said is a row of its own."""
    dataset, crawled, aligned, curated, rejections = results
    items = crawled.items.to_pylist()
    for number, item in enumerate(items[:200]):
        item["license"], item["license_url"] = "CC-BY-4.0", "https://creativecommons.org/licenses/by/4.0/"
        item["author"] = f"Ann {number % 7}" if number != 9 else None
    items[0]["license_url"] = "javascript:alert(1)"
    crawled = replace(crawled, items=table_of(items, ITEM_SCHEMA))
    text = written((dataset, crawled, aligned, curated, rejections))["index.html"]
    table = Page(text[text.index('id="licences"') : text.index('id="speed"')])
    rows = [" ".join(line.split()) for line in table.text.split("CC-BY-4.0")]
    assert rows[1].startswith(f"199 {200 - MIN_QUAD_PX} ")
    assert "7 1" in rows[1]
    assert rows[2].startswith("1 ")
    assert "not said" in table.text
    assert "javascript:alert(1)" not in table.values("href")
