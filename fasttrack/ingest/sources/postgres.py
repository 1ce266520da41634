"""A table or view, read by a cursor column: everything that is there first, then what has grown."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from fasttrack.errors import ConfigurationError
from fasttrack.ingest.sources.fence import Fence, elsewhere, require_growing
from fasttrack.ingest.sources.postgres_link import (
    PostgresLink,
    TableColumn,
    after,
    column_of,
    hang_up,
    one,
    order_of,
    text_of,
)
from fasttrack.ingest.sources.rows import Rows, decoded, identity, needed, take_any_text
from fasttrack.ingest.sources.source import Batch, Position, Record
from fasttrack.usecase import UseCase
from fasttrack.usecase.sources import PostgresSource

_WAIT_SECONDS = 0.05
#: Up to here waiting rows are counted, beyond it the planner's estimate is taken.
_COUNTED = 10_000


class PostgresReader:
    """Reads a table in the order of cursor and keys, each row version once; see `Fence` for what isn't passed over.

    A row that changes twice between two looks is seen once, with its last values, and rows that are deleted aren't
    seen at all: that takes `postgres_replication`.

    Args:
        usecase: the use case.
        name: the source's name.
        source: its description.
        environment: where `connection_env` stands.

    Raises:
        ConfigurationError: `connection_env` isn't set, or is no connection string.
    """

    def __init__(self, usecase: UseCase, name: str, source: PostgresSource, environment: Mapping[str, str]) -> None:
        self._source = source
        self._link = PostgresLink(name, source.connection_env, source.table, environment)
        self._where = f"sources.{name}"
        self._names = [source.cursor, *(key for key in source.keys if key != source.cursor)]
        self._connection: Connection | None = None
        self._columns: dict[str, TableColumn] = {}
        self._order: list[TableColumn] = []
        self._records = Rows(needed(source, usecase.streams[source.stream]), f"source {name}, table {source.table}")
        self._elsewhere = self._any_bytes = False
        self._last: list[str] | None = None
        self._fence: Fence | None = None
        self._look_at = 0.0

    def open(self, position: Position | None) -> None:
        """Begin after `position`.

        Raises:
            UnavailableError: the server doesn't answer.
            ConfigurationError: there is no such table or column, no right to read it, or the position is of another
                cursor or other keys.
        """
        self.close()
        if position is not None and position["order"] != self._names:
            raise ConfigurationError(
                f"was read by {', '.join(position['order'])} until now, which can't be taken up by "
                f"{', '.join(self._names)}.",
                where=self._where, fix="Change `cursor` and `keys` back, or give the source another name.",
            )  # fmt: skip
        self._last = list(position["after"]) if position is not None else None
        connection = self._open_connection()
        with self._link.errors():
            self._inspect(connection)
            one(connection, sql.SQL("SELECT 1 FROM {} LIMIT 1").format(self._link.name))

    def _inspect(self, connection: Connection) -> None:
        """Learn what the table is like now, and whether it can be read by the cursor."""
        self._columns = found = self._link.columns(connection)
        cursor = self._link.require(found, self._names[:1], "cursor")
        self._order = cursor + self._link.require(found, self._names[1:], "keys")
        if self._order[0].type == "date":
            raise ConfigurationError(
                "a date is too coarse: rows of a day that was read would be passed over.",
                where=f"{self._where}.cursor", fix="Name a column with a time or a number.",
            )  # fmt: skip
        table = self._link.name.as_string(connection)
        require_growing(connection, table, self._names[0], f"{self._where}.cursor")
        self._elsewhere = elsewhere(connection, table)
        if self._elsewhere and not self._source.overlap:
            raise ConfigurationError(
                "the server doesn't know the transactions that are open: it is a standby, or the table is or shows a "
                "foreign table or a materialized view.",
                where=self._where,
                fix="Read the tables themselves on their primary, or set `overlap` to longer than any transaction "
                "stays open and a materialized view is not refreshed.",
            )  # fmt: skip

    def read(self, seconds: float) -> Batch | None:
        """The next rows; None if there are none within `seconds`, or none yet that can be read.

        Raises:
            UnavailableError: the connection broke.
            ConfigurationError: a row has no cursor or key, or the same as another one; or the table isn't what it was.
        """
        deadline = time.monotonic() + seconds
        while True:
            with self._link.errors():
                found = self._next()
            if found is not None:
                return found
            # Behind a fence that isn't passed there is something to read soon, otherwise `poll` says when to look.
            until = time.monotonic() + _WAIT_SECONDS if self._fence else self._look_at
            if until >= deadline:
                time.sleep(max(0.0, deadline - time.monotonic()))
                return None
            time.sleep(max(0.0, until - time.monotonic()))

    def _next(self) -> Batch | None:
        connection = self._open_connection()
        try:
            if self._fence is None and time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + self._source.poll.total_seconds()
                self._inspect(connection)
                self._fence = self._new_fence(connection)
            if self._fence is None or not self._fence.passed(connection):
                return None
            rows = self._rows(connection, self._fence.value)
        except (psycopg2.ProgrammingError, psycopg2.DataError, psycopg2.InternalError):
            if not self._altered(connection):
                raise
            return None
        # Texts of a column that became another one mean something else.
        return None if self._altered(connection) else self._batch(rows)

    def _altered(self, connection: Connection) -> bool:
        """Whether the table has other columns than those that were asked for; it is looked at anew at once then."""
        if self._link.columns(connection) == self._columns:
            return False
        self._fence, self._look_at = None, 0.0
        return True

    def _batch(self, rows: list[tuple[str | None, ...]]) -> Batch | None:
        self._refuse_ties(rows)
        if len(rows) <= self._source.batch:
            self._fence = None
        else:
            # More is there already.
            self._look_at = 0.0
            del rows[self._source.batch :]
        if not rows:
            return None
        # None of these is null: `_refuse_nulls`, and what was read is behind the fence.
        self._last = [str(value) for value in rows[-1][: len(self._order)]]
        return Batch([self._record(row) for row in rows], self._position())

    def _new_fence(self, connection: Connection) -> Fence | None:
        """A fence at the greatest value that is there; None if that has been read."""
        self._refuse_nulls(connection)
        cursor = column_of(self._order[0])
        query = sql.SQL("SELECT {} FROM {} t WHERE {} IS NOT NULL AND {} ORDER BY {} DESC LIMIT 1").format(
            text_of(self._order[0]), self._link.name, cursor, after(self._order, self._last), cursor
        )
        found = one(connection, query)
        settle = max(self._order[0].granularity, self._source.overlap.total_seconds())
        return None if found is None else Fence(found[0], settle, self._where, elsewhere=self._elsewhere)

    def _refuse_nulls(self, connection: Connection) -> None:
        """A row without cursor or key would never be read."""
        for column in self._order:
            if column.required:
                continue
            query = sql.SQL("SELECT 1 FROM {} t WHERE {} IS NULL LIMIT 1")
            if one(connection, query.format(self._link.name, column_of(column))):
                raise ConfigurationError(
                    f"a row of {self._link.table} has no {column.name}, so that it would never be read.",
                    where=self._where,
                    fix="Fill the column in and make it NOT NULL, or read a view without such rows.",
                )  # fmt: skip

    def _refuse_ties(self, rows: Sequence[tuple[str | None, ...]]) -> None:
        """A page that ends between rows that cursor and keys don't tell apart would leave some out for ever."""
        for row in rows:
            if row[-1] == "true":
                values = ", ".join(f"{name}={value}" for name, value in zip(self._names, row, strict=False))
                raise ConfigurationError(
                    f"two rows of {self._link.table} have the same cursor and keys ({values}), so that some might "
                    "never be read.",
                    where=f"{self._where}.keys", fix="Name the columns that tell rows apart, as a primary key does.",
                )  # fmt: skip

    def _rows(self, connection: Connection, upto: str) -> list[tuple[str | None, ...]]:
        """The next page, and the first row of the page after it; the last value says if it is as the one before."""
        order = order_of(self._order)
        page = sql.SQL("SELECT {} FROM {} t WHERE {} AND {} <= {}::{} ORDER BY {} LIMIT {}").format(
            order_of(list(self._columns.values())),
            self._link.name,
            after(self._order, self._last),
            column_of(self._order[0]),
            sql.Literal(upto),
            sql.SQL(self._order[0].type),
            order,
            sql.Literal(self._source.batch + 1),
        )
        # Whether values are the same is for the server to say: 1.0 is 1.00, and letters may be the same in two cases.
        query = sql.SQL(
            "SELECT {}, (lag(ROW({})) OVER (ORDER BY {}) = ROW({}))::text FROM ({}) t ORDER BY {}"
        ).format(
            sql.SQL(", ").join(text_of(column) for column in [*self._order, *self._columns.values()]),
            order, order, order, page, order,
        )  # fmt: skip
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def _record(self, row: tuple[str | None, ...]) -> Record:
        if self._any_bytes:
            row = decoded(row)
        width = len(self._order)
        return self._records.record(identity(row[:width]), list(self._columns.values()), row[width:-1])

    def _position(self) -> Position:
        return {"order": self._names, "after": self._last}

    def committed(self, position: Position) -> None:
        """Nothing to do: the table keeps its rows."""

    def lag(self) -> float | None:
        """How many rows lie behind what was read: counted if they are few, else what the planner expects."""
        connection = self._connection
        if connection is None:
            return None
        rest = sql.SQL("FROM {} t WHERE {}").format(self._link.name, after(self._order, self._last))
        with self._link.errors():
            few = sql.SQL("SELECT count(*) FROM (SELECT 1 {} LIMIT {}) few").format(rest, sql.Literal(_COUNTED))
            counted: int = one(connection, few)[0]
            if counted < _COUNTED:
                return float(counted)
            plan = one(connection, sql.SQL("EXPLAIN (FORMAT JSON) SELECT 1 {}").format(rest))[0]
            return float(max(counted, plan[0]["Plan"]["Plan Rows"]))

    def close(self) -> None:
        """Hang up."""
        hang_up(self._connection)
        self._connection = self._fence = None
        self._look_at = 0.0

    def _open_connection(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._link.connect()
            with self._link.errors():
                self._any_bytes = take_any_text(self._connection)
            self._fence = None
        return self._connection
