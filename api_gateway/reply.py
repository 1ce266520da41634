"""An answer, and how it is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import Send

JSON = b"application/json"
#: On every answer. Scripts run only on the documentation page, which brings its own policy.
SECURITY_HEADERS: list[tuple[bytes, bytes]] = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_TRANSPORT_SECURITY = (b"strict-transport-security", b"max-age=31536000")


@dataclass(slots=True)
class Reply:
    """Status, body and headers of an answer."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    policy: tuple[bytes, bytes] = POLICY

    async def send(self, send: Send, extra: list[tuple[bytes, bytes]], *, secure: bool) -> None:
        """Write it as two ASGI messages; `extra` headers go before its own."""
        headers = [*SECURITY_HEADERS, self.policy, *extra, *self.headers]
        if secure:
            headers.append(_TRANSPORT_SECURITY)
        if self.status != 204:
            headers.append((b"content-type", self.content_type))
            headers.append((b"content-length", str(len(self.body)).encode()))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_reply(value: Any, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> Reply:
    """`value` as a JSON answer."""
    return Reply(status, orjson.dumps(value), JSON, headers or [])
