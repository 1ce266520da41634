"""The table that a source reads, and the publication that tells its changes: made once, then only checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2 import errors as pg
from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from fasttrack.errors import ConfigurationError
from fasttrack.ingest.sources.origin import Published
from fasttrack.ingest.sources.postgres_link import PostgresLink, one

_TABLE = """
SELECT c.relkind::text, c.relreplident::text,
       EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
FROM pg_class c WHERE c.oid = %s
"""
_NAME = "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s"
# A partitioned table is in the view only if its changes are told under its own name.
_PUBLICATION = """
SELECT p.oid, p.pubinsert, p.pubupdate, p.pubdelete, EXISTS (
  SELECT 1 FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
  WHERE t.pubname = p.pubname AND c.oid = %(table)s),
  coalesce((SELECT r.oid::bigint FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = %(table)s), 0)
FROM pg_publication p WHERE p.pubname = %(name)s
"""


class Publication:
    """A source's table, and the publication of its slot's name.

    Args:
        link: to the server.
        name: of the publication and the slot.
        changes: what is published: insert, update, delete.
    """

    def __init__(self, link: PostgresLink, name: str, changes: Sequence[str]) -> None:
        self._link, self._name = link, name
        self._changes = [change for change in ("insert", "update", "delete") if change in changes]

    def prepare(self, connection: Connection) -> Published:
        """Make sure that the table can be replicated, and make the publication if it isn't there.

        Raises:
            ConfigurationError: it can't, there is no such table, or no right to make the publication.
            UnavailableError: the server doesn't answer.
        """
        with self._link.errors():
            table = one(connection, "SELECT %s::regclass::oid::bigint", (self._regclass(connection),))[0]
            self._check_table(connection, table)
            found = self._row(connection, table)
            if found is None:
                self._publish(connection, table)
                found = self._row(connection, table)
        self._check_kinds(found)
        if not found[4]:
            raise self._wrong(
                f"publication {self._name} doesn't hold table {self._link.table}.",
                f"ALTER PUBLICATION {self._name} ADD TABLE {self._link.table} (a partitioned table: and SET "
                "(publish_via_partition_root)).",
            )
        return Published(table, found[0], found[5])

    def found(self, connection: Connection) -> Published:
        """The table and the publication as they are now; 0 for what isn't there.

        Raises:
            ConfigurationError: the publication lacks a kind of changes that the use case asks for.
            UnavailableError: the server doesn't answer.
        """
        with self._link.errors():
            table = self._table(connection)
            found = self._row(connection, table)
        if found is None:
            return Published(table, 0, 0)
        self._check_kinds(found)
        return Published(table, found[0], found[5])

    def require_table(self, connection: Connection, table: int) -> None:
        """Make sure that the table is the one that was read until now.

        Raises:
            ConfigurationError: it has another name now.
            DataLossError: it is gone, or another one has its name.
            UnavailableError: the server doesn't answer.
        """
        with self._link.errors():
            now, name = self._table(connection), one(connection, _NAME, (table,))
        if now == table and now:
            return
        other = "" if name is None else ".".join(name)
        if not now and other:
            raise ConfigurationError(
                f"table {self._link.table} is called {other} now.", where=f"sources.{self._link.source}.table",
                fix=f"Set `table: {other}`: it is read on from where it was.",
            )  # fmt: skip
        fate = f"is called {other} now" if other else "was dropped"
        what = f"table {self._link.table} is another one than the one that was read, which {fate}" if now else (
            f"table {self._link.table} {fate}"
        )  # fmt: skip
        raise self._link.lost(f"{what}: what was written since isn't told.", self._name)

    def require(self, connection: Connection, begun: Published) -> None:
        """Make sure that the table's changes are told, as they were since the beginning.

        Raises:
            ConfigurationError: the table has another name now.
            DataLossError: the table or the publication isn't what it was, so that changes were not told.
            UnavailableError: the server doesn't answer.
        """
        self.require_table(connection, begun.table)
        with self._link.errors():
            found = self._row(connection, begun.table)
        missing = [] if found is None else self._missing(found)
        if found is None:
            fate = "was dropped"
        elif found[0] != begun.publication:
            fate = "was dropped and made again"
        elif not found[4]:
            fate = f"no longer holds table {self._link.table}"
        elif found[5] != begun.member:
            fate = f"did not hold table {self._link.table} all the time"
        elif missing:
            fate = f"no longer publishes {', '.join(missing)}"
        else:
            return
        raise self._link.lost(f"publication {self._name} {fate}: what was written meanwhile isn't told.", self._name)

    def name(self, connection: Connection) -> tuple[str, str]:
        """Schema and name of the table, as changes of it are told."""
        schema, name = one(connection, _NAME, (self._table(connection),)) or ("", "")
        return schema, name

    def _row(self, connection: Connection, table: int) -> Any:
        return one(connection, _PUBLICATION, {"table": table, "name": self._name})

    def _table(self, connection: Connection) -> int:
        name = self._regclass(connection)
        found: int = one(connection, "SELECT coalesce(to_regclass(%s)::oid::bigint, 0)", (name,))[0]
        return found

    def _missing(self, found: Any) -> list[str]:
        published = dict(zip(("insert", "update", "delete"), found[1:4], strict=True))
        return [change for change in self._changes if not published[change]]

    def _check_kinds(self, found: Any) -> None:
        if missing := self._missing(found):
            raise self._wrong(
                f"publication {self._name} doesn't publish {', '.join(missing)}.",
                f"ALTER PUBLICATION {self._name} SET (publish = '{self._published()}'): it tells what is done then.",
            )

    def _published(self) -> str:
        return ", ".join([*self._changes, *(["truncate"] if "delete" in self._changes else [])])

    def _check_table(self, connection: Connection, table: int) -> None:
        kind, replica, primary = one(connection, _TABLE, (table,))
        if kind not in ("r", "p"):
            raise self._wrong(
                f"{self._link.table} is no table, and only tables are replicated.", "Name a table, or use `postgres`."
            )
        # The server would refuse its own application's updates from the moment that the publication is there.
        if {"update", "delete"} & set(self._changes) and (replica == "n" or (replica == "d" and not primary)):
            raise self._wrong(
                f"table {self._link.table} has no primary key, so that its updates and deletes can't be published.",
                f"Add one, or ALTER TABLE {self._link.table} REPLICA IDENTITY FULL, or set `changes: [insert]`.",
            )

    def _publish(self, connection: Connection, table: int) -> None:
        kind, _, _ = one(connection, _TABLE, (table,))
        root = ", publish_via_partition_root = true" if kind == "p" else ""
        statement = sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish = {}{})").format(
            sql.Identifier(self._name), self._link.name, sql.Literal(self._published()), sql.SQL(root)
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        except pg.InsufficientPrivilege as error:
            raise self._wrong(
                "there is no right to make a publication.",
                f"Let the table's owner run: {statement.as_string(connection)}",
            ) from error

    def _regclass(self, connection: Connection) -> str:
        return self._link.name.as_string(connection)

    def _wrong(self, what: str, fix: str) -> ConfigurationError:
        return ConfigurationError(what, where=self._link.where, fix=fix)
