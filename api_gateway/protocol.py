"""uvicorn's HTTP protocol with the limits it lacks: deadlines for headers, bodies and slow readers; header sizes."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api_gateway.options import GatewayOptions

_TITLES: Final = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
_HEAD, _BODY, _DONE = "head", "body", "done"


class HeaderLimitError(Exception):
    """Stops the parser from inside a callback; it never leaves this module."""


class DeadlineProtocol(HttpToolsProtocol):
    """One connection. A request that comes in one piece costs no timer at all."""

    options = GatewayOptions()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Which message of the connection, and which part of it, is arriving; and for which of them the timer runs.
        self._message = 0
        self._phase = _HEAD
        self._timed = (0, _HEAD)
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._header_count = 0
        self._unparsed = 0
        self._refusal = (400, "This is not a valid HTTP request.")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give a new connection as long for its first byte as for its first headers."""
        super().connection_made(transport)
        self._arm(self.options.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._disarm()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what is incomplete afterwards gets a deadline, which further bytes don't move."""
        message, began_clean = self._message, self._phase != _BODY
        super().data_received(data)
        if message == self._message:
            self._unparsed += len(data)
        else:
            # Where requests are pipelined, most of these bytes may belong to the ones before.
            self._unparsed = len(data) if began_clean and self._message == message + 1 else 0
        if self.transport.is_closing():
            self._disarm()
        elif self._phase == _DONE:
            self._between_requests()
        elif self._phase == _HEAD and self._unparsed > self.options.max_header_bytes:
            # The parser keeps an endless header to itself until its line ends.
            self._refuse(431, "The headers are too large.")
        elif self._timed != (self._message, self._phase):
            self._timed = (self._message, self._phase)
            self._disarm()
            self._arm(self.options.header_seconds if self._phase == _HEAD else self.options.body_seconds)

    def _between_requests(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()
        elif self.timeout_keep_alive_task is None:
            # Blank lines between requests stop the keep-alive timer and begin no message.
            self._arm(self.options.header_seconds)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._message += 1
        self._phase = _HEAD
        self._header_bytes = self._header_count = 0

    def on_url(self, url: bytes) -> None:
        """Count the request line's bytes."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header field and its bytes."""
        self._header_count += 1
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The body's turn."""
        self._phase = _BODY
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there in full."""
        self._phase = _DONE
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client doesn't read; it must start to within a while."""
        super().pause_writing()
        if self._write_deadline is None:
            self._write_deadline = self.loop.call_later(self.options.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None
        if self.flow is not None:
            super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one that never read its answer is dropped."""
        if self.transport.get_write_buffer_size() > 0:
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused, as a problem document."""
        self._refuse(*self._refusal)

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.options.max_header_bytes or self._header_count > self.options.max_headers:
            self._refusal = (431, "The headers are too large.")
            raise HeaderLimitError

    def _arm(self, seconds: float) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(seconds, self._expired)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expired(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if answering:
            self.transport.abort()
        elif self._message == 0 or self._phase == _DONE:
            self.transport.close()
        else:
            self._refuse(408, "The request did not arrive in time.")

    def _refuse(self, status: int, detail: str) -> None:
        title = _TITLES[status]
        problem = {
            "type": f"urn:fasttrack:problem:{title.lower().replace(' ', '-')}",
            "title": title,
            "status": status,
            "detail": detail,
        }
        body = orjson.dumps(problem)
        head = (
            b"content-type: application/problem+json\r\ncontent-length: %d\r\nx-content-type-options: nosniff\r\n"
            b"cache-control: no-store\r\nconnection: close\r\n\r\n" % len(body)
        )
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


def deadline_protocol(options: GatewayOptions) -> type[DeadlineProtocol]:
    """A protocol class with these options; uvicorn makes the instances itself."""
    return type("GatewayProtocol", (DeadlineProtocol,), {"options": options})
