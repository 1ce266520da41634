"""Lookups on an event loop: a write and its parsed replies, and no thread."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from fasttrack.pem import reason
from fasttrack.redis_wire import FILE_OPTIONS, Refusal, Wire, connect, trust

Reply = list[bytes | None]


def linkable(url: str) -> bool:
    """Whether a `Link` can be made to this Redis: its URL has no options that only redis-py knows."""
    parts = urlsplit(url)
    known = {"redis": {"db"}, "rediss": {"db", *FILE_OPTIONS}}
    return parts.scheme in known and set(parse_qs(parts.query)) <= known[parts.scheme]


class Link:
    """Commands on the running event loop, answered in order; connects when it is asked, anew after a loss.

    Args:
        url: a `linkable` one.
        patience: seconds to wait for a connection, and for an answer.

    Raises:
        ConfigurationError: a file that an option of the URL names can't be used.
    """

    def __init__(self, url: str, patience: float) -> None:
        self._url = url
        self._tls = trust(url)
        self._patience = patience
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[Wire] | None = None

    async def ask(self, commands: bytes, count: int) -> list[Reply]:
        """The replies, all of them lists, to `count` commands.

        Raises:
            RedisError: no connection, no answer in time, or Redis refuses; a connection that broke is tried once more.
        """
        try:
            return await self._asked(commands, count)
        except RedisConnectionError:
            return await self._asked(commands, count)

    async def _asked(self, commands: bytes, count: int) -> list[Reply]:
        with _as_redis_py():
            found = await (await self._connected()).ask(commands, count)
            for reply in found:
                if isinstance(reply, Refusal):
                    raise reply
        return found

    def close(self) -> None:
        """Hang up."""
        if self._wire is not None:
            self._wire.abort()

    async def _connected(self) -> Wire:
        loop = asyncio.get_running_loop()
        if self._wire is not None and self._wire.open and self._wire.loop is loop:
            return self._wire
        task = self._connecting
        if task is None or task.done() or task.get_loop() is not loop:
            # Whoever comes meanwhile waits for the same attempt.
            task = self._connecting = loop.create_task(self._connect())
        self._wire = await asyncio.shield(task)
        return self._wire

    async def _connect(self) -> Wire:
        async with asyncio.timeout(self._patience):
            return await connect(self._url, self._patience, self._tls)


@contextmanager
def _as_redis_py() -> Iterator[None]:
    """The wire's errors as those of redis-py, which the blocking lookups raise."""
    try:
        yield
    except TimeoutError as error:
        raise RedisTimeoutError(str(error) or "no connection in time") from error
    except ssl.SSLError as error:
        raise RedisConnectionError(reason(error)) from error
    except OSError as error:
        raise RedisConnectionError(error.strerror or str(error)) from error
    except Refusal as error:
        raise ResponseError(str(error)) from error
