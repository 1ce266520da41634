"""Reads what Feast wrote to Redis: any number of views and keys in one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from fasttrack.errors import ConfigurationError, IntegrityError
from fasttrack.features.online.definitions import View, connection_string, redis_errors
from fasttrack.features.online.layout import KeyLayout, Value, decode, field_name
from fasttrack.features.online.link import Link, linkable
from fasttrack.redis_wire import bulk, secured, trust
from fasttrack.settings import Settings

#: Seconds to wait for a connection, and for an answer; the Redis URL may give others. A caller waits for both.
PATIENCE = 1.0

Stored = dict[str, Value]
#: Views, each with the keys that are wanted of it.
Wanted = Sequence[tuple[View, Sequence[Mapping[str, str]]]]


class Reader:
    """Values by entity key. Safe to share between threads: each lookup has a pooled connection to itself.

    Args:
        settings: where Redis is; nothing is asked before the first lookup.
        project: Feast's name of the project.
        views: what may be looked up.

    Raises:
        ConfigurationError: the Redis URL is missing or can't be used.
    """

    def __init__(self, settings: Settings, project: str, views: Sequence[View]) -> None:
        self._settings = settings
        self._tables = {view.name: _Table(project, view) for view in views}
        url = secured(settings.require("redis"), settings)
        self._client = _client(url)
        #: Options that only redis-py knows are left to it, in threads.
        self._link = Link(url, PATIENCE) if linkable(url) else None

    def fetch(self, wanted: Wanted) -> list[list[Stored]]:
        """Look keys up, each once however often it is named.

        Args:
            wanted: views, each with the keys that are wanted of it, as values of its join keys.

        Returns:
            For each view and each of its keys the columns of the view's schema: str, int, float, a float64 [n], or
            ``None`` for null. All of a key that isn't stored are null. Rows of the same key may be the same object.

        Raises:
            UnavailableError: Redis doesn't answer.
            InvalidRequestError: a key can't be encoded.
            IntegrityError: a value isn't one that the features step writes.
        """
        commands, asked = self._commands(wanted)
        with redis_errors(self._settings):
            replies = self._ask(b"".join(asked), len(asked))
        return _rows(commands, asked, replies)

    async def fetch_async(self, wanted: Wanted) -> list[list[Stored]]:
        """As `fetch`, on the running event loop."""
        if self._link is None:
            return await asyncio.to_thread(self.fetch, wanted)
        commands, asked = self._commands(wanted)
        with redis_errors(self._settings):
            replies = await self._link.ask(b"".join(asked), len(asked))
        return _rows(commands, asked, replies)

    def close(self) -> None:
        """Hang up; the next lookup connects again."""
        self._client.close()
        if self._link is not None:
            self._link.close()

    def _commands(self, wanted: Wanted) -> tuple[list[list[bytes]], dict[bytes, _Table]]:
        tables = [self._tables[view.name] for view, _ in wanted]
        commands = [[table.command(key) for key in keys] for table, (_, keys) in zip(tables, wanted, strict=True)]
        return commands, {
            command: table for table, of_view in zip(tables, commands, strict=True) for command in of_view
        }

    def _ask(self, commands: bytes, count: int) -> list[list[bytes | None]]:
        # Not redis-py's `Pipeline`: a quarter of a lookup would go into packing the same field names again.
        pool: Any = self._client.connection_pool  # its connections are untyped
        connection = pool.get_connection()

        def exchange() -> list[list[bytes | None]]:
            connection.send_packed_command([commands])
            return [connection.read_response(disable_decoding=True) for _ in range(count)]

        try:
            replies: list[list[bytes | None]]
            replies = connection.retry.call_with_retry(exchange, lambda _: connection.disconnect())
            return replies
        except BaseException:
            connection.disconnect()  # replies that nobody has read must not answer the next lookup
            raise
        finally:
            pool.release(connection)


class _Table:
    """What is the same in all lookups of a view."""

    def __init__(self, project: str, view: View) -> None:
        self._view = view.name
        self._columns: list[str] = view.schema.names
        self._keys = KeyLayout(project, view.keys)
        fields = [field_name(view.name, column) for column in self._columns]
        self._head = b"*%d\r\n" % (2 + len(fields)) + bulk(b"HMGET")
        self._tail = b"".join(map(bulk, fields))

    def command(self, key: Mapping[str, str]) -> bytes:
        """The Redis command that reads a key's columns, as it goes over the wire."""
        return self._head + bulk(self._keys.encode(key)) + self._tail

    def row(self, reply: Sequence[bytes | None]) -> Stored:
        """The columns from the command's reply."""
        try:
            return dict(zip(self._columns, map(decode, reply), strict=True))
        except IntegrityError as error:
            raise IntegrityError(error.what, where=f"view {self._view}", fix=error.fix) from error


def _rows(
    commands: Sequence[Sequence[bytes]], asked: Mapping[bytes, _Table], replies: Sequence[Sequence[bytes | None]]
) -> list[list[Stored]]:
    rows = {command: table.row(reply) for (command, table), reply in zip(asked.items(), replies, strict=True)}
    return [[rows[command] for command in of_view] for of_view in commands]


def _client(url: str) -> Redis:
    connection_string(url)  # what the writing side can't use is refused here too
    trust(url)  # redis-py would say so at the first lookup
    # A connection that broke is tried once more, on a new one; whoever lets us wait isn't asked twice.
    retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    try:
        client = Redis.from_url(url, retry=retry, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, but checks the options
    except (ValueError, TypeError, RedisError) as error:
        raise ConfigurationError(
            f"the Redis URL has an option that can't be used: {error}", where="FASTTRACK_REDIS",
            fix="Write redis://host:port/0, or rediss://host:port/0 for TLS.",
        ) from error  # fmt: skip
    return client
