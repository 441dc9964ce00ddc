"""A real HTTP server for a folder, that counts requests and does what bad servers do."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[[BaseHTTPRequestHandler, bytes], None]


class FileServer(ThreadingHTTPServer):
    """faults: for each path, what happens to its next requests; after them all is well."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.requests: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.changes = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        server, path = self.server, self.path.partition("?")[0].lstrip("/")
        with server.changes:
            server.requests[path] += 1
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            fault = server.faults[path].pop(0) if server.faults[path] else whole
        try:
            with suppress(ConnectionError):
                content = server.folder / path
                fault(self, content.read_bytes()) if content.is_file() else self.send_error(404)
        finally:
            with server.changes:
                server.at_once -= 1

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def whole(handler: BaseHTTPRequestHandler, content: bytes, sent: bytes | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content if sent is None else sent)


def cut(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    whole(handler, content, content[: len(content) // 2])


def flipped(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    half = len(content) // 2
    whole(handler, content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :])


def status(code: int, retry_after: str | None = None) -> Fault:
    def refuse(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "0")
        if retry_after is not None:
            handler.send_header("Retry-After", retry_after)
        handler.end_headers()

    return refuse


def slow(seconds: float) -> Fault:
    """All is sent, this much later."""

    def fault(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        time.sleep(seconds)
        whole(handler, content)

    return fault


def stalled(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    """Half, and then nothing, with the connection open."""
    cut(handler, content)
    handler.wfile.flush()
    time.sleep(5)


def trickle(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    """A byte now and then, for ever."""
    whole(handler, content, b"")
    for i in range(100):
        handler.wfile.write(content[i : i + 1])
        time.sleep(0.05)
