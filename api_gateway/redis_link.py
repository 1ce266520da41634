"""One pipelined connection to Redis: a command costs a write and a parsed reply, and never waits for a dead server."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from typing import Any, Final, cast
from urllib.parse import parse_qs, unquote, urlsplit

from api_gateway.observability import log
from fasttrack.errors import ConfigurationError, UnavailableError

_RETRY_SECONDS: Final = 0.5
_CRLF: Final = b"\r\n"


class RedisError(Exception):
    """An error reply of the server, such as NOSCRIPT; callers inside the gateway handle it."""


class RedisLink:
    """Commands over one connection, answered in order; reconnects by itself, at most twice a second.

    Args:
        url: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://...`` or ``unix:///path?db=0``.
        patience: seconds for which a reply is waited; after that the connection counts as dead.
    """

    def __init__(self, url: str, *, patience: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ConfigurationError(
                "the Redis URL can't be used.",
                where="FASTTRACK_REDIS",
                fix="Set it to redis://host:port or unix:///path.",
            )
        self._parts = parts
        self._patience = patience
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._tried_at = float("-inf")

    @property
    def up(self) -> bool:
        """Whether there is a connection."""
        return self._wire is not None and self._wire.open

    async def connect(self) -> bool:
        """Wait for one attempt to connect; tells whether there is a connection now."""
        if not self.up:
            self._start()
        if self._connecting is not None:
            await asyncio.shield(self._connecting)
        return self.up

    async def execute(self, *command: bytes | str | int | float) -> Any:
        """The reply to one command: bytes, int, list or None.

        Raises:
            UnavailableError: there is no connection (one is being made meanwhile), or no reply in time.
            RedisError: the server refused the command.
        """
        wire = self._wire
        if wire is None or not wire.open:
            self._start()
            raise UnavailableError("Redis does not answer.", where="FASTTRACK_REDIS")
        reply = await wire.send(command)
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def send(self, *command: bytes | str | int | float) -> None:
        """Write a command whose reply doesn't matter; does nothing without a connection."""
        if self._wire is not None and self._wire.open:
            # The future's exception is read so that a lost connection isn't reported as never retrieved.
            self._wire.send(command).add_done_callback(lambda future: future.cancelled() or future.exception())

    def close(self) -> None:
        """Hang up."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._wire is not None:
            self._wire.abort()
            self._wire = None

    def _start(self) -> None:
        now = time.monotonic()
        busy = self._connecting is not None and not self._connecting.done()
        if not busy and now - self._tried_at >= _RETRY_SECONDS:
            self._tried_at = now
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(max(1.0, self._patience)):
                wire = await self._open()
                for command in self._greeting():
                    reply = await wire.send(command)
                    if isinstance(reply, RedisError):
                        wire.abort()
                        raise reply
        except (OSError, TimeoutError, UnavailableError, RedisError) as error:
            log("warning", "Redis does not answer", reason=type(error).__name__)
        else:
            self._wire = wire
            log("info", "connected to Redis")

    async def _open(self) -> _Wire:
        loop, parts = asyncio.get_running_loop(), self._parts

        def wire() -> _Wire:
            return _Wire(loop, self._patience)

        if parts.scheme == "unix":
            return (await loop.create_unix_connection(wire, unquote(parts.path)))[1]
        secure = ssl.create_default_context() if parts.scheme == "rediss" else None
        return (await loop.create_connection(wire, parts.hostname or "localhost", parts.port or 6379, ssl=secure))[1]

    def _greeting(self) -> list[tuple[str, ...]]:
        parts = self._parts
        commands: list[tuple[str, ...]] = []
        if parts.password:
            user = (unquote(parts.username),) if parts.username else ()
            commands.append(("AUTH", *user, unquote(parts.password)))
        asked = parse_qs(parts.query).get("db", [""])[0]
        database = asked or ("" if parts.scheme == "unix" else parts.path.strip("/"))
        if database not in ("", "0"):
            commands.append(("SELECT", database))
        return [*commands, ("PING",)]


class _Wire(asyncio.Protocol):
    """The connection itself: RESP2, replies matched to commands by their order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        self.open = False
        self._loop = loop
        self._patience = patience
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._buffer = bytearray()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's, they only behave alike.
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, deque()
        for _, future in waiting:
            if not future.done():
                future.set_exception(UnavailableError("Redis hung up.", where="FASTTRACK_REDIS"))

    def send(self, command: tuple[bytes | str | int | float, ...]) -> asyncio.Future[Any]:
        """Write a command; the future holds its reply, an error reply as a value."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._transport is None or not self.open:
            future.set_exception(UnavailableError("Redis hung up.", where="FASTTRACK_REDIS"))
            return future
        self._transport.write(_encoded(command))
        self._waiting.append((self._loop.time() + self._patience, future))
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience, self._expire)
        return future

    def abort(self) -> None:
        """Drop the connection; whoever waits gets UnavailableError."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        at = 0
        while at < len(self._buffer) and (parsed := _reply(self._buffer, at)) is not None:
            value, at = parsed
            future = self._waiting.popleft()[1]
            if not future.done():
                future.set_result(value)
        del self._buffer[:at]

    def _expire(self) -> None:
        """One timer watches the oldest command, instead of one for each."""
        self._timer = None
        if not self._waiting:
            return
        left = self._waiting[0][0] - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._expire)
        else:
            # Replies come in order, so one that is overdue blocks all behind it.
            self.abort()


def _encoded(command: tuple[bytes | str | int | float, ...]) -> bytes:
    pieces = [b"*%d\r\n" % len(command)]
    for part in command:
        content = part if isinstance(part, bytes) else str(part).encode()
        pieces += (b"$%d\r\n" % len(content), content, _CRLF)
    return b"".join(pieces)


def _reply(buffer: bytearray, at: int) -> tuple[Any, int] | None:
    """The value that starts at `at` and the position behind it; None while it is incomplete."""
    end = buffer.find(_CRLF, at)
    if end < 0:
        return None
    kind, line, after = buffer[at], bytes(buffer[at + 1 : end]), end + 2
    if kind == 0x2B:  # +
        return line, after
    if kind == 0x2D:  # -
        return RedisError(line.decode(errors="replace")), after
    if kind == 0x3A:  # :
        return int(line), after
    size = int(line)
    if size < 0:
        return None, after
    if kind == 0x24:  # $
        stop = after + size
        return (bytes(buffer[after:stop]), stop + 2) if len(buffer) >= stop + 2 else None
    items: list[Any] = []
    for _ in range(size):
        if after >= len(buffer) or (parsed := _reply(buffer, after)) is None:
            return None
        item, after = parsed
        items.append(item)
    return items, after
