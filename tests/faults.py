"""A proxy in front of the tests' S3 server that fails as told: what the network and an overloaded server do.

It takes a request whole, has the server carry it out unless the fault says otherwise, takes the answer whole, and then
delivers what the fault leaves of it. So a test knows whether the server did what it was asked.
"""

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

from cnnjob import conditional, s3_store
from tests.s3 import S3
from tests.servers import failure

ALWAYS = 10**9
UNSEEN = {"busy", "hang", "break"}
"""Faults that keep the server from seeing the request."""
SILENT = {"hang", "silence"}
RESET = {"break", "lose", "reset"}
CUT = {"cut", "reset"}
BUSY = failure("SlowDown")


@dataclass
class Fault:
    """What happens to requests.

    Attributes:
        kind: ``busy``: 503. ``hang``: never answered. ``break``: the connection is reset. The server sees none of
            these. ``lose``: carried out, then reset. ``silence``: carried out, never answered. ``cut`` and
            ``reset``: the answer with half of its body, or nothing where it has none, then the end of the
            connection, or its reset. ``behead``: half of the answer's head. ``slow``: after a while.
        times: To so many requests.
        only: To requests whose "METHOD /path?query" has this.
        then: Called when a request was carried out, before the client learns of it.
    """

    kind: str
    times: int = ALWAYS
    only: str = ""
    then: Callable[[], object] = lambda: None


class Proxy(ThreadingHTTPServer):
    """The proxy.

    Attributes:
        faults: The first that fits a request is its fault; a test puts them in.
        requests: "METHOD /path?query" of all there were, decoded.
    """

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = urlsplit(upstream)
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self, what: str) -> list[str]:
        """The requests that have ``what`` in them."""
        return [request for request in self.requests if what in request]

    def fault(self, request: str) -> Fault:
        """Count a request, and say what happens to it."""
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and fault.only in request:
                    fault.times -= 1
                    return fault
        return Fault("none")

    def handle_error(self, *_: object) -> None:
        """A client that is gone is no news."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        body = self._body()
        fault = self.server.fault(f"{self.command} {unquote(self.path)}")
        self.close_connection = fault.kind != "none"
        if fault.kind in UNSEEN:
            head, content = _head(503, "Slow Down", [("Content-Length", len(BUSY))]), BUSY
        else:
            head, content = self._carry_out(body)
            fault.then()
        if fault.kind == "slow":
            time.sleep(0.3)
        if fault.kind in SILENT:
            self.server.closing.wait(60)
        elif fault.kind == "behead":
            self.wfile.write(head[: len(head) // 2])
        elif fault.kind in CUT:
            self.wfile.write(head + content[: len(content) // 2] if content else b"")
        elif fault.kind not in RESET:
            self.wfile.write(head + content)
        if fault.kind in RESET:
            time.sleep(0.05)  # Else the half that was sent may be dropped too.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # The handler's files hold the socket open; the reset goes out with the last of them.
            for held in (self.wfile, self.rfile, self.connection):
                held.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while length := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        content = b"".join(chunks)
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content) if content else b"0\r\n\r\n"

    def _carry_out(self, body: bytes) -> tuple[bytes, bytes]:
        upstream = http.client.HTTPConnection(self.server.upstream.hostname, self.server.upstream.port, timeout=30)
        try:
            # The headers go on as they came: the host and others are signed.
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    upstream.putheader(name, value)
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            content = answer.read()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() != "transfer-encoding"]
            if self.command != "HEAD" and not any(name.lower() == "content-length" for name, _ in headers):
                headers.append(("Content-Length", len(content)))
            return _head(answer.status, answer.reason, headers), content
        finally:
            upstream.close()

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


def _head(status: int, reason: str, headers: list[tuple[str, object]]) -> bytes:
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@contextmanager
def before(upstream: str) -> Iterator[Proxy]:
    """A proxy in front of a server."""
    proxy = Proxy(upstream)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        proxy.shutdown()
        thread.join()
        proxy.server_close()


@pytest.fixture
def proxy(s3: S3, s3_folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy in the place of the server, and two attempts at each request."""
    monkeypatch.setattr(s3_store, "ATTEMPTS", 2)
    with before(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy
    for cache in (s3_store._connect, conditional._client):
        cache.cache_clear()
