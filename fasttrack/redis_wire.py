"""A pipelined connection to Redis on an event loop: RESP2, replies matched to commands by their order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, cast
from urllib.parse import SplitResult, parse_qs, parse_qsl, unquote, urlencode, urlsplit

import hiredis

from fasttrack.pem import Files, Names
from fasttrack.settings import Settings
from fasttrack.tls import ClientTls

Word = bytes | str | int | float
_DEFERRED_SECONDS: Final = 0.005
#: The options of redis-py that name the files.
_OPTIONS: Final = Names("ssl_certfile", "ssl_keyfile", "ssl_ca_certs")
_UNWELCOME: Final = "Redis hung up at once; one that does not accept our certificate does so"
FILE_OPTIONS: Final = frozenset({_OPTIONS.certificate, _OPTIONS.key, _OPTIONS.ca})


class Refusal(Exception):
    """An error reply of the server, such as NOSCRIPT."""


def encoded(*words: Word) -> bytes:
    """A command as it goes over the wire."""
    return b"*%d\r\n" % len(words) + b"".join(bulk(w if isinstance(w, bytes) else str(w).encode()) for w in words)


def bulk(value: bytes) -> bytes:
    """A value as it goes over the wire."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def secured(url: str, settings: Settings) -> str:
    """The URL with the files of ``FASTTRACK_TLS_*`` as options, if it is one of TLS and names no files itself."""
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    if parts.scheme != "rediss" or FILE_OPTIONS & dict(options).keys():
        return url
    files = Files(settings.tls_certificate, settings.tls_key, settings.tls_ca, _OPTIONS).given()
    return parts._replace(query=urlencode([*options, *files.items()])).geturl()


def trust(url: str) -> ClientTls | None:
    """Whom a connection to the URL trusts, and who it is; None without TLS.

    Raises:
        ConfigurationError: a file that an option of it names can't be used.
    """
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return None
    options = dict(parse_qsl(parts.query))
    certificate, key, ca = (options.get(name, "") for name in (_OPTIONS.certificate, _OPTIONS.key, _OPTIONS.ca))
    return ClientTls(Files(certificate, key, ca, _OPTIONS))


async def connect(url: str, patience: float, tls: ClientTls | None = None) -> Wire:
    """A connection on which the server has answered.

    Args:
        url: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://...`` or ``unix:///path?db=0``.
        patience: seconds for which a reply is waited.
        tls: what `trust` says of the URL.

    Raises:
        OSError: nobody answers, or (an SSLError) nobody who is trusted; a TimeoutError, where the reply did not come in
            time.
        Refusal: the account or the database is not accepted.
    """
    loop, parts = asyncio.get_running_loop(), urlsplit(url)

    def made() -> Wire:
        return Wire(loop, patience)

    if parts.scheme == "unix":
        _, wire = await loop.create_unix_connection(made, unquote(parts.path))
    else:
        tls = tls or trust(url)
        secure = tls.current().context if tls else None
        _, wire = await loop.create_connection(made, parts.hostname or "localhost", parts.port or 6379, ssl=secure)
    try:
        for command in _greeting(parts):
            (reply,) = await wire.ask(encoded(*command), 1)
            if isinstance(reply, Refusal):
                raise reply
    except BaseException as error:
        wire.abort()
        if parts.scheme == "rediss" and isinstance(error, ConnectionError):
            raise ConnectionError(_UNWELCOME) from error
        raise
    return wire


def _greeting(parts: SplitResult) -> list[tuple[str, ...]]:
    commands: list[tuple[str, ...]] = []
    if parts.password:
        user = (unquote(parts.username),) if parts.username else ()
        commands.append(("AUTH", *user, unquote(parts.password)))
    asked = parse_qs(parts.query).get("db", [""])[0]
    database = asked or ("" if parts.scheme == "unix" else parts.path.strip("/"))
    if database not in ("", "0"):
        commands.append(("SELECT", database))
    return [*commands, ("PING",)]


class Wire(asyncio.Protocol):
    """The connection itself. `open` tells whether it is there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        self.open = False
        self.loop = loop
        self._patience = patience
        self._transport: asyncio.Transport | None = None
        #: Until when, how many replies, those that are there, and who waits.
        self._waiting: deque[tuple[float, int, list[Any], asyncio.Future[list[Any]]]] = deque()
        self._replies = hiredis.Reader(replyError=Refusal)
        self._timer: asyncio.TimerHandle | None = None
        self._deferred: list[bytes] = []

    def ask(self, commands: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Write `count` commands; the future holds their replies, a `Refusal` as a value, or an OSError."""
        future: asyncio.Future[list[Any]] = self.loop.create_future()
        if not self.open:
            future.set_exception(ConnectionError("the connection is closed"))
            return future
        self._write(commands)
        self._expect(count, future)
        return future

    def defer(self, command: bytes) -> None:
        """Write a command together with the next ones, or in a few milliseconds; nobody learns of its reply."""
        self._deferred.append(command)
        if len(self._deferred) == 1:
            self.loop.call_later(_DEFERRED_SECONDS, self._write_deferred)

    def _write_deferred(self) -> None:
        if self._deferred and self.open:
            self._write(b"")

    def _write(self, commands: bytes) -> None:
        """Write what was deferred, and these behind it."""
        if self._deferred:
            commands = b"".join([*self._deferred, commands])
            nobody: asyncio.Future[list[Any]] = self.loop.create_future()
            # Read, or a lost connection would be reported as never retrieved.
            nobody.add_done_callback(lambda unread: unread.exception())
            self._expect(len(self._deferred), nobody)
            self._deferred.clear()
        assert self._transport is not None
        self._transport.write(commands)

    def _expect(self, count: int, future: asyncio.Future[list[Any]]) -> None:
        self._waiting.append((self.loop.time() + self._patience, count, [], future))
        if self._timer is None:
            self._timer = self.loop.call_later(self._patience, self._expire)

    def abort(self) -> None:
        """Drop the connection; whoever waits is told."""
        self._lost(ConnectionError("the connection was closed"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The event loop's: it may be written to."""
        # uvloop's transports do not derive from asyncio's, they only behave alike.
        self._transport = cast(asyncio.Transport, transport)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """The event loop's: it is gone."""
        self._lost(ConnectionError("Redis hung up"))

    def data_received(self, data: bytes) -> None:
        """The event loop's: replies, whole or in part."""
        self._replies.feed(data)
        try:
            while (value := self._replies.gets()) is not False:
                _, count, found, future = self._waiting[0]
                found.append(value)
                if len(found) == count:
                    self._waiting.popleft()
                    if not future.done():
                        future.set_result(found)
        except (hiredis.ProtocolError, IndexError):
            # Not RESP, or more than was asked for: nothing that follows can be matched to who asked.
            self._lost(ConnectionError("the reply can't be read"))

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
            self._lost(TimeoutError("no answer in time"))

    def _lost(self, error: OSError) -> None:
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
