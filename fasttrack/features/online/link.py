"""One pipelined connection to Redis for an event loop: a lookup costs a write and its parsed replies, and no thread."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, cast
from urllib.parse import parse_qs, unquote, urlsplit

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

Reply = list[bytes | None]
_CRLF: Final = b"\r\n"


def bulk(value: bytes) -> bytes:
    """A value as it goes over the wire."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def plain(url: str) -> bool:
    """Whether a `Link` can be made to this Redis: neither TLS nor options of redis-py."""
    parts = urlsplit(url)
    return parts.scheme == "redis" and set(parse_qs(parts.query)) <= {"db"}


class Link:
    """Commands on the running event loop, answered in order; connects when it is asked, anew after a loss.

    Args:
        url: a `plain` one.
        patience: seconds to wait for a connection, and for an answer.
    """

    def __init__(self, url: str, patience: float) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "localhost", parts.port or 6379
        self._patience = patience
        database = parse_qs(parts.query).get("db", [""])[0] or parts.path.strip("/")
        user, password = (unquote(text).encode() for text in (parts.username or "", parts.password or ""))
        self._greeting: list[tuple[bytes, ...]] = [(b"PING",)]
        if database not in ("", "0"):
            self._greeting.insert(0, (b"SELECT", database.encode()))
        if password:
            self._greeting.insert(0, (b"AUTH", *((user,) if user else ()), password))
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[_Wire] | None = None

    async def ask(self, commands: bytes, count: int) -> list[Reply]:
        """The replies, all of them lists, to `count` commands.

        Raises:
            RedisError: no connection, no answer in time, or Redis refuses; a connection that broke is tried once more.
        """
        try:
            return await (await self._connected()).ask(commands, count)
        except RedisConnectionError:
            return await (await self._connected()).ask(commands, count)

    def close(self) -> None:
        """Hang up."""
        if self._wire is not None:
            self._wire.abort()

    async def _connected(self) -> _Wire:
        loop = asyncio.get_running_loop()
        if self._wire is not None and self._wire.open and self._wire.loop is loop:
            return self._wire
        task = self._connecting
        if task is None or task.done() or task.get_loop() is not loop:
            # Whoever comes meanwhile waits for the same attempt.
            task = self._connecting = loop.create_task(self._connect(loop))
        self._wire = await asyncio.shield(task)
        return self._wire

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> _Wire:
        try:
            async with asyncio.timeout(self._patience):
                _, wire = await loop.create_connection(lambda: _Wire(loop, self._patience), *self._address)
                for command in self._greeting:
                    await wire.ask(b"*%d\r\n" % len(command) + b"".join(map(bulk, command)), 1)
        except TimeoutError as error:
            raise RedisTimeoutError("no connection in time") from error
        except OSError as error:
            raise RedisConnectionError(error.strerror or str(error)) from error
        return wire


class _Wire(asyncio.Protocol):
    """The connection itself: RESP2, replies matched to commands by their order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        self.open = False
        self.loop = loop
        self._patience = patience
        self._transport: asyncio.Transport | None = None
        #: Until when, how many replies, those that are there, and who waits.
        self._waiting: deque[tuple[float, int, list[Any], asyncio.Future[list[Reply]]]] = deque()
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, commands: bytes, count: int) -> asyncio.Future[list[Reply]]:
        """Write commands; the future holds their replies."""
        future: asyncio.Future[list[Reply]] = self.loop.create_future()
        if self._transport is None or not self.open:
            future.set_exception(RedisConnectionError("the connection is closed"))
            return future
        self._transport.write(commands)
        self._waiting.append((self.loop.time() + self._patience, count, [], future))
        if self._timer is None:
            self._timer = self.loop.call_later(self._patience, self._expire)
        return future

    def abort(self) -> None:
        """Drop the connection; whoever waits is told."""
        self._lost(RedisConnectionError("the connection was closed"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's, they only behave alike.
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(RedisConnectionError("Redis hung up"))

    def data_received(self, data: bytes) -> None:
        self._buffer = buffer = self._buffer + data if self._buffer else data
        at = 0
        try:
            while at < len(buffer) and (parsed := _reply(buffer, at)) is not None:
                value, at = parsed
                _, count, found, future = self._waiting[0]
                found.append(value)
                if len(found) == count:
                    self._waiting.popleft()
                    _answer(future, found)
        except (ValueError, IndexError):
            # Not RESP, or more than was asked for: nothing that follows can be matched to who asked.
            self._lost(RedisConnectionError("the reply can't be read"))
            return
        self._buffer = buffer[at:]

    def _expire(self) -> None:
        """One timer watches the oldest question, instead of one for each."""
        self._timer = None
        if not self._waiting:
            return
        left = self._waiting[0][0] - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._expire)
        else:
            # Replies come in order, so one that is overdue blocks all behind it.
            self._lost(RedisTimeoutError("no answer in time"))

    def _lost(self, error: Exception) -> None:
        self.open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, deque()
        for *_, future in waiting:
            if not future.done():
                future.set_exception(error)
        if self._transport is not None:
            self._transport.abort()


def _answer(future: asyncio.Future[list[Reply]], found: list[Any]) -> None:
    if future.done():
        return
    refusal = next((value for value in found if isinstance(value, ResponseError)), None)
    if refusal is not None:
        future.set_exception(refusal)
    else:
        future.set_result(found)


def _reply(buffer: bytes, at: int) -> tuple[Any, int] | None:
    """The list, text or refusal that starts at `at`, and the position behind it; None while it is incomplete."""
    end = buffer.find(_CRLF, at)
    if end < 0:
        return None
    kind, line, after = buffer[at], buffer[at + 1 : end], end + 2
    if kind == 0x2B:  # +
        return line, after
    if kind == 0x2D:  # -
        return ResponseError(line.decode(errors="replace")), after
    if kind != 0x2A:  # *
        raise ValueError(f"a reply of kind {kind}")
    found: Reply = []
    for _ in range(int(line)):
        end = buffer.find(_CRLF, after)
        if end < 0:
            return None
        if buffer[after] != 0x24:  # $
            raise ValueError("not a list of values")
        size = int(buffer[after + 1 : end])
        after = end + 2
        if size < 0:
            found.append(None)
            continue
        if len(buffer) < after + size + 2:
            return None
        found.append(buffer[after : after + size])
        after += size + 2
    return found, after
