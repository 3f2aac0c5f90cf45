"""Servers on this machine that answer with any bytes at all, at several loopback addresses that stand for hosts."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ssl import SSLContext

PICTURE = b"\xff\xd8 a photograph \xff\xd9"


@dataclass(frozen=True)
class Request:
    """What a client sent: the address it came to, the target as it stood on the wire, and headers in lower case."""

    host: str
    target: str
    headers: dict[str, str]


Answer = Callable[[Request], bytes | None]
"""The bytes to send before the connection is closed; None to be silent until the client goes."""


@dataclass
class Web:
    """A running server: its port, and every request that it has read."""

    port: int
    requests: list[Request] = field(default_factory=list)
    num_connections: int = 0

    def url(self, target: str, host: str = "127.0.0.1") -> str:
        """An address of it."""
        return f"http://{host}:{self.port}{target}"

    def counts(self) -> Counter[str]:
        """How often each target was asked for."""
        return Counter(request.target for request in self.requests)


def reply(body: bytes = b"", status: int = 200, **headers: str) -> bytes:
    """A plain answer; `_` in a header's name stands for `-`."""
    lines = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


@contextmanager
def serving(answer: Answer, *hosts: str, tls: SSLContext | None = None) -> Iterator[Web]:
    """A server in a thread of its own at some loopback addresses, all on one port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    web = Web(0)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        web.num_connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            fields = dict(line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): value for name, value in fields.items()}
            request = Request(writer.get_extra_info("sockname")[0], head[0].split(" ")[1], headers)
            web.requests.append(request)
            data = answer(request)
            if data is None:
                await reader.read()
            else:
                for start in range(0, len(data), 2**16):  # so that nothing of it is copied as a whole
                    writer.write(data[start : start + 2**16])
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def start() -> list[asyncio.Server]:
        servers = []
        for host in hosts or ("127.0.0.1",):
            servers.append(await asyncio.start_server(handle, host, web.port, ssl=tls))
            web.port = servers[0].sockets[0].getsockname()[1]
        return servers

    async def stop(servers: list[asyncio.Server]) -> None:
        for server in servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        servers = asyncio.run_coroutine_threadsafe(start(), loop).result(120)
        try:
            yield web
        finally:
            asyncio.run_coroutine_threadsafe(stop(servers), loop).result(120)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(120)
        loop.close()
