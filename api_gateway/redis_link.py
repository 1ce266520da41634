"""One pipelined connection to Redis: a command costs a write and a parsed reply, and never waits for a dead server."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any, Final
from urllib.parse import urlsplit

from api_gateway.observability import log
from fasttrack.errors import ConfigurationError, UnavailableError
from fasttrack.pem import reason
from fasttrack.redis_wire import Refusal, Wire, Word, connect, encoded, trust

_RETRY_SECONDS: Final = 0.5


class RedisLink:
    """Commands over one connection, answered in order; reconnects by itself, at most twice a second.

    Args:
        url: ``redis://[[user]:password@]host[:port][/db]``, ``rediss://...`` or ``unix:///path?db=0``.
        patience: seconds for which a reply is waited; after that the connection counts as dead.

    Raises:
        ConfigurationError: the URL, or a file of its TLS, can't be used.
    """

    def __init__(self, url: str, *, patience: float) -> None:
        if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
            raise ConfigurationError(
                "the Redis URL can't be used.",
                where="FASTTRACK_REDIS",
                fix="Set it to redis://host:port or unix:///path.",
            )
        self._url = url
        self._tls = trust(url)
        self._patience = patience
        self._wire: Wire | None = None
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

    async def execute(self, *command: Word) -> Any:
        """The reply to one command: bytes, int, list or None.

        Raises:
            UnavailableError: there is no connection (one is being made meanwhile), or no reply in time.
            Refusal: the server refused the command.
        """
        wire = self._wire
        if wire is None or not wire.open:
            self._start()
            raise UnavailableError("Redis does not answer.", where="FASTTRACK_REDIS")
        try:
            (reply,) = await wire.ask(encoded(*command), 1)
        except OSError as error:
            raise UnavailableError("Redis hung up.", where="FASTTRACK_REDIS") from error
        if isinstance(reply, Refusal):
            raise reply
        return reply

    def send(self, *command: Word) -> None:
        """Write a command whose reply doesn't matter; does nothing without a connection."""
        if self._wire is not None and self._wire.open:
            # The future's exception is read so that a lost connection isn't reported as never retrieved.
            self._wire.ask(encoded(*command), 1).add_done_callback(
                lambda future: future.cancelled() or future.exception()
            )

    def defer(self, *command: Word) -> None:
        """As `send`, but the command may wait some milliseconds for one that is sent anyway."""
        if self._wire is not None and self._wire.open:
            self._wire.defer(encoded(*command))

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
                self._wire = await connect(self._url, self._patience, self._tls)
        except (OSError, Refusal) as error:
            # The system's own errors are told by their kind; those of TLS, and of who hangs up on us, by what they say.
            tells = isinstance(error, ssl.SSLError) or (isinstance(error, ConnectionError) and error.errno is None)
            said = reason(error) if tells else type(error).__name__
            log("warning", "Redis does not answer", reason=said)
        else:
            log("info", "connected to Redis")
