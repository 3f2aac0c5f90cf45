"""The explorer's server: one page, and what it asks for. It listens on loopback, and asks nobody for anything.

    GET /                     the page
    GET /about                what there is to steer: checkpoints, layers, names of directions
    GET /shares               what each direction explains, for which they are looked for
    GET /picture?VIEW         a PNG to look at; 204 where a newer one was asked for before it was drawn
    GET /download?VIEW        the same as a file with its lineage and marks
    GET /frame, /film         a walk through pinned pictures: one picture of it, or all as MP4
    GET /nearest?VIEW         the training crops nearest to it; /crop/INDEX one that may be shown

VIEW is that of `training.drawing.views.View`. Not here: the order of work (`flows.explorer.desk`).
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from aiohttp import web
from PIL import Image
from torch import Tensor

from flows.explorer.desk import Desk, Urgency, Work
from flows.explorer.nearest import TrainingCrops
from flows.explorer.page import about_stage, page, shares
from storage.errors import ConfigError, PipelineError
from storage.store import Store
from training.data import ImageArray
from training.drawing.pictures import write_png
from training.drawing.trained import Trained, open_trained
from training.drawing.video import MIN_SIDE_PX, check_video, closed_loop, write_video
from training.drawing.views import Overtaken, Stage, View

HOST = "127.0.0.1"
MAX_STAGES = 8
"""Checkpoints that are held in memory; the one that was used longest ago goes first."""
MAX_PINS = 24
MAX_FRAMES = 3600


class Explorer:
    """What one server draws with: a run's checkpoints, or the generator in the box."""

    def __init__(
        self, trained: Trained, checkpoints: dict[str, Path], store: Store, device: torch.device
    ) -> None:
        self.store, self.device = store, device
        self.checkpoints = checkpoints
        self.first = trained
        self.desk = Desk()
        self._stages: OrderedDict[str, Stage] = OrderedDict()
        self._crops: TrainingCrops | PipelineError | None = None
        self._reading = TrainingCrops.reading(store, trained.origin, trained.generator.resolution)

    @property
    def name(self) -> str:
        """Of the checkpoint that the page begins with."""
        return str(self.first.origin.get("checkpoint", ""))

    def stage(self, checkpoint: str | None = None) -> Stage:
        """A checkpoint ready to draw, on the drawing thread; ConfigError where the run has none of that name."""
        name = checkpoint or self.name
        if name not in self._stages:
            self._stages[name] = Stage(self._opened(name))
            while len(self._stages) > MAX_STAGES:
                del self._stages[next(one for one in self._stages if one != name)]
        self._stages.move_to_end(name)
        return self._stages[name]

    def _opened(self, name: str) -> Trained:
        if name == self.name:
            return self.first
        if name not in self.checkpoints:
            raise ConfigError(f"checkpoint {name!r} is not there: {', '.join(self.checkpoints)}")
        trained = open_trained(self.checkpoints[name], self.device).of_label(self.first.origin.get("label"))
        return replace(trained, signer=self.first.signer)

    def crops(self, is_overtaken: Callable[[], bool]) -> TrainingCrops | PipelineError:
        """What the generator learned from, read once, or why that is not to be had.

        Overtaken where something else is wanted meanwhile: the next call goes on from there.
        """
        while self._crops is None:
            try:
                self._crops = next(self._reading)
            except PipelineError as error:
                self._crops = error
            if self._crops is None and is_overtaken():
                raise Overtaken
        return self._crops

    @cached_property
    def app(self) -> web.Application:
        """All routes."""
        app = web.Application(middlewares=[_guarded])
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/about", self._about),
                web.get("/shares", self._shares),
                web.get("/picture", self._picture),
                web.get("/download", self._download),
                web.get("/frame", self._frame),
                web.get("/film", self._film),
                web.get("/nearest", self._nearest),
                web.get("/crop/{index}", self._crop),
            ]
        )
        app.on_cleanup.append(self._closed)
        return app

    async def _closed(self, _: web.Application) -> None:
        self.desk.close()

    async def _page(self, request: web.Request) -> web.Response:
        return web.Response(text=page(), content_type="text/html")

    async def _about(self, request: web.Request) -> web.Response:
        def look(_: Callable[[], bool]) -> dict[str, Any]:
            return about_stage(self.stage(request.query.get("checkpoint")), list(self.checkpoints))

        said = await self.desk.ask(("about", id(request)), Urgency.PICTURE, look)
        return web.json_response(said) if said else web.Response(status=204)

    async def _shares(self, request: web.Request) -> web.Response:
        """Beside the drawing thread, since this takes seconds and draws nothing."""
        name = request.query.get("checkpoint")
        stage = await self._patient(lambda _: self.stage(name))
        return web.json_response(await asyncio.to_thread(shares, stage))

    async def _picture(self, request: web.Request) -> web.Response:
        view = View.of_query(request.query_string)
        is_preview = request.query.get("size") == "preview"
        is_aside = "aside" in request.query
        urgency = Urgency.ASIDE if is_aside else Urgency.PREVIEW if is_preview else Urgency.PICTURE
        slot = (request.query.get("page"), request.query.get("aside"), urgency)

        def draw(is_overtaken: Callable[[], bool]) -> bytes:
            stage = self.stage(request.query.get("checkpoint"))
            return _png(stage.picture(view, preview=is_preview, is_overtaken=is_overtaken))

        return _drawn(await self.desk.ask(slot, urgency, draw))

    async def _download(self, request: web.Request) -> web.Response:
        view = View.of_query(request.query_string)

        def draw(is_overtaken: Callable[[], bool]) -> bytes:
            stage = self.stage(request.query.get("checkpoint"))
            pixels = stage.picture(view, is_overtaken=is_overtaken)
            metadata = {**stage.trained.origin, **_said(view)}
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "picture.png"
                write_png(pixels, path, metadata, stage.trained.signer)
                return path.read_bytes()

        drawn = await self.desk.ask(("download", id(request)), Urgency.PICTURE, draw)
        return _drawn(drawn, f"likeness-seed{view.seed}.png")

    async def _frame(self, request: web.Request) -> web.Response:
        """The picture at `at`, 0 to 1, of the closed walk through the pins."""
        views = _pins(request)
        done = float(request.query.get("at", "0")) % 1

        def draw(is_overtaken: Callable[[], bool]) -> bytes:
            stage = self.stage(request.query.get("checkpoint"))
            num = 1000
            w_FLD = _walk(stage, views, num)
            noise = stage.noise(views[0])
            return _png(stage.drawn(w_FLD[int(done * num)], noise, preview=True, is_overtaken=is_overtaken))

        return _drawn(await self.desk.ask((request.query.get("page"), "frame"), Urgency.PICTURE, draw))

    async def _film(self, request: web.Request) -> web.Response:
        check_video()
        views = _pins(request)
        seconds, fps = float(request.query.get("seconds", "8")), int(request.query.get("fps", "24"))
        if not (0 < seconds <= 600 and 1 <= fps <= 60 and seconds * fps <= MAX_FRAMES):
            raise ConfigError(f"a film has at most {MAX_FRAMES} frames, and 1 to 60 a second")

        name = request.query.get("checkpoint")
        walk = partial(self._walked, name, views, max(2, round(seconds * fps)))
        w_FLD, noise, trained = await self._patient(walk)
        metadata = {
            **trained.origin,
            "kind": "video",
            "seeds": [view.seed for view in views],
            "views": [view.query() for view in views],
            "fps": fps,
        }
        loop, is_gone = asyncio.get_running_loop(), Event()

        def frames() -> Iterator[ImageArray]:
            """Each drawn when nothing else is wanted, so that hands may move while a film is made."""
            for w_LD in w_FLD:
                if is_gone.is_set():
                    raise Overtaken

                def draw(is_overtaken: Callable[[], bool], w_LD: Tensor = w_LD) -> ImageArray:
                    return self.stage(name).drawn(w_LD, noise, is_overtaken=is_overtaken)

                yield _enlarged(asyncio.run_coroutine_threadsafe(self._patient(draw), loop).result())

        def film() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "walk.mp4"
                write_video(frames(), path, fps, metadata, trained.signer)
                return path.read_bytes()

        try:
            return _drawn(await asyncio.to_thread(film), "likeness-walk.mp4", "video/mp4")
        finally:
            is_gone.set()

    def _walked(
        self, checkpoint: str | None, views: list[View], num: int, is_overtaken: Callable[[], bool]
    ) -> tuple[Tensor, list[Tensor], Trained]:
        stage = self.stage(checkpoint)
        return _walk(stage, views, num), stage.noise(views[0]), stage.trained

    async def _patient(self, work: Work) -> Any:
        """The result of what nobody waits for by the second: asked for again when it was overtaken."""
        while True:
            result = await self.desk.ask(object(), Urgency.ASIDE, work)
            if result is not None:
                return result

    async def _nearest(self, request: web.Request) -> web.Response:
        view = View.of_query(request.query_string)

        def look(is_overtaken: Callable[[], bool]) -> dict[str, Any]:
            crops = self.crops(is_overtaken)
            if isinstance(crops, PipelineError):
                return {"why": f"The training photographs are not in this store: {crops}", "found": []}
            stage = self.stage(request.query.get("checkpoint"))
            picture = stage.picture(view, is_overtaken=is_overtaken)
            return {"found": crops.nearest_to(picture), "num": len(crops.rows)}

        said = await self.desk.ask((request.query.get("page"), "nearest"), Urgency.ASIDE, look)
        return web.json_response(said) if said else web.Response(status=204)

    async def _crop(self, request: web.Request) -> web.Response:
        crops = self._crops
        number = request.match_info["index"]
        data = crops.png(int(number)) if isinstance(crops, TrainingCrops) and number.isdecimal() else None
        if data is None:
            raise web.HTTPNotFound
        return web.Response(body=data, content_type="image/png")


def serve(explorer: Explorer, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is told the address. ConfigError where the port is taken."""
    try:
        asyncio.run(_serving(explorer, port, ready))
    except OSError as error:
        raise ConfigError(f"port {port} of {HOST} cannot be listened on: {error.strerror}") from error


async def _serving(explorer: Explorer, port: int, ready: Callable[[str], None]) -> None:
    runner = web.AppRunner(explorer.app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        await site.start()
        ready(f"http://{HOST}:{runner.addresses[0][1]}/")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


@web.middleware
async def _guarded(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Pages of this machine alone: other names that lead here are refused, and mistakes are one sentence."""
    if request.host.rpartition(":")[0] not in (HOST, "localhost"):
        return web.Response(status=403, text="this page is for this machine alone")
    try:
        response = await handler(request)
    except (PipelineError, ValueError) as error:
        response = web.json_response({"error": str(error)}, status=400)
    response.headers.update(
        {
            "Cache-Control": "no-store",
            "Content-Security-Policy": "default-src 'none'; img-src 'self' blob: data:; connect-src 'self'; "
            "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
    )
    return response


def _pins(request: web.Request) -> list[View]:
    views = [View.of_query(text) for text in request.query.getall("pin", [])]
    if not 2 <= len(views) <= MAX_PINS:
        raise ConfigError(f"a walk goes through 2 to {MAX_PINS} pinned pictures")
    return views


def _walk(stage: Stage, views: list[View], num: int) -> Tensor:
    return closed_loop(torch.stack([stage.styles(view) for view in views]), num)


def _said(view: View) -> dict[str, Any]:
    """Of a view, for the lineage of its picture: what draws it again."""
    seeds = [view.seed] + ([view.mixed.seed] if view.mixed else [])
    return {"kind": "view", "seeds": seeds, "truncation_psi": view.psi, "view": view.query()}


def _enlarged(pixels_HWC: ImageArray) -> ImageArray:
    factor = max(1, MIN_SIDE_PX // len(pixels_HWC))
    return pixels_HWC.repeat(factor, axis=0).repeat(factor, axis=1)


def _png(pixels_HWC: ImageArray) -> bytes:
    """To look at, and written quickly; a download has marks."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels_HWC)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _drawn(data: bytes | None, name: str | None = None, media_type: str = "image/png") -> web.Response:
    if data is None:
        return web.Response(status=204)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'} if name else {}
    return web.Response(body=data, content_type=media_type, headers=headers)
