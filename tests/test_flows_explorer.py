"""likeness explore: a page of this machine alone, on which the newest picture is drawn and no other is waited for."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

import tiny_run
from browser import Browser, find_browser
from commands import likeness
from flows.explorer.desk import Desk, Urgency
from flows.explorer.nearest import TrainingCrops, may_be_shown
from flows.explorer.page import page
from flows.explorer.server import Explorer
from flows.explorer.static import RUNTIME, RUNTIME_FILES
from storage.bundled.photographs import photographs
from storage.lineage.origin import pixels_hold, read_provenance
from storage.lineage.trace import trace
from storage.runs import Run
from storage.store import Store
from training.drawing.directions import directions
from training.drawing.images import synthesized
from training.drawing.trained import open_bundled, open_trained
from training.drawing.views import Overtaken, Stage, View

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained run with two checkpoints."""
    store = Store(tmp_path_factory.mktemp("store"))
    return tiny_run.trained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(8)))


def explorer(run: Run) -> Explorer:
    """Of a run."""
    checkpoints = {path.name: path for path in run.checkpoints()}
    return Explorer(open_trained(run.newest_checkpoint(), CPU), checkpoints, run.store, CPU)


@asynccontextmanager
async def client_of(made: Explorer) -> AsyncIterator[TestClient[Any, Any]]:
    """A client of the explorer's server."""
    async with TestClient(TestServer(made.app, host="127.0.0.1")) as client:
        yield client


def pixels_of(data: bytes) -> Any:
    """Of a PNG."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


# ---------------------------------------------------------------------------------------------------------------
# The desk


def test_only_the_newest_is_drawn() -> None:
    """Of many requests for one picture while another is drawn, the last alone is: the others have no result."""

    async def asked() -> tuple[list[Any], list[int]]:
        desk, begun, release, drawn = Desk(), Event(), Event(), []

        def slow(is_overtaken: Callable[[], bool]) -> str:
            begun.set()
            release.wait(120)
            return "first"

        def quick(number: int) -> Callable[[Callable[[], bool]], int]:
            return lambda _: drawn.append(number) or number

        first = asyncio.create_task(desk.ask("other", Urgency.PICTURE, slow))
        await asyncio.to_thread(begun.wait, 120)
        rest = [asyncio.create_task(desk.ask("page", Urgency.PICTURE, quick(number))) for number in range(20)]
        await asyncio.sleep(0.05)
        release.set()
        results = [await first, *await asyncio.gather(*rest)]
        desk.close()
        return results, drawn

    results, drawn = asyncio.run(asked())
    assert results == ["first", *[None] * 19, 19]
    assert drawn == [19]


def test_a_preview_stops_what_is_drawn() -> None:
    """A hand that moves does not wait for a picture that it has left, and small pictures wait for both."""

    async def asked() -> tuple[Any, Any, Any, list[str]]:
        desk, begun, order = Desk(), Event(), []

        def whole(is_overtaken: Callable[[], bool]) -> str:
            begun.set()
            while not is_overtaken():
                pass
            raise Overtaken

        picture = asyncio.create_task(desk.ask("picture", Urgency.PICTURE, whole))
        await asyncio.to_thread(begun.wait, 120)
        aside = asyncio.create_task(desk.ask("aside", Urgency.ASIDE, lambda _: order.append("aside") or 1))
        await asyncio.sleep(0.01)
        preview = asyncio.create_task(
            desk.ask("small", Urgency.PREVIEW, lambda _: order.append("preview") or 2)
        )
        results = await picture, await preview, await aside
        desk.close()
        return *results, order

    assert asyncio.run(asked()) == (None, 2, 1, ["preview", "aside"])


def test_a_page_that_goes_away_is_not_drawn_for() -> None:
    """A request that is cancelled is taken off the desk, and an error is its own asker's alone."""

    async def asked() -> list[str]:
        desk, begun, release, drawn = Desk(), Event(), Event(), []
        busy = asyncio.create_task(
            desk.ask("busy", Urgency.PICTURE, lambda _: begun.set() or release.wait(120))
        )
        await asyncio.to_thread(begun.wait, 120)
        left = asyncio.create_task(desk.ask("left", Urgency.PICTURE, lambda _: drawn.append("left")))
        await asyncio.sleep(0.05)
        left.cancel()
        await asyncio.sleep(0)
        wrong = asyncio.create_task(desk.ask("wrong", Urgency.PICTURE, lambda _: 1 / 0))
        release.set()
        await busy
        with pytest.raises(ZeroDivisionError):
            await wrong
        await desk.ask("last", Urgency.PICTURE, lambda _: drawn.append("last"))
        desk.close()
        return drawn

    assert asyncio.run(asked()) == ["last"]


# ---------------------------------------------------------------------------------------------------------------
# The server


def test_the_server_draws_views(run: Run) -> None:
    """What it shows is what Python draws of the same view, of any checkpoint; it knows what there is to steer."""
    view = View(seed=3, psi=0.5, moves={"pca.all.0": 1.0}, mixed=View(seed=4), boundary=3)

    async def asked() -> tuple[dict[str, Any], dict[str, bytes]]:
        async with client_of(explorer(run)) as client:
            about = await (await client.get("/about")).json()
            drawn = {
                name: await (await client.get(f"/picture?{view.query()}&checkpoint={name}")).read()
                for name in about["checkpoints"]
            }
            return about, drawn

    about, drawn = asyncio.run(asked())
    assert about["checkpoints"] == [path.name for path in run.checkpoints()]
    assert [layer["px"] for layer in about["layers"]] == [4, 4, 8, 8, 16, 16]
    assert {one["block"] for one in about["directions"]} == {"all", "coarse", "middle"}
    for path in run.checkpoints():
        expected = Stage(open_trained(path, CPU)).picture(view)
        assert np.abs(pixels_of(drawn[path.name]).astype(int) - expected).max() <= 1
    assert len(set(drawn.values())) == len(run.checkpoints())


def test_opening_draws_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is to steer is said before any whole picture is drawn or a direction looked for; what directions
    explain is said when it is asked for, and their names are those that are found.
    """
    made = explorer(run)
    done: list[str] = []

    def told(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: done.append(name) or work(*given, **named)

    monkeypatch.setattr("training.drawing.views.synthesized", told("whole picture", synthesized))
    monkeypatch.setattr("training.drawing.views.directions", told("directions", directions))

    async def asked() -> tuple[dict[str, Any], dict[str, float], int]:
        async with client_of(made) as client:
            about = await (await client.get("/about")).json()
            num_done = len(done)
            return about, await (await client.get("/shares")).json(), num_done

    about, found, num_done = asyncio.run(asked())
    assert num_done == 0
    assert done == ["directions"]
    assert [one["name"] for one in about["directions"]] == list(made.stage().directions) == list(found)
    assert all(0 <= share <= 1 for share in found.values())


def test_downloads_carry_their_lineage(run: Run, tmp_path: Path) -> None:
    """A picture and a film, as they are saved, lead back to the images; the view in them draws it again."""
    pytest.importorskip("av")
    view = View(seed=3, moves={"sefa.coarse.0": 2.0})
    pins = [View(seed=1).query(), View(seed=2, psi=0.3).query()]

    async def saved() -> None:
        async with client_of(explorer(run)) as client:
            answer = await client.get(f"/download?{view.query()}")
            assert answer.headers["Content-Disposition"] == 'attachment; filename="likeness-seed3.png"'
            (tmp_path / "picture.png").write_bytes(await answer.read())
            parameters = [("pin", pin) for pin in pins] + [("seconds", "0.5"), ("fps", "8")]
            film = asyncio.create_task(client.get("/film", params=parameters))
            for seed in range(5):  # a hand that moves meanwhile
                assert (await client.get(f"/picture?seed={seed}&size=preview")).status == 200
            (tmp_path / "film.mp4").write_bytes(await (await film).read())

    asyncio.run(saved())
    for name, kind in (("picture.png", "view"), ("film.mp4", "video")):
        chain = trace(run.store, str(tmp_path / name))
        assert [step.kind for step in chain.steps] == [kind, "checkpoint", "training run", "dataset"]
        metadata = read_provenance(tmp_path / name)
        assert metadata is not None
        assert pixels_hold(tmp_path / name, metadata) is True
    metadata = read_provenance(tmp_path / "picture.png")
    assert metadata is not None
    again = Stage(open_trained(run.newest_checkpoint(), CPU)).picture(View.of_query(metadata["view"]))
    assert np.abs(pixels_of((tmp_path / "picture.png").read_bytes()).astype(int) - again).max() <= 1


def test_a_walk_begins_at_its_first_pin(run: Run) -> None:
    """The frame at 0 is the first pinned picture, that half way the second of two, and the end is the beginning."""
    stage = Stage(open_trained(run.newest_checkpoint(), CPU))
    views = [View(seed=1), View(seed=2)]

    async def asked() -> list[Any]:
        async with client_of(explorer(run)) as client:
            pins = [("pin", view.query()) for view in views]
            answers = [await client.get("/frame", params=[*pins, ("at", at)]) for at in ("0", "0.5", "1")]
            return [pixels_of(await answer.read()).astype(int) for answer in answers]

    frames = asyncio.run(asked())
    noise = stage.noise(views[0])
    for frame, view in zip(frames, [*views, views[0]], strict=True):
        assert np.abs(frame - stage.drawn(stage.styles(view), noise)).max() <= 1


def test_photographs_are_shown_where_lineage_allows(run: Run, tmp_path: Path) -> None:
    """Crops come nearest first, with page and author; without a free licence no pixel of them goes out."""

    async def asked() -> tuple[dict[str, Any], bytes, int]:
        made = explorer(run)
        async with client_of(made) as client:
            said = await (await client.get("/nearest?seed=1")).json()
            best = said["found"][0]
            crop = await (await client.get(f"/crop/{best['index']}")).read()
            assert isinstance(made._crops, TrainingCrops)
            for row in made._crops.rows:
                row["license"] = "CC-BY-NC-4.0"
            hidden = await client.get(f"/crop/{best['index']}")
            again = await (await client.get("/nearest?seed=1")).json()
            assert not any(one["shown"] for one in again["found"])
            return said, crop, hidden.status

    said, crop, status = asyncio.run(asked())
    assert (said["num"], status) == (8, 404)
    distances = [one["distance"] for one in said["found"]]
    assert distances == sorted(distances)
    best = said["found"][0]
    assert (best["shown"], best["license"]) == (True, "CC-BY-4.0")
    assert best["page"].startswith("https://photos.example/")
    assert pixels_of(crop).shape == (16, 16, 3)


def test_training_crops_are_read_between_pictures(run: Run) -> None:
    """A hand that moves interrupts the reading of crops, which goes on where it was and reads each once."""
    made = explorer(run)
    with pytest.raises(Overtaken):
        made.crops(lambda: True)
    crops = made.crops(lambda: False)
    assert isinstance(crops, TrainingCrops)
    assert len({row["key"] for row in crops.rows}) == len(crops.rows) == len(crops.vectors_MD) == 8


@pytest.mark.parametrize(
    ("license_", "allowed"),
    [
        ("CC0-1.0", True), ("PDM-1.0", True), ("CC-BY-4.0", True), ("CC BY-SA 4.0", True), ("CC-BY-2.0", True),
        ("CC-BY-NC-4.0", False), ("CC-BY-ND-4.0", False), ("CC-BY-NC-SA-2.0", False), ("all rights reserved", False),
        (None, False), ("", False),
    ],
)  # fmt: skip
def test_which_licences_let_a_crop_be_shown(license_: str | None, allowed: bool) -> None:
    """Public domain, BY and BY-SA; not NC, not ND, and not what nobody wrote down."""
    assert may_be_shown({"license": license_}) is allowed


def test_a_store_without_the_photographs_says_so(tmp_path: Path) -> None:
    """The generator in the box learned from what is not here: one sentence, and no crop."""

    async def asked() -> dict[str, Any]:
        made = Explorer(open_bundled(CPU), {}, Store(tmp_path), CPU)
        async with client_of(made) as client:
            said: dict[str, Any] = await (await client.get("/nearest?seed=1")).json()
            return said

    said = asyncio.run(asked())
    assert said["found"] == []
    assert said["why"].startswith("The training photographs are not in this store")


def test_the_generator_in_the_box_knows_its_photographs_by_their_bytes(tmp_path: Path) -> None:
    """Its training crops are those of its photographs in any version that the store has, and no others."""
    store = Store(tmp_path)
    theirs = sorted(photographs())[:2]
    tiny_run.tiny_dataset(store, tiny_run.noise_images(4, side=128), photos=theirs)
    *_, crops = TrainingCrops.reading(store, open_bundled(CPU).origin, 128)
    assert crops is not None
    assert sorted(row["photo_sha256"] for row in crops.rows) == theirs
    assert len(crops.vectors_MD) == len(crops.pictures) == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/picture?seed=x", "seed: Input should be a valid integer"),
        ("/picture?seed=1&move=sefa.fine.0:1", "this generator has no fine layers"),
        ("/picture?seed=1&checkpoint=5", "checkpoint '5' is not there"),
        ("/film?pin=seed%3D1", "a walk goes through 2 to 24 pinned pictures"),
        ("/frame?pin=seed%3D1&pin=seed%3D2&at=x", "could not convert string to float"),
        ("/film?pin=seed%3D1&pin=seed%3D2&seconds=9999", "a film has at most"),
    ],
)
def test_mistakes_are_one_sentence(run: Run, path: str, message: str) -> None:
    """A wrong address is answered with what is wrong, and the server goes on."""

    async def asked() -> tuple[int, str]:
        async with client_of(explorer(run)) as client:
            answer = await client.get(path)
            assert (await client.get("/picture?seed=1")).status == 200
            return answer.status, (await answer.json())["error"]

    status, said = asyncio.run(asked())
    assert status == 400
    assert message in said


def test_the_page_is_for_this_machine_alone(run: Run) -> None:
    """Another name that leads here is refused, and the page may ask nobody else for anything."""

    async def asked() -> None:
        async with client_of(explorer(run)) as client:
            answer = await client.get("/", headers={"Host": "rebound.example"})
            assert answer.status == 403
            answer = await client.get("/")
            assert answer.status == 200
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]

    asyncio.run(asked())
    addresses = re.findall(r"(?:https?:)?//[a-z][\w.-]+\.\w+", page())
    assert addresses == [], addresses


# ---------------------------------------------------------------------------------------------------------------
# A browser

DRAWN = "document.getElementById('picture').getAttribute('aria-label').includes('seed {}')"
VALUES = (
    "JSON.stringify([...document.querySelector('#picture').getContext('2d').getImageData(0, 0, 16, 16).data])"
)


@pytest.fixture
def program() -> str:
    """The browser's."""
    found = find_browser()
    if found is None:
        pytest.skip("no chromium, chromium-browser or google-chrome is on the PATH")
    return found


@pytest.mark.browser
def test_the_page_in_a_browser(run: Run, program: str, tmp_path: Path) -> None:
    """Keys and sliders draw, an address draws it again, no page is wider than its window, and nobody else is asked."""

    async def driven() -> None:
        made = explorer(run)
        async with (
            TestServer(made.app, host="127.0.0.1") as server,
            Browser(program, tmp_path / "profile") as browser,
        ):
            home = f"http://127.0.0.1:{server.port}/"
            await browser.open(home)
            await browser.until(DRAWN.format(0))
            await browser.press("ArrowRight")
            await browser.until(DRAWN.format(1))
            await browser.run(
                "(() => { const input = document.querySelector('#directions input'); input.value = 2;"
                "input.dispatchEvent(new Event('input', {bubbles: true})); })()"
            )
            await browser.until("document.getElementById('picture').ariaLabel.includes('sefa.all.0 2')")
            await browser.press("p")
            await browser.until("location.hash.includes('pin=')")
            address, first = await browser.run("location.href"), await browser.run(VALUES)
            expected = Stage(open_trained(run.newest_checkpoint(), CPU)).picture(
                View(seed=1, moves={"sefa.all.0": 2.0})
            )
            shown = np.array(json.loads(first)).reshape(16, 16, 4)[..., :3]
            assert np.abs(shown - expected).max() <= 1
            await browser.open("about:blank")
            await browser.open(address)
            await browser.until(DRAWN.format(1))
            assert await browser.run(VALUES) == first
            assert await browser.run("document.querySelectorAll('#pins li').length") == 1
            for width, dark in ((1440, False), (768, True), (360, False)):
                await browser.size(width, 800, dark=dark)
                assert await browser.run("document.documentElement.scrollWidth") <= width
            names = await browser.run(
                "[...document.querySelectorAll('button, input, select')].filter(one => one.offsetParent && !("
                "one.labels?.length || one.ariaLabel || one.textContent.trim() || one.querySelector('img')?.alt"
                ")).length"
            )
            assert names == 0, "controls without a name for a screen reader"
            assert browser.errors == []
            others = [
                one for one in browser.requests if not one.startswith((home, "data:", "blob:", "about:"))
            ]
            assert others == []

    asyncio.run(driven())


@pytest.mark.browser
def test_a_dragged_slider_leaves_no_queue(run: Run, program: str, tmp_path: Path) -> None:
    """A hundred moves in a moment ask for few pictures, a hand that drags sees what it does, and the last one stays."""

    async def driven() -> None:
        made = explorer(run)
        async with (
            TestServer(made.app, host="127.0.0.1") as server,
            Browser(program, tmp_path / "profile") as browser,
        ):
            await browser.open(f"http://127.0.0.1:{server.port}/")
            await browser.until(DRAWN.format(0))
            before = len(browser.requests)
            await browser.run(
                "(() => { const input = document.getElementById('seed'); for (let seed = 1; seed <= 100; seed++) {"
                "input.value = seed; input.dispatchEvent(new Event('input', {bubbles: true})); } })()"
            )
            await browser.until(DRAWN.format(100))
            asked = [one for one in browser.requests[before:] if "picture?" in one]
            assert len(asked) < 10, asked
            num_seen = await browser.run(
                "(async () => { const input = document.getElementById('seed'), seen = new Set();"
                "for (let seed = 101; seed <= 200; seed++) { input.value = seed;"
                "input.dispatchEvent(new Event('input', {bubbles: true}));"
                "await new Promise(requestAnimationFrame); seen.add(document.getElementById('picture').toDataURL()); }"
                "return seen.size })()"
            )
            assert num_seen >= 5, "nothing is seen while a slider is dragged"
            await browser.until(DRAWN.format(200))
            expected = Stage(open_trained(run.newest_checkpoint(), CPU)).picture(View(seed=200))
            shown = np.array(json.loads(await browser.run(VALUES))).reshape(16, 16, 4)[..., :3]
            assert np.abs(shown - expected).max() <= 1

    asyncio.run(driven())


# ---------------------------------------------------------------------------------------------------------------
# Without a server


@pytest.fixture(scope="module")
def runtime() -> Path:
    """The folder of onnxruntime-web, which tests do not fetch."""
    folder = Path(os.environ.get("ONNXRUNTIME_WEB", "node_modules/onnxruntime-web"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: npm install {RUNTIME}, or name its folder as ONNXRUNTIME_WEB")
    return folder


@pytest.mark.browser
def test_a_page_without_a_server_draws_what_torch_draws(
    runtime: Path, program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Opened from disk it draws a view to 2/255 of torch's picture, and its download is traced like any other."""
    out = tmp_path / "page.html"
    status, said, err = likeness(capsys, "explore", "bundled", "--static", out, "--runtime", runtime)
    assert status == 0, err
    assert "asks nobody for anything" in said
    stage = Stage(open_bundled(CPU))
    views = [
        View(seed=3),
        View(
            seed=77,
            psi=1.0,
            moves={"sefa.coarse.0": 1.5, "pca.fine.2": -1.0},
            noise=(1, 1, 1, 1, 2, 0.5),
            noise_seeds=(None, None, None, None, 9),
            mixed=View(seed=5),
            boundary=6,
        ),
    ]

    async def driven() -> None:
        async with Browser(program, tmp_path / "profile") as browser:
            for view in views:
                await browser.open("about:blank")
                await browser.open(f"{out.as_uri()}#{view.query()}")
                await browser.until(DRAWN.format(view.seed), 180)
                shown = await browser.run(VALUES.replace("16, 16", "128, 128"))
                drawn = np.array(json.loads(shown)).reshape(128, 128, 4)[..., :3]
                assert np.abs(drawn - stage.picture(view)).max() <= 2
            saved = await browser.run(
                "backend.download(viewOf(state)).then(blob => new Promise(resolve => { const reader = new FileReader();"
                "reader.onload = () => resolve(reader.result.split(',')[1]); reader.readAsDataURL(blob); }))"
            )
            (tmp_path / "saved.png").write_bytes(base64.b64decode(saved))
            assert browser.errors == []
            asked = {one.split(":")[0] for one in browser.requests}
            assert asked <= {"about", "file", "data", "blob"}

    asyncio.run(driven())
    status, said, err = likeness(capsys, "verify", tmp_path / "saved.png", "--store", tmp_path)
    assert status == 0, err
    assert "as they were drawn" in said
    assert "view < bundled generator" in said


def test_the_runtime_is_the_one_on_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the package, or with other files in its place, one sentence says what is needed."""
    words = ("explore", "bundled", "--static", tmp_path / "page.html", "--runtime", tmp_path)
    status, _, err = likeness(capsys, *words)
    assert (status, f"npm install {RUNTIME}" in err) == (1, True)
    (tmp_path / "dist").mkdir()
    for name, _ in RUNTIME_FILES.values():
        (tmp_path / name).write_text("other")
    status, _, err = likeness(capsys, *words, "--dry-run")
    assert (status, f"it is not of {RUNTIME}" in err) == (1, True)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.services
def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    """It says where the page is, answers there, refuses a port that is taken, and ends on SIGINT."""
    words = [sys.executable, "-m", "flows.cli", "explore", "bundled", "--json", "--store", str(tmp_path)]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # jobs of a shell's background ignore it
    with subprocess.Popen(
        [*words, "--port", "0"], stdout=subprocess.PIPE, text=True, preexec_fn=heard
    ) as serving:
        try:
            assert serving.stdout is not None
            said = json.loads(serving.stdout.readline())
            with urllib.request.urlopen(said["address"]) as answer:
                assert b"<title>likeness explorer</title>" in answer.read()
            port = said["address"].strip("/").rpartition(":")[2]
            other = subprocess.run([*words, "--port", port], capture_output=True, text=True, check=False)
            assert other.returncode == 1
            assert f"port {port} of 127.0.0.1 cannot be listened on" in other.stderr
            serving.send_signal(signal.SIGINT)
            assert serving.wait(60) == 130
        finally:
            serving.kill()
