"""As much of S3 as reading takes: list, head, get a range. There is no S3 server to be had from a package."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "lake"


@contextmanager
def s3_server(objects: dict[str, tuple[bytes, float]]) -> Iterator[str]:
    """Serve objects (key: content and Unix time of its change) of the bucket `BUCKET`; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            _, bucket, *rest = unquote(parts.path).split("/", 2)
            key = rest[0] if rest else ""
            if bucket != BUCKET:
                self.reply(404, b"<Error><Code>NoSuchBucket</Code></Error>")
            elif not key:
                query = parse_qs(parts.query)
                self.reply(200, listing(query.get("prefix", [""])[0]), {"Content-Type": "application/xml"})
            elif key not in objects:
                self.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
            else:
                content, changed = objects[key]
                wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                low = int(wanted[1]) if wanted else 0
                body = content[low : int(wanted[2]) + 1 if wanted and wanted[2] else None]
                headers = {"Last-Modified": formatdate(changed, usegmt=True), "Accept-Ranges": "bytes"}
                headers["ETag"] = f'"{hashlib.md5(content).hexdigest()}"'
                if wanted:
                    headers["Content-Range"] = f"bytes {low}-{low + len(body) - 1}/{len(content)}"
                self.reply(206 if wanted else 200, body, headers)

        def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    def listing(prefix: str) -> bytes:
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_moment(changed)}</LastModified>"
            f"<Size>{len(content)}</Size></Contents>"
            for key, (content, changed) in sorted(objects.items())
            if key.startswith(prefix)
        )
        head = f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>"
        return f'<?xml version="1.0"?><ListBucketResult>{head}{entries}</ListBucketResult>'.encode()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _moment(changed: float) -> str:
    return datetime.fromtimestamp(changed, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
