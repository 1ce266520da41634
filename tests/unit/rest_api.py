"""A small JSON API on loopback: pages, cursors, ETags, and answers as a test wants them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Api:
    """Serves `records`, `page` at a time.

    Attributes:
        records: what it holds; may grow.
        page: records a page.
        how: ``cursor`` (in the document), ``link`` (in a header) or ``list`` (all of it).
        token: the bearer token that it wants.
        asked: the queries so far, with the status of each answer.
        fault: may answer a request by its number and handler instead; true if it did.
    """

    def __init__(self, how: str, page: int = 100) -> None:
        self.records: list[Any] = []
        self.page, self.how = page, how
        self.token: str | None = None
        self.asked: list[tuple[str, int]] = []
        self.fault: Callable[[int, BaseHTTPRequestHandler], bool] = lambda number, handler: False
        self.headers: list[dict[str, str]] = []
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one GET."""
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        if self.fault(len(self.headers), handler):
            return
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            send(handler, 401, b"{}")
            return
        query = parse_qs(urlsplit(handler.path).query)
        start = int(query.get("cursor", ["0"])[0])
        end = len(self.records) if self.how == "list" else start + self.page
        document: Any = self.records[start:end]
        headers = {}
        more = end < len(self.records)
        if self.how == "cursor":
            document = {"data": {"items": document}, "next": {"cursor": end if more else None}}
        elif self.how == "link" and more:
            headers["Link"] = f'<?cursor={end}>; rel="next"'
        body = json.dumps(document).encode()
        headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:12]}"'
        status = 304 if handler.headers.get("If-None-Match") == headers["ETag"] else 200
        self.asked.append((urlsplit(handler.path).query, status))
        send(handler, status, b"" if status == 304 else body, headers)


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    """A whole answer."""
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serving(api: Api) -> Iterator[Api]:
    """Serve it for the duration of a ``with`` block; `api.url` is its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                api.answer(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        api.url = f"http://127.0.0.1:{server.server_port}/items"
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
