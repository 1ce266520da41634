"""A small pool of PostgreSQL connections that outlives restarts of the server, and its errors in our terms."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg2
from psycopg2 import errors as pg
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, make_dsn, parse_dsn
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import register_uuid

from fasttrack.errors import (
    ConfigurationError,
    ConflictError,
    FastTrackError,
    InvalidRequestError,
    StorageError,
    UnavailableError,
)

# The stubs leave it untyped; it teaches psycopg2, for the whole process, that a UUID is a uuid.
register_uuid()  # type: ignore[no-untyped-call]

_SESSION: Final = "SET TIME ZONE 'UTC'; SET statement_timeout = '60s'; SET lock_timeout = '20s'"
_STORAGE: Final = (pg.DiskFull, pg.ReadOnlySqlTransaction, pg.IoError)
_REFUSED: Final = (psycopg2.DataError, psycopg2.IntegrityError)
_CONFLICT: Final = (pg.UniqueViolation, pg.DeadlockDetected, pg.SerializationFailure, pg.LockNotAvailable)


class Connections:
    """At most `size` connections, made when needed, shared by threads; safe to be carried over a fork.

    Args:
        dsn: libpq URL or key-value string.
        size: the most connections at a time; a caller beyond that waits.
        patience: seconds for which a connection is tried again and a free one is waited for.
    """

    def __init__(self, dsn: str, size: int, patience: float) -> None:
        try:
            parts = parse_dsn(dsn)
        except psycopg2.ProgrammingError:
            # Neither the URL nor libpq's message, which repeats it, may be shown: it can hold a password.
            raise ConfigurationError(
                "the database URL is malformed.",
                where="FASTTRACK_POSTGRES",
                fix="Set it to postgresql://user:password@host:port/database.",
            ) from None
        self._dsn = make_dsn(dsn, connect_timeout=max(2, round(patience)), application_name="fasttrack")
        host = parts.get("host") or "localhost"
        self.where = f"PostgreSQL at {host}:{parts.get('port') or 5432}/{parts.get('dbname') or ''}"
        self._size = size
        self._patience = patience
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._free = threading.BoundedSemaphore(self._size)
        self._guard = threading.Lock()
        self._idle: list[Connection] = []

    @contextmanager
    def transaction(self) -> Iterator[Cursor]:
        """A cursor in a transaction that is committed at the end of the block, or rolled back on an error.

        Raises:
            UnavailableError: the server does not answer, or no connection became free.
            ConflictError: another transaction was in the way.
            StorageError: the server's disk is full or read-only.
            InvalidRequestError: a value does not fit its column.
            ConfigurationError: the tables are not there.
        """
        if self._pid != os.getpid():
            # A connection that a forked child shares with its parent would mix up their answers.
            self._reset()
        free = self._free
        if not free.acquire(timeout=self._patience):
            raise self._unavailable(f"all {self._size} connections stayed busy for {self._patience:g} s")
        try:
            connection = self._checkout()
            try:
                with connection.cursor() as cursor:
                    yield cursor
                connection.commit()
            except psycopg2.Error as error:
                raise self._translated(error) from error
            finally:
                self._checkin(connection)
        finally:
            free.release()

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._guard:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _checkout(self) -> Connection:
        while True:
            with self._guard:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect()
            if not _stale(connection):
                return connection
            connection.close()

    def _checkin(self, connection: Connection) -> None:
        # What is not committed by now belongs to an error, or to the caller's own exception, on its way up.
        with suppress(psycopg2.Error):
            connection.rollback()
        if connection.closed or connection.info.transaction_status != TRANSACTION_STATUS_IDLE:
            connection.close()
            return
        with self._guard:
            self._idle.append(connection)

    def _connect(self) -> Connection:
        deadline = time.monotonic() + self._patience
        pause = 0.02
        while True:
            try:
                connection = psycopg2.connect(self._dsn)
                break
            except psycopg2.OperationalError as error:
                # A restarting server refuses for a moment; a wrong password is refused the same way, only longer.
                if time.monotonic() + pause > deadline:
                    raise self._unavailable(_first_line(error)) from error
            time.sleep(pause)
            pause = min(pause * 2, 0.5)
        try:
            with connection.cursor() as cursor:
                cursor.execute(_SESSION)
            connection.commit()
        except psycopg2.Error as error:
            connection.close()
            raise self._unavailable(_first_line(error)) from error
        return connection

    def _unavailable(self, reason: str) -> UnavailableError:
        return UnavailableError(
            f"the database does not answer: {reason.rstrip('.')}.",
            where=self.where,
            fix="Check that it runs (`fasttrack status`) and FASTTRACK_POSTGRES, then try again.",
        )

    def _translated(self, error: psycopg2.Error) -> FastTrackError:
        reason = _first_line(error)
        if isinstance(error, pg.UndefinedTable):
            return ConfigurationError(
                f"the database is not set up: {reason}.", where=self.where, fix="Run Registry.migrate() first."
            )
        if isinstance(error, _STORAGE):
            return StorageError(f"refused: {reason}.", where=self.where, fix="Free space on the database's disk.")
        if isinstance(error, _CONFLICT):
            return ConflictError(f"{reason}.", where=self.where, fix="Somebody was faster: read again, then retry.")
        if isinstance(error, _REFUSED):
            return InvalidRequestError(f"the value was refused: {reason}.", where=self.where, fix="Correct the value.")
        if isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError)):
            return self._unavailable(reason)
        return StorageError(f"refused: {reason}.", where=self.where, fix="Check the database's log.")


def _stale(connection: Connection) -> bool:
    """Whether the server hung up while the connection lay idle.

    An idle connection has nothing to read unless the server said goodbye or the socket broke, so this
    finds a restart without asking the server anything.
    """
    if connection.closed:
        return True
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poller.poll(0))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
