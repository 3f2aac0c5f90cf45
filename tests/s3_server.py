"""A server that speaks S3, on this machine; and one in front of it through which it does badly."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import urlsplit

_BUCKETS = count()
HOP = ("connection", "transfer-encoding", "keep-alive")


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server by moto."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def new_bucket(server: str) -> str:
    """The name of an empty bucket."""
    name = f"bucket{next(_BUCKETS)}"
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")).close()
    return name


Fault = Callable[[int, str, str], str | None]
"""By a request's number, method and path: what goes wrong, one of FAULTS, or None."""
FAULTS = ("503", "drop", "half", "lost", "slow")


@contextmanager
def faulty(server: str, fault: Fault) -> Iterator[str]:
    """The address of a server in front of another, which fails as `fault` says.

    `503` answers so, `drop` does not answer, `half` stops in the middle of the answer, `lost` carries a request out and
    does not answer, `slow` answers after half a second.
    """
    numbers = count()
    behind = urlsplit(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            wrong = fault(next(numbers), self.command, self.path)
            if wrong == "503":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if wrong == "drop":
                self.close_connection = True
                return
            if wrong == "slow":
                time.sleep(0.5)
            asked = http.client.HTTPConnection(str(behind.hostname), behind.port)
            asked.request(self.command, self.path, body, dict(self.headers))
            answer = asked.getresponse()
            data = answer.read()
            if wrong == "lost":
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in (*HOP, "content-length", "server", "date"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if wrong == "half" and len(data) > 1:
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as front:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{front.server_address[1]}"
        finally:
            front.shutdown()
