"""Requests over kept HTTP/1.1 connections, one exchange at a time on each: what our servers need to ask each other.

A third of a general client's work a request: no redirects, cookies, proxies, compression or pools with queues.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from fasttrack.errors import ConfigurationError
from fasttrack.pem import reason
from fasttrack.tls import ClientTls

_MAX_HEADER_BYTES: Final = 65_536
#: Larger bodies are written apart from the head instead of being copied behind it.
_JOINED_BYTES: Final = 65_536


class LinkError(OSError):
    """An exchange failed."""


class BrokenLinkError(LinkError):
    """There was no connection, or it broke before the answer began; a TimeoutError is neither."""


class TlsError(LinkError):
    """There is no connection that can be trusted: a certificate isn't accepted, or the server speaks no TLS."""


class AnswerError(LinkError):
    """The answer is not HTTP, is too large, or ended early."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; `headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes


class HttpLink:
    """The connections to one server; they are made when needed and kept.

    Args:
        base: ``http://host[:port][/prefix]`` or ``https://...``.
        idle_seconds: a connection that was idle for longer is not used again; less than the server keeps it.
        connect_seconds: the most that connecting may take.
        max_answer_bytes: the largest body that is taken.
        tls: for ``https``: whom to trust, and who we are; default: whom the system trusts, and nobody.

    Raises:
        ConfigurationError: the URL is not one of these.
    """

    def __init__(
        self,
        base: str,
        *,
        idle_seconds: float,
        connect_seconds: float,
        max_answer_bytes: int = 64 * 2**20,
        tls: ClientTls | None = None,
    ) -> None:
        try:
            parts = urlsplit(base)
            self._host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise _unusable(base) from error
        if parts.scheme not in ("http", "https") or not self._host or not _is_plain(base):
            raise _unusable(base)
        self._tls = (tls or ClientTls()) if parts.scheme == "https" else None
        self._port = port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._named = f"\r\nhost: {parts.netloc.rpartition('@')[2]}\r\n"
        self._idle_seconds = idle_seconds
        self._connect_seconds = connect_seconds
        self._limit = max_answer_bytes
        self._free: list[_Connection] = []
        self._every: set[_Connection] = set()

    async def exchange(self, path: str, body: bytes | None, headers: Mapping[str, str], seconds: float) -> Response:
        """POST `body`, or GET without one.

        Args:
            path: behind the base, with its slash.
            headers: in any case; length and host are added.
            seconds: until the whole answer must be there.

        Raises:
            BrokenLinkError: no connection, or it broke before the answer began.
            TlsError: a connection, but none that can be trusted.
            AnswerError: the answer can't be used.
            TimeoutError: connecting or the answer took too long.
            ValueError: the path or a header has characters that HTTP has no place for.
        """
        loop = asyncio.get_running_loop()
        head = self._head(path, body, headers)
        end = loop.time() + seconds
        connection = self._idle(loop.time()) or await self._connect(min(seconds, self._connect_seconds))
        try:
            response = await connection.exchange(head, body or b"", end)
        except BaseException:
            # Also where nobody waits any more: the answer of this request must not be that of the next.
            connection.abort()
            raise
        if connection.reusable:
            connection.idle_since = loop.time()
            self._free.append(connection)
        else:
            connection.abort()
        return response

    async def close(self) -> None:
        """Drop all connections."""
        for connection in list(self._every):
            connection.abort()
        self._free.clear()

    def _head(self, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        if not _is_plain(path):
            raise ValueError(f"{path!r} is not a path")
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
            raise ValueError("a header has more than one line")
        method = f"GET {self._prefix}{path}" if body is None else f"POST {self._prefix}{path}"
        length = "\r\n" if body is None else f"content-length: {len(body)}\r\n\r\n"
        return f"{method} HTTP/1.1{self._named}{lines}{length}".encode("latin-1")

    def _idle(self, now: float) -> _Connection | None:
        while self._free:
            connection = self._free.pop()
            if connection.reusable and now - connection.idle_since < self._idle_seconds:
                return connection
            connection.abort()
        return None

    async def _connect(self, seconds: float) -> _Connection:
        loop = asyncio.get_running_loop()
        context = self._tls.current().context if self._tls else None
        try:
            async with asyncio.timeout(seconds):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop, self._every, self._limit), self._host, self._port, ssl=context
                )
        except TimeoutError:
            raise
        except ssl.SSLError as error:
            raise _untrusted(error) from error
        except OSError as error:
            raise BrokenLinkError(f"no connection: {error.strerror or error}") from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection; the callbacks of the parser stand at the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, every: set[_Connection], limit: int) -> None:
        self.idle_since = 0.0
        self.reusable = False
        self._loop = loop
        self._every = every
        self._limit = limit
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Response] | None = None
        self._started = False
        self._lost = "hung up."
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._size = self._header_size = 0

    async def exchange(self, head: bytes, body: bytes, end: float) -> Response:
        """One request and its answer; `end` by the loop's clock."""
        if self._transport is None or self._transport.is_closing():
            raise BrokenLinkError(self._lost)
        self._waiter = self._loop.create_future()
        self._started = False
        timer = self._loop.call_at(end, self._expire)
        try:
            if len(body) <= _JOINED_BYTES:
                self._transport.write(head + body)
            else:
                self._transport.write(head)
                self._transport.write(body)
            return await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def abort(self) -> None:
        """Drop it."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def _expire(self) -> None:
        self._fail(TimeoutError())

    def _fail(self, error: Exception) -> None:
        self.reusable = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    # ---- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's, they only behave alike.
        self._transport = cast(asyncio.Transport, transport)
        if transport.get_extra_info("sslcontext") is not None:
            # With TLS 1.3 a server judges the client's certificate when the client's handshake is over.
            self._lost = "hung up at once; a server that does not accept our certificate does so."
        self._every.add(self)
        self.reusable = True

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            # Nobody asked: whatever it is, the next answer on this connection could not be trusted.
            self.abort()
            return
        self._started = True
        self._lost = "hung up."
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(AnswerError(f"the answer is not HTTP: {error}"))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._every.discard(self)
        if self._until_end():
            self._answered()
        kind = AnswerError if self._started else BrokenLinkError
        self._fail(_untrusted(exc) if isinstance(exc, ssl.SSLError) else kind(self._lost))

    def _until_end(self) -> bool:
        """Whether the answer, having no length, ends where the connection does."""
        framed = "content-length" in self._headers or "transfer-encoding" in self._headers
        return self._status >= 200 and not framed

    def _answered(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._waiter.set_result(Response(self._status, self._headers, body))

    # ---- the parser's callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field."""
        self._header_size += len(name) + len(value)
        if self._header_size > _MAX_HEADER_BYTES:
            self._fail(AnswerError("the answer's headers are too large"))
            self.abort()
        else:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The status is known."""
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._size += len(body)
        if self._size > self._limit:
            self._fail(AnswerError("the answer is too large"))
            self.abort()
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """The whole answer."""
        if self._status < 200:  # such as 100: the answer itself is still to come
            self._headers, self._header_size = {}, 0
            return
        self.reusable = self.reusable and self._parser.should_keep_alive()
        self._answered()
        self._status, self._headers, self._pieces = 0, {}, []
        self._size = self._header_size = 0


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _untrusted(error: ssl.SSLError) -> TlsError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(f"its certificate is not accepted: {reason(error)}.")
    return TlsError(f"no TLS with it: {reason(error)}.")


def _unusable(base: str) -> ConfigurationError:
    return ConfigurationError("the server's URL can't be used.", where=base[:128], fix="Give http://host:port.")
