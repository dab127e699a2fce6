"""HTTP servers of the tests' own that fail as a plan says, and what is told of a failure."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cnnjob.errors import CnnjobError

SILENCE = 0
"""In a plan, in the place of a status: the request is never answered."""


class Answers(BaseHTTPRequestHandler):
    """Answers each request as the server's ``plan`` says: (status, body), the last one for ever."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        self._skip_body()
        status, body = self.server.plan[min(len(self.server.requests), len(self.server.plan)) - 1]
        if status == SILENCE:
            self.server.closing.wait(60)
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _skip_body(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                self.rfile.read(length + len(b"\r\n"))
            self.rfile.readline()

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@contextmanager
def serving(*plan: tuple[int, bytes]) -> Iterator[tuple[str, list[str]]]:
    """The URL of a server that answers as planned, and the requests that it was sent."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.plan, server.requests, server.closing = plan, [], threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.requests
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def failure(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()


def listing(*keys: str) -> bytes:
    contents = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-31T00:00:00.000Z</LastModified><Size>3</Size></Contents>"
        for key in keys
    )
    return f"<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()


# What a user does with a bucket


def told(action, kind: type[CnnjobError]) -> str:
    """The message of the error that the action ends with, which is one paragraph and no longer than a few lines."""
    with pytest.raises(kind) as raised:
        action()
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 500
    return message
