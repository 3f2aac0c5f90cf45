"""Services of photographs as a server on this machine: their answers' shapes, and their limits on a faster clock.

Written from what each publishes, not copied from any. A service first is busy (429 with Retry-After), then sends a page
in the place of JSON, and then answers; every request that its published policy forbids is noted in `forbidden`.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web

PICTURE = b"\xff\xd8 a photograph \xff\xd9"
MEDIA_HOST = "127.0.0.2"
NUM = 1000
KEY = "k3y-that-nothing-keeps"


@dataclass
class Service:
    """A service and how it may be asked: `windows` are most requests in so many seconds of its clock."""

    replay: Replay
    name: str
    speed: float
    windows: tuple[tuple[int, float], ...] = ()
    media_at_once: int = 2
    is_moody: bool = True
    arrivals: list[float] = field(default_factory=list)
    requests: list[Mapping[str, str]] = field(default_factory=list)
    forbidden: list[str] = field(default_factory=list)
    now: int = 0
    not_before: float = -math.inf
    early_media: int = 0
    """Photographs that were asked for while their host wanted to be left alone."""

    @property
    def base(self) -> str:
        """Its base address."""
        return f"http://127.0.0.1:{self.replay.port}/{self.name}"

    def media(self, path: str) -> str:
        """The address of a photograph."""
        return f"http://{MEDIA_HOST}:{self.replay.port}/{self.name}/media/{path}"

    async def handle(self, request: web.Request, path: str) -> web.Response:
        """Its answer to a request, once the policy was looked at."""
        now = time.monotonic()
        self.arrivals.append(now)
        self.requests.append(dict(request.query))
        for most, window_s in self.windows:
            if sum(arrival > now - window_s / self.speed for arrival in self.arrivals) > most:
                self.forbidden.append(f"more than {most} requests in {window_s} s")
        if now < self.not_before:
            self.forbidden.append(f"{self.not_before - now:.3f} s too early")
        self.now += 1
        if self.now > 1:
            self.forbidden.append(f"{self.now} requests at once")
        try:
            await asyncio.sleep(0.001)
            answer = await self.mood(len(self.arrivals)) if self.is_moody else None
            return answer or await self.answer(request, path)
        finally:
            self.now -= 1

    async def mood(self, number: int) -> web.Response | None:
        """What is no answer: busy at first, then a page."""
        if number == 1:
            self.not_before = time.monotonic() + 1.0
            return web.Response(status=429, headers={"Retry-After": "1"}, text="<html>slow down</html>")
        if number == 2:
            return web.Response(text="<html>are you a robot?</html>", content_type="text/html")
        return None

    async def answer(self, request: web.Request, path: str) -> web.Response:
        """The JSON of a request."""
        raise NotImplementedError


class Congress(Service):
    """Lists of members, on pages of a project."""

    def members(self, period: str) -> list[str]:
        """The identifiers of a period's members."""
        start = 0 if period == "current" else 300
        return [
            f"{chr(65 + number % 26)}{number:06}"
            for number in range(start, start + (300 if not start else 700))
        ]

    async def answer(self, request: web.Request, path: str) -> web.Response:
        """The members of a period."""
        period = path.removeprefix("congress-legislators/legislators-").removesuffix(".json")
        return web.json_response(
            [
                {
                    "id": {"bioguide": member, "govtrack": 4},
                    "name": {"first": "Ada", "last": member, "official_full": f"Ada {member}"},
                    "bio": {"birthday": "1950-01-01", "gender": "F"},
                    "terms": [{"type": "rep", "start": "2025-01-03", "state": "WY"}],
                }
                for member in self.members(period)
            ]
        )


class Commons(Service):
    """An action API: batches in parts, a batch without pages, a drawing, a file that is not free, and lag."""

    num_answers = 0

    def page(self, number: int, *, is_whole: bool) -> dict[str, Any]:
        """A file, with its details or without."""
        page: dict[str, Any] = {
            "pageid": number + 1,
            "ns": 6,
            "title": f"File:Ada {number}.jpg",
            "index": number,
        }
        if not is_whole:
            return page
        facts = {
            "LicenseShortName": ("CC BY 4.0", "CC BY-SA 3.0 de", "CC0", "Public domain")[number % 4],
            "LicenseUrl": "" if number % 4 else "https://creativecommons.org/licenses/by/4.0",
            "Artist": f'<a href="//commons.wikimedia.org/wiki/User:{number}">Ann &amp; {number}</a>',
            "ObjectName": f"Ada {number}",
            "Credit": '<span class="int-own-work">Own work</span>',
        }
        if number == 7:
            facts["NonFree"] = "true"
        info = {
            "url": self.media(f"{number}.jpg"),
            "thumburl": self.media(f"1280px-{number}.jpg"),
            "descriptionurl": f"https://commons.wikimedia.org/wiki/File:Ada_{number}.jpg",
            "mediatype": "DRAWING" if number == NUM else "BITMAP",
            "mime": "image/jpeg",
            "sha1": f"{number:040x}",
            "width": 4000,
            "extmetadata": {name: {"value": value, "source": "x"} for name, value in facts.items()},
        }
        return page | {"imageinfo": [info]}

    async def answer(self, request: web.Request, path: str) -> web.Response:
        """A batch of a category or of titles, in two parts."""
        asked = request.query
        self.num_answers += 1
        if asked.get("maxlag") != "5" or asked.get("formatversion") != "2":
            self.forbidden.append("without maxlag or formatversion")
        if asked.get("iiurlwidth", "1280") not in (
            "20",
            "40",
            "60",
            "120",
            "250",
            "330",
            "500",
            "960",
            "1280",
        ):
            return web.Response(status=429, text="Use thumbnail steps listed on https://w.wiki/GHai")
        if self.num_answers == 1:
            lag = {"error": {"code": "maxlag", "info": "Waiting for a database: 6 seconds lagged", "lag": 6}}
            self.not_before = time.monotonic() + 1.0
            return web.json_response(lag, headers={"Retry-After": "1"})
        if self.num_answers == 3:
            await asyncio.sleep(1.5 / self.speed)
            self.not_before = time.monotonic() + 5.0 / self.speed
        if "titles" in asked:
            names = asked["titles"].split("|")
            if len(names) > 50:
                return web.json_response({"error": {"code": "toomanyvalues", "info": "Too many values"}})
            numbers = [int(name.removeprefix("File:Ada ").removesuffix(".jpg")) for name in names]
            gone = [{"title": "File:Gone.jpg", "missing": True}]
            pages = [self.page(number, is_whole=True) for number in numbers]
            return web.json_response({"batchcomplete": True, "query": {"pages": pages + gone}})
        start = int(asked.get("gcmcontinue") or asked.get("gsroffset") or 0)
        if start == 500 and asked.get("continue") != "empty":
            more = {"gcmcontinue": "500", "gsroffset": 500, "continue": "empty"}
            return web.json_response({"batchcomplete": True, "continue": more})
        numbers = list(range(start, min(start + 50, NUM + 1)))
        is_second = "iistart" in asked
        pages = [self.page(number, is_whole=(number % 2 == 1) == is_second) for number in numbers]
        body: dict[str, Any] = {"query": {"pages": pages[::-1]}}
        if not is_second:
            body["continue"] = {
                **{name: asked[name] for name in ("gcmcontinue", "gsroffset") if name in asked}
            }
            body["continue"] |= {"iistart": "2020", "continue": asked.get("continue", "||")}
        else:
            body["batchcomplete"] = True
            if numbers[-1] < NUM:
                body["continue"] = {
                    "gcmcontinue": str(start + 50),
                    "gsroffset": start + 50,
                    "continue": "-||",
                }
        return web.json_response(body)


class Wikidata(Service):
    """A query service: people of a decade."""

    num_decades = 0

    async def answer(self, request: web.Request, path: str) -> web.Response:
        """A tenth of the people, and a name that is no person's."""
        if request.query.get("format") != "json" or "wdt:P106 wd:Q82955" not in request.query["query"]:
            self.forbidden.append("another query")
        start, self.num_decades = self.num_decades * 100, self.num_decades + 1
        rows = [
            {
                "person": {"type": "uri", "value": f"http://www.wikidata.org/entity/Q{number + 1}"},
                "image": {
                    "type": "uri",
                    "value": f"http://commons.wikimedia.org/wiki/Special:FilePath/Ada%20{number}.jpg",
                },
            }
            for number in reversed(range(start, min(start + 100, NUM)))
        ]
        return web.json_response({"head": {"vars": ["person", "image"]}, "results": {"bindings": rows}})


class Flickr(Service):
    """5,200 photographs in four days, of which a query gives 4,000 and then repeats them."""

    TOTAL = 5200
    START = 1_577_836_800
    LICENSES = (
        (0, "All Rights Reserved", ""),
        (2, "CC BY-NC 2.0", "https://creativecommons.org/licenses/by-nc/2.0/"),
        (4, "CC BY 2.0", "https://creativecommons.org/licenses/by/2.0/"),
        (6, "CC BY-ND 2.0", "https://creativecommons.org/licenses/by-nd/2.0/"),
        (7, "No known copyright restrictions", "https://www.flickr.com/commons/usage/"),
        (8, "United States Government Work", "http://www.usa.gov/copyright.shtml"),
        (9, "Public Domain Dedication (CC0)", "https://creativecommons.org/publicdomain/zero/1.0/"),
        (10, "Public Domain Mark", "https://creativecommons.org/publicdomain/mark/1.0/"),
        (11, "CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/"),
        (99, "A licence of tomorrow", "https://example.org/tomorrow"),
    )
    ALLOWED = ("4", "8", "9", "10", "11")

    def uploaded(self, number: int) -> int:
        """When a photograph was uploaded: two thirds of them within an hour."""
        return self.START + (number * 60 if number < 1700 else 200_000 + number % 3600)

    def photo(self, number: int) -> dict[str, Any]:
        """A photograph as a search gives it."""
        return {
            "id": str(10_000 + number),
            "owner": f"{number % 50}@N00",
            "ownername": f"Owner {number % 50}",
            "pathalias": None,
            "title": f"Photo {number}",
            "license": self.ALLOWED[number % 5],
            "tags": "portrait nocv" if number % 100 == 0 else "portrait",
            "dateupload": str(self.uploaded(number)),
            "url_l" if number % 2 else "url_k": self.media(f"{number}.jpg"),
        }

    async def answer(self, request: web.Request, path: str) -> web.Response:
        """The table of licences, or a page of a search."""
        asked = request.query
        if asked.get("api_key") != KEY:
            return web.json_response({"stat": "fail", "code": 100, "message": "Invalid API Key"})
        if asked["method"] == "flickr.photos.licenses.getInfo":
            table = [{"id": number, "name": name, "url": url} for number, name, url in self.LICENSES]
            return web.json_response({"licenses": {"license": table}, "stat": "ok"})
        if len(self.arrivals) == 5:
            return web.json_response(
                {"stat": "fail", "code": 105, "message": "Service currently unavailable"}
            )
        if set(asked["license"].split(",")) - set(self.ALLOWED) or int(asked["per_page"]) > 500:
            self.forbidden.append("another licence, or a page too long")
        since, until = int(asked["min_upload_date"]), int(asked["max_upload_date"])
        found = [
            number
            for number in range(self.TOTAL)
            if since <= self.uploaded(number) <= until
            and self.ALLOWED[number % 5] in asked["license"].split(",")
        ]
        found.sort(key=self.uploaded)
        first = (int(asked["page"]) - 1) * 500
        numbers = (found[:4000] * 10)[first : first + 500] if first >= 4000 else found[first : first + 500]
        photos = [self.photo(number) for number in numbers]
        body = {
            "page": int(asked["page"]),
            "pages": -(-len(found) // 500),
            "total": len(found),
            "photo": photos,
        }
        return web.json_response({"photos": body, "stat": "ok"})


class Openverse(Service):
    """Pages of 20 without a token, of 50 with one; a longer one is 401."""

    async def answer(self, request: web.Request, path: str) -> web.Response:
        """A token, or a page."""
        if path == "v1/auth_tokens/token/":
            form = await request.post()
            if form.get("client_secret") != KEY or form.get("grant_type") != "client_credentials":
                return web.json_response({"detail": "no"}, status=401)
            return web.json_response({"access_token": f"{KEY}-token", "expires_in": 43200})
        is_signed_in = request.headers.get("Authorization") == f"Bearer {KEY}-token"
        page, page_size = int(request.query["page"]), int(request.query["page_size"])
        most = NUM if is_signed_in else 240
        if page_size > (50 if is_signed_in else 20) or page > 20:
            self.forbidden.append("a page too long or too deep")
            return web.json_response({"detail": "page_size must be between 1 & 20"}, status=401)
        numbers = range((page - 1) * page_size, min(page * page_size, most))
        results = [
            {
                "id": f"{number}",
                "title": f"Photo {number}",
                "foreign_landing_url": f"https://example.org/{number}",
                "url": self.media(f"{number}.jpg"),
                "creator": f"<i>Creator</i> {number}",
                "license": "by" if number % 2 else "cc0",
                "license_version": "4.0" if number % 2 else "1.0",
                "license_url": "https://creativecommons.org/"
                + ("licenses/by/4.0/" if number % 2 else "publicdomain/zero/1.0/"),
                "provider": "flickr",
                "source": "flickr",
            }
            for number in numbers
        ]
        body = {
            "result_count": most,
            "page_count": -(-most // page_size),
            "page_size": page_size,
            "page": page,
        }
        return web.json_response(body | {"results": results})


class Nasa(Service):
    """More than 10,000 results, but not in any year."""

    def count(self, year: int) -> int:
        """Photographs of a year."""
        return {1969: 750, 1970: 0, 1981: 250}.get(year, 0)

    async def answer(self, request: web.Request, path: str) -> web.Response:
        """A page of all years or of one."""
        asked = request.query
        page, page_size = int(asked["page"]), int(asked["page_size"])
        if asked.get("year_start") != asked.get("year_end"):
            total, numbers, year = 10_001, range(0), 0
        else:
            year = int(asked["year_start"])
            total = self.count(year)
            numbers = range((page - 1) * page_size, min(page * page_size, total))
        items = []
        for number in numbers:
            name = f"{year}-{number}"
            files = [self.media(f"{name}~{size}.jpg") for size in ("thumb", "orig", "large")]
            links = [
                {"href": href, "rel": "preview", "render": "image"} for href in files[: 1 + 2 * (number % 2)]
            ]
            data = {"nasa_id": name, "title": f"Ada {name}", "center": "JSC", "media_type": "image"}
            items.append({"href": f"{files[0]}.json", "data": [data], "links": links})
        collection = {"version": "1.1", "items": items, "metadata": {"total_hits": total}}
        return web.json_response({"collection": collection})


class Smithsonian(Service):
    """1,200 records, of which 1,000 have a picture that is CC0."""

    async def answer(self, request: web.Request, path: str) -> web.Response:
        """Records whose hash begins with the digits that are asked for."""
        asked = request.query
        if asked.get("api_key") != KEY:
            return web.json_response({"error": {"code": "API_KEY_INVALID"}}, status=403)
        if asked["start"] != "0" or int(asked["rows"]) > 1000:
            self.forbidden.append("deep or long")
        _, _, digits = unquote(asked["q"]).partition("hash:")
        digits = digits.removesuffix("*")
        numbers = [number for number in range(1200) if f"{number * 48271 % 65536:04x}".startswith(digits)]
        rows = []
        for number in numbers[:1000]:
            usage = {"access": "CC0" if number % 6 else "Usage conditions apply"}
            media = [
                {
                    "type": "Images",
                    "idsId": f"NPG-{number}",
                    "content": self.media(f"{number}.jpg"),
                    "usage": usage,
                }
            ]
            about = {
                "title": {"label": "Title", "content": f"Ada {number}"},
                "unit_code": "NPG",
                "record_link": f"https://npg.si.edu/object/npg_{number}",
                "online_media": {"mediaCount": 1, "media": media},
            }
            names = [{"label": "Sitter", "content": "Ada"}, {"label": "Artist", "content": f"Ann {number}"}]
            content = {"descriptiveNonRepeating": about, "freetext": {"name": names}}
            rows.append({"id": f"edanmdm-npg_{number}", "title": f"Ada {number}", "content": content})
        return web.json_response({"status": 200, "response": {"rows": rows, "rowCount": len(numbers)}})


class Europeana(Service):
    """A cursor over pages of 100; beyond them `start` is an error."""

    RIGHTS = ("publicdomain/mark/1.0", "licenses/by-sa/4.0")

    async def answer(self, request: web.Request, path: str) -> web.Response:
        """A page of the cursor."""
        asked = request.query
        if request.headers.get("X-Api-Key") != KEY:
            return web.json_response(
                {"success": False, "error": f"Invalid API key {request.headers.get('X-Api-Key')}"}, status=401
            )
        if int(asked["rows"]) > 100 or "start" in asked or "wskey" in asked:
            self.forbidden.append("a page too long, or by start")
        start = 0 if asked["cursor"] == "*" else int(asked["cursor"].removeprefix("c+/"))
        items = [
            {
                "id": f"/1/{number}",
                "title": [f"Photo {number}", "Bild"],
                "rights": [f"http://creativecommons.org/{self.RIGHTS[number % 2]}/"],
                "edmIsShownBy": [self.media(f"{number}.jpg")],
                "edmIsShownAt": [f"https://museum.example/{number}"],
                "dcCreator": [f"Maker {number}"],
                "dataProvider": ["Museum"],
            }
            for number in range(start, min(start + 100, NUM))
        ]
        body: dict[str, Any] = {
            "success": True,
            "itemsCount": len(items),
            "totalResults": NUM,
            "items": items,
        }
        if start + 100 < NUM:
            body["nextCursor"] = f"c+/{start + 100}"
        return web.json_response(body)


class Loc(Service):
    """Pages of a search without rights, and items with them."""

    async def answer(self, request: web.Request, path: str) -> web.Response:
        """A page of the search, or an item."""
        asked = request.query
        if path.startswith("item/"):
            number = int(path.split("/")[1])
            sizes = [self.media(f"{number}_{size}.jpg#h=1&w=1") for size in ("150px", "r", "v")]
            rights = "No known restrictions on publication." if number % 2 else "Rights status not evaluated."
            item = {
                "title": f"Ada {number}",
                "image_url": sizes,
                "rights_information": rights,
                "contributor_names": [f"Harris & Ewing {number}"],
                "access_restricted": False,
            }
            return web.json_response({"item": item, "resources": []})
        page, size = int(asked["sp"]), int(asked["c"])
        if not 25 <= size <= 150:
            self.forbidden.append("a page of another length")
        numbers = range((page - 1) * size, min(page * size, NUM))
        results = [
            {"id": f"http://www.loc.gov/item/{number}/", "title": f"Ada {number}"} for number in numbers
        ]
        results.append({"id": "http://www.loc.gov/collections/ada/", "title": "a collection"})
        following = f"https://www.loc.gov/photos/?sp={page + 1}" if page * size < NUM else None
        return web.json_response({"results": results, "pagination": {"next": following, "total": 10}})


class Replay:
    """All services on one port, and their photographs on another address of it."""

    def __init__(self, speed: float, *, is_moody: bool) -> None:
        self.port = 0
        self.media: Counter[str] = Counter()
        self.has_moody_media = False
        self.media_now: Counter[str] = Counter()
        minute, hour, day = 60.0, 3600.0, 86400.0
        self.congress = Congress(self, "congress", speed, media_at_once=1)
        self.commons = Commons(self, "commons", speed, ((4, 1.0), (200, minute)))
        self.wikidata = Wikidata(self, "wikidata", speed)
        self.flickr = Flickr(self, "flickr", speed, ((3600, hour),))
        self.openverse = Openverse(self, "openverse", speed, ((100, minute), (10_000, day)))
        self.nasa = Nasa(self, "nasa", speed)
        self.smithsonian = Smithsonian(self, "smithsonian", speed, ((1000, hour),))
        self.europeana = Europeana(self, "europeana", speed)
        self.loc = Loc(self, "loc", speed, ((20, 10.0), (80, minute)), media_at_once=1)
        self.services: dict[str, Service] = {
            service.name: service for service in vars(self).values() if isinstance(service, Service)
        }
        for service in self.services.values():
            service.is_moody = is_moody

    def forbidden(self) -> dict[str, list[str]]:
        """What was asked against a policy."""
        return {name: service.forbidden for name, service in self.services.items() if service.forbidden}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The answer of the service, or of its photographs."""
        name, _, path = request.path.lstrip("/").partition("/")
        service = self.services.get(name)
        if service is None:
            return web.Response(status=404)
        is_media = path.startswith("media/") or path.startswith("images/")
        if not is_media:
            return await service.handle(request, path)
        self.media[name] += 1
        number = self.media[name] if self.has_moody_media else 0
        self.media_now[name] += 1
        if self.media_now[name] > service.media_at_once:
            service.forbidden.append(f"{self.media_now[name]} photographs at once")
        if time.monotonic() < service.not_before:
            service.early_media += 1
            if service.early_media >= service.media_at_once:  # more than were under way
                service.forbidden.append("a photograph too early")
        await asyncio.sleep(0.0005)
        self.media_now[name] -= 1
        body = PICTURE[:-2] + path.encode() + PICTURE[-2:]
        if (answer := self.media_mood(service, number)) is not None:
            return answer
        if number == 9:  # it ends, and its connection with it, before all of it was sent
            cut = web.StreamResponse(headers={"Content-Length": str(len(body) + 100)})
            await cut.prepare(request)
            await cut.write(body)
            if request.transport is not None:
                request.transport.close()
            return cut
        return web.Response(body=body, content_type="image/jpeg")

    def media_mood(self, service: Service, number: int) -> web.Response | None:
        """What is no photograph: busy for a while, failing; and once a page in its place."""
        match number:
            case 3:
                service.not_before = time.monotonic() + 1.0
                return web.Response(status=429, headers={"Retry-After": "1"})
            case 6:
                return web.Response(status=503, text="<html>later</html>")
            case 12:
                return web.Response(text="<!doctype html><p>log in", content_type="text/html")
        return None


@contextmanager
def replayed(speed: float, *, is_moody: bool = True) -> Iterator[Replay]:
    """The services, running in a thread of their own."""
    replay = Replay(speed, is_moody=is_moody)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", replay.handle)
    runner = web.AppRunner(app, access_log=None)  # which would hold the keys

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        replay.port = runner.addresses[0][1]
        await web.TCPSite(runner, MEDIA_HOST, replay.port).start()

    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result(120)
        yield replay
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(120)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(120)
        loop.close()


Settings = Callable[[Replay], dict[str, Any]]
SOURCES: dict[str, tuple[str, Settings]] = {
    "congress": ("congress:all", lambda of: {"congress": {"base_url": of.congress.base}}),
    "commons": ("commons:Category:Ada", lambda of: {"commons": {"base_url": of.commons.base}}),
    "search": ("commons:Ada", lambda of: {"commons": {"base_url": of.commons.base}}),
    "wikidata": (
        "wikidata:P106=Q82955",
        lambda of: {"commons": {"base_url": of.commons.base}, "wikidata": {"base_url": of.wikidata.base}},
    ),
    "flickr": (
        "flickr:portrait",
        lambda of: {
            "flickr": {
                "base_url": of.flickr.base,
                "uploaded_from": "2020-01-01",
                "uploaded_to": "2020-01-04",
            }
        },
    ),
    "openverse": ("openverse:portrait", lambda of: {"openverse": {"base_url": of.openverse.base}}),
    "nasa": (
        "nasa:portrait",
        lambda of: {"nasa": {"base_url": of.nasa.base, "year_from": 1968, "year_to": 1982}},
    ),
    "europeana": ("europeana:portrait", lambda of: {"europeana": {"base_url": of.europeana.base}}),
    "loc": ("loc:portrait", lambda of: {"loc": {"base_url": of.loc.base}}),
    "smithsonian": ("smithsonian:portrait", lambda of: {"smithsonian": {"base_url": of.smithsonian.base}}),
}
"""Each source as it is named, and the settings by which a replay stands for its service."""
