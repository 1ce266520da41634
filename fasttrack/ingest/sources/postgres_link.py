"""Connections to a source's PostgreSQL server, its tables' columns, and its errors in our terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import errors as pg
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn, parse_dsn

from fasttrack.errors import ConfigurationError, DataLossError, FastTrackError, UnavailableError
from fasttrack.ingest.sources.column_types import selected
from fasttrack.ingest.sources.postgres_values import Convert

_CONNECT_SECONDS = 10
# One way to write each type, whatever the server, the database or the role are set to; and a server that is cut off
# is noticed within half a minute.
_OPTIONS = (
    "-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c bytea_output=hex -c extra_float_digits=3 "
    "-c idle_in_transaction_session_timeout=0"
)
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4}
# What a server says to those who must not come in. It says so before a session has an error code, and in English
# unless it is set to another language: then it counts as not answering, with its own words.
_NOT_ADMITTED = (
    "authentication failed", "does not exist", "no pg_hba.conf entry", "permission denied",
    # To start a walsender, before PostgreSQL 16.
    "must be superuser or replication role",
)  # fmt: skip
_DENIED = (pg.InsufficientPrivilege, pg.InvalidAuthorizationSpecification)
_MISSING = (pg.UndefinedTable, pg.UndefinedColumn, pg.UndefinedFunction, pg.InvalidSchemaName, pg.WrongObjectType)

_NO_TEXT = (pg.CharacterNotInRepertoire, pg.UntranslatableCharacter)
_CORRECT_TEXTS = "Correct the table's texts that are no UTF-8: the database's encoding (SQL_ASCII) lets them in."

# Types without a length, to which a cast would cut a value: -1 gives bpchar, where NULL gives character, of length 1.
_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, -1), a.attnotnull, a.attstorage, a.atttypmod, a.atttypid
FROM pg_attribute a WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""


@dataclass(frozen=True)
class TableColumn:
    """A column: its type as SQL writes it (without length or precision), and what makes a Python value of its text.

    Attributes:
        granularity: seconds between a moment and the next one that the type can tell from it; 0 for what is no time.
        large: its values may lie outside the row (TOAST), and an update that leaves them alone doesn't tell them.
    """

    name: str
    type: str
    required: bool
    granularity: float
    large: bool
    convert: Convert


class PostgresLink:
    """How a source reaches its server.

    Args:
        source: the source's name.
        variable: the environment variable with the libpq connection string.
        table: ``[schema.]table``.
        environment: where the variable stands.

    Raises:
        ConfigurationError: the variable isn't set, or no connection string.
    """

    def __init__(self, source: str, variable: str, table: str, environment: Mapping[str, str]) -> None:
        self.source = source
        self.name = sql.Identifier(*table.split("."))
        given = environment.get(variable, "")
        try:
            parts = parse_dsn(given)
        except psycopg2.ProgrammingError:
            # libpq's message repeats the text, which may hold a password.
            parts = {}
        if not parts:
            what = "is no connection string" if given else "is not set"
            raise ConfigurationError(
                f"{variable} {what}.", where=f"sources.{source}.connection_env",
                fix=f"Set {variable}=postgresql://user:password@host:port/database.",
            )  # fmt: skip
        self.where = f"sources.{source}: PostgreSQL at {parts.get('host', 'localhost')}:{parts.get('port', 5432)}"
        self.table = table
        settings = {"connect_timeout": _CONNECT_SECONDS, "application_name": f"fasttrack-{source}"[:63], **_KEEPALIVES}
        # Whatever the database's encoding is: also what a slot tells comes in the client's.
        settings["client_encoding"] = "UTF8"
        self._dsn = make_dsn(given, **{**settings, "options": f"{parts.get('options', '')} {_OPTIONS}".strip()})

    def connect(self, factory: type[Connection] | None = None) -> Connection:
        """A new connection in autocommit.

        Raises:
            UnavailableError: the server doesn't answer.
            ConfigurationError: it doesn't let us in.
        """
        try:
            found: Connection = psycopg2.connect(self._dsn, connection_factory=factory)
            if factory is None:
                found.autocommit = True
        except psycopg2.Error as error:
            raise self.translated(error) from error
        return found

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise what psycopg2 raises in the block as an error of ours."""
        try:
            yield
        except psycopg2.Error as error:
            raise self.translated(error) from error

    def translated(self, error: psycopg2.Error) -> FastTrackError:
        """`error` in our terms."""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        if isinstance(error, _DENIED):
            return ConfigurationError(
                f"refused: {reason}.", where=self.where, fix=f"Grant the role SELECT on {self.table} (docs: Databases)."
            )
        if isinstance(error, _MISSING):
            return ConfigurationError(f"{reason}.", where=self.where, fix="Correct `table`, `cursor` or `keys`.")
        if isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError) or error.pgcode is None:
            if error.pgcode is None and any(words in reason for words in _NOT_ADMITTED):
                return ConfigurationError(
                    f"doesn't let us in: {reason}.", where=self.where, fix="Correct the connection string."
                )
            return UnavailableError(
                f"the database doesn't answer: {reason}.", where=self.where,
                fix="It is tried again; check that the server runs.",
            )  # fmt: skip
        fix = _CORRECT_TEXTS if isinstance(error, _NO_TEXT) else "Correct the source in the use case."
        return ConfigurationError(f"refused: {reason}.", where=self.where, fix=fix)

    def columns(self, connection: Connection) -> dict[str, TableColumn]:
        """The table's columns by name, in their order.

        Raises:
            ConfigurationError: there is no such table.
            UnavailableError: the server doesn't answer.
        """
        with self.errors(), connection.cursor() as cursor:
            cursor.execute(_COLUMNS, (self.name.as_string(connection),))
            rows = cursor.fetchall()
            convert = selected(connection, [row[-1] for row in rows])
        return {
            name: _column(name, kind, required, storage, precision, convert.get(oid, str))
            for name, kind, required, storage, precision, oid in rows
        }

    def require(self, columns: Mapping[str, TableColumn], names: Sequence[str], what: str) -> list[TableColumn]:
        """The columns called `names`.

        Raises:
            ConfigurationError: one isn't there.
        """
        for name in names:
            if name not in columns:
                raise ConfigurationError(
                    f"{self.table} has no column {name!r}; it has {', '.join(columns)}.",
                    where=f"sources.{self.source}.{what}", fix="Name one of them.",
                )  # fmt: skip
        return [columns[name] for name in names]

    def lost(self, what: str, slot: str, more: str = "") -> DataLossError:
        """The error that says that changes can't be had any more, and how to begin anew; `more`: what else to do."""
        return DataLossError(
            what, where=self.where,
            fix=f"Drop the slot if it is there (SELECT pg_drop_replication_slot('{slot}')) and give the source another "
            f"name: it begins anew with a snapshot, and events that are there already are known by their ids.{more}",
        )  # fmt: skip


def _column(name: str, kind: str, required: bool, storage: str, precision: int, convert: Convert) -> TableColumn:
    granularity = 10.0**-precision if kind.startswith("timestamp") and precision >= 0 else 0.0
    return TableColumn(name, kind, required, granularity, storage in "xe", convert)


def one(connection: Connection, query: str | sql.Composable, values: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
    """The first row of an answer, or None."""
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        return cursor.fetchone()


def hang_up(connection: Connection | None) -> None:
    """Close a connection, whatever state it is in."""
    if connection is not None:
        with suppress(psycopg2.Error):
            connection.close()


def text_of(column: TableColumn) -> sql.Composable:
    """A column's value as text, as the server writes it; the table is called ``t`` in the query."""
    return sql.SQL("{}::text").format(column_of(column))


def order_of(columns: Sequence[TableColumn]) -> sql.Composable:
    """The columns as a list, for ORDER BY and for comparisons of rows."""
    return sql.SQL(", ").join(map(column_of, columns))


def column_of(column: TableColumn) -> sql.Composable:
    """A column of the table ``t``: a name alone would be taken for what SELECT makes of it, such as its text."""
    return sql.Identifier("t", column.name)


def after(columns: Sequence[TableColumn], last: Sequence[str] | None) -> sql.Composable:
    """The condition of rows behind `last` (texts of the columns' values; None: every row)."""
    if last is None:
        return sql.SQL("TRUE")
    values = [
        sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(column.type))
        for column, value in zip(columns, last, strict=True)
    ]
    return sql.SQL("({}) > ({})").format(order_of(columns), sql.SQL(", ").join(values))
