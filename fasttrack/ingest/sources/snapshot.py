"""The rows that are there when a replication slot is made, in the order of their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from fasttrack.ingest.sources.postgres_link import PostgresLink, TableColumn, after, hang_up, one, order_of, text_of
from fasttrack.ingest.sources.rows import decoded, identity, take_any_text

_PAGE = 5_000
# A row's transaction id has 32 bits; with the ones above them, which follow from what comes next. A visible row's id
# can't lie ahead, so one that seems to is older than 2^31 transactions.
_SEEN = """
(SELECT full_id >= ahead OR pg_visible_in_snapshot(greatest(full_id, 3)::text::xid8, {snapshot}::pg_snapshot)
 FROM (SELECT ahead, ahead - (((ahead - t.xmin::text::bigint + 2147483648) & 4294967295) - 2147483648) AS full_id
       FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS ahead) AS next) AS row_id)
"""


class Snapshot:
    """Pages of a table as it was at one moment.

    As long as the process lives, one transaction shows exactly that moment. After a restart the moment can't be seen
    any more, only which rows have stayed as they were: those go on to be read. The others changed since, and each of
    their changes is in the stream, which begins at that same moment: nothing comes twice, and no change is missing.

    Args:
        link: to the server.
        keys: the columns that tell rows apart.
        columns: all columns.
        connection: belongs to this object from now on.
        last: keys of the last row that was read.
    """

    def __init__(
        self,
        link: PostgresLink,
        keys: Sequence[TableColumn],
        columns: Sequence[TableColumn],
        connection: Connection,
        last: list[str] | None = None,
    ) -> None:
        self._link, self._keys, self._columns, self._connection = link, keys, columns, connection
        self.last = last
        self._any_bytes = take_any_text(connection)
        self._only: sql.Composable = sql.SQL("TRUE")
        self.text = ""
        self.file = 0
        #: Whether the last page was given.
        self.done = False

    def begin(self, exported: str) -> None:
        """Show the moment of the snapshot `exported` by another connection."""
        self._connection.autocommit = False
        with self._connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute("SET TRANSACTION SNAPSHOT %s", (exported,))
        self.text = one(self._connection, "SELECT pg_current_snapshot()::text")[0]
        self.file = self._file()

    def resume(self, text: str, file: int) -> None:
        """Show what has stayed as it was at the moment of `text`.

        Args:
            text: the snapshot as PostgreSQL writes it.
            file: the table's file at that moment. A table that was written anew since (ALTER TABLE, say) tells of no
                row how old it is: then all are read, and those that changed come by the stream as well.
        """
        self.text, self.file = text, file
        if self._file() == file:
            self._only = sql.SQL(_SEEN).format(snapshot=sql.Literal(text))

    def _file(self) -> int:
        name = self._link.name.as_string(self._connection)
        found: int = one(self._connection, "SELECT coalesce(pg_relation_filenode(%s::regclass), 0)::bigint", (name,))[0]
        return found

    @property
    def connection(self) -> Connection:
        """What the rows are read by."""
        return self._connection

    def page(self) -> list[tuple[str, dict[str, Any]]]:
        """Identities and values of the next rows; `done` tells whether there are more."""
        query = sql.SQL("SELECT {}, t.xmin::text, ({})::text, {} FROM {} t WHERE {} ORDER BY {} LIMIT {}").format(
            sql.SQL(", ").join(map(text_of, self._keys)),
            self._only,
            sql.SQL(", ").join(map(text_of, self._columns)),
            self._link.name,
            after(self._keys, self.last),
            order_of(self._keys),
            sql.Literal(_PAGE),
        )
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            rows = cursor.fetchall()
        self.done = len(rows) < _PAGE
        width = len(self._keys)
        if rows:
            self.last = list(rows[-1][:width])
        return [self._row(row, width) for row in rows if row[width + 1] == "true"]

    def _row(self, row: tuple[Any, ...], width: int) -> tuple[str, dict[str, Any]]:
        if self._any_bytes:
            row = decoded(row)
        fields = {
            column.name: None if value is None else column.convert(value)
            for column, value in zip(self._columns, row[width + 2 :], strict=True)
        }
        # By the transaction that wrote it: a version of a row has the same identity whenever it is read.
        return f"snapshot:{identity(row[:width])}@{row[width]}", fields

    def close(self) -> None:
        """Hang up."""
        hang_up(self._connection)
