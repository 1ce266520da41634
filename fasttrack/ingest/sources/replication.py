"""A table's changes from a logical replication slot, after the rows that are there when the slot is made.

The slot begins at one place of the server's log, and the snapshot that is exported with it shows the table at exactly
that place: rows come from the snapshot, every change after it from the slot, nothing in between is missing or doubled.

What is there is never thrown away unread. A first position, "begin", is recorded (`committed`) while there is no slot;
one that is there later was made for this source. The second is where that begins, and before it is recorded no row is
given: until then a slot is made anew, from then on never.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import cast

from psycopg2.extensions import connection as Connection
from psycopg2.extras import LogicalReplicationConnection

from fasttrack.ingest.sources.changes import Changes, Place
from fasttrack.ingest.sources.changestream import ChangeStream
from fasttrack.ingest.sources.column_types import replicated
from fasttrack.ingest.sources.origin import Origin, Published, identify
from fasttrack.ingest.sources.pgoutput import lsn_number
from fasttrack.ingest.sources.postgres_link import PostgresLink, hang_up, one
from fasttrack.ingest.sources.postgres_values import Convert
from fasttrack.ingest.sources.publication import Publication
from fasttrack.ingest.sources.rows import Rows, needed
from fasttrack.ingest.sources.slot import UNREADABLE, Slot
from fasttrack.ingest.sources.slotname import slot_name
from fasttrack.ingest.sources.snapshot import Snapshot
from fasttrack.ingest.sources.source import Batch, Position
from fasttrack.usecase import UseCase
from fasttrack.usecase.sources import PostgresReplicationSource

_BEGIN = "begin"


class ReplicationReader:
    """Reads a table by logical replication (plugin pgoutput, which every PostgreSQL has).

    A record has the row's columns and ``_change`` (insert, update, delete), ``_change_id`` (no other change has it),
    ``_lsn`` and ``_committed_at`` (those of the transaction); a row of the snapshot counts as inserted where and when
    the slot was made. After a delete there are the key's columns only, unless the table has REPLICA IDENTITY FULL.

    Args:
        usecase: the use case.
        name: the source's name.
        source: its description.
        environment: where `connection_env` stands.

    Raises:
        ConfigurationError: `connection_env` isn't set, or is no connection string.
    """

    def __init__(
        self, usecase: UseCase, name: str, source: PostgresReplicationSource, environment: Mapping[str, str]
    ) -> None:
        self._source = source
        self._where = f"sources.{name}"
        self._link = PostgresLink(name, source.connection_env, source.table, environment)
        self._slot = Slot(self._link, source.slot or slot_name(usecase.name, name))
        self._publication = Publication(self._link, self._slot.name, source.changes)
        self._needed = needed(source, usecase.streams[source.stream])
        self._rows = Rows(self._needed, self._where)
        self._connection: LogicalReplicationConnection | None = None
        self._stream: ChangeStream | None = None
        self._snapshot: Snapshot | None = None
        self._published: Published | None = None
        self._origin: Origin | None = None
        self._beginning = False
        self._unrecorded: Position | None = None
        self._last: Position | None = None
        self._awaited = self._broken = False

    def open(self, position: Position | None) -> None:
        """Begin after `position`; None: with a new slot's snapshot.

        Raises:
            UnavailableError: the server doesn't answer, or the slot is in use.
            ConfigurationError: the server, the table or the role aren't fit for replication.
            DataLossError: the slot is gone, was given up by the server, or is another server's; or there is one
                though there is no position in it.
        """
        self.close()
        self._last = position
        connection = self._link.connect()
        try:
            with self._link.errors():
                if position is None:
                    self._slot.require_none(connection)
                self._slot.check(connection)
                if position is None or position["phase"] == _BEGIN:
                    self._prepare(connection, position)
                else:
                    self._resume(connection, position)
        finally:
            if self._snapshot is None:
                hang_up(connection)

    def _prepare(self, connection: Connection, position: Position | None) -> None:
        """Make sure that there is nothing that the slot has to wait for; `read` makes it."""
        self._published = self._publication.prepare(connection)
        self._link.require(self._link.columns(connection), self._source.keys, "keys")
        self._connection = self._replication()
        server, _ = identify(self._connection)
        if position is None or position["server"] != server:
            self._slot.require_none(connection)
            self._unrecorded = {"phase": _BEGIN, "server": server}
        self._beginning = True

    def _resume(self, connection: Connection, position: Position) -> None:
        self._connection = self._replication()
        server, timeline = identify(self._connection)
        self._slot.require(connection, position, server)
        now = self._publication.found(connection)
        self._origin = Origin.of(position, now, timeline)
        if not now.table or position["phase"] == "snapshot":
            self._publication.require_table(connection, self._origin.table)
        if position["phase"] == "snapshot":
            self._snapshot = self._new_snapshot(connection, position["after"])
            self._snapshot.resume(position["snapshot"], position["file"])
        else:
            self._start(Place.of(position), connection)

    def _begin(self) -> None:
        """Make the slot: the position is where it begins."""
        assert self._connection is not None and self._published is not None
        connection = self._link.connect()
        try:
            # Asked first: a further command on its connection would end what the slot exports.
            server, timeline = identify(self._connection)
            made = self._slot.make(connection, self._connection)
            began_at = datetime.now(UTC).isoformat()
            self._origin = Origin(
                **asdict(self._published),
                server=server,
                timeline=timeline,
                began_at=began_at,
                began_lsn=made.consistent,
            )
            if self._source.snapshot:
                self._snapshot = self._new_snapshot(connection, None)
                self._snapshot.begin(made.snapshot)
                self._unrecorded = self._snapshot_position(self._snapshot)
            else:
                place = Place(lsn_number(made.consistent))
                self._start(place, connection)
                self._unrecorded = self._position(place)
            self._beginning = False
        finally:
            if self._snapshot is None:
                hang_up(connection)

    def read(self, seconds: float) -> Batch | None:
        """The next records; None if there are none within `seconds`, or if the first position isn't recorded yet.

        Raises:
            UnavailableError: the connection broke; the next `read` connects anew.
            DataLossError: the slot no longer has what comes next.
        """
        if self._broken:
            self.open(self._last)
        if self._awaited:
            return None
        try:
            with self._link.errors():
                found = self._next(seconds)
        except BaseException:
            self.close()
            self._broken = True
            raise
        self._last = found.position if found else self._last
        return found

    def _next(self, seconds: float) -> Batch | None:
        if self._beginning and self._unrecorded is None:
            self._begin()
        if self._unrecorded is not None:
            found, self._unrecorded, self._awaited = Batch([], self._unrecorded), None, True
            return found
        if self._snapshot is not None:
            return self._page(self._snapshot)
        if self._stream is None:
            connection = self._link.connect()
            try:
                self._start(Place(lsn_number(cast(Origin, self._origin).began_lsn)), connection)
            finally:
                hang_up(connection)
        try:
            told = cast(ChangeStream, self._stream).read(time.monotonic() + seconds)
        except UNREADABLE as error:
            # The server only says that it finds no publication; this, what became of it.
            self._look()
            raise self._slot.unreadable(error) from error
        return None if told is None else Batch(told[0], self._position(told[1]))

    def _page(self, snapshot: Snapshot) -> Batch:
        origin = cast(Origin, self._origin)
        rows = [(name, {**fields, **origin.inserted(name)}) for name, fields in snapshot.page()]
        records = [self._rows.replicated(name, fields) for name, fields in rows]
        # Afterwards: the name of the table was that of another one from some moment on, or never.
        self._publication.require_table(snapshot.connection, origin.table)
        if "insert" not in self._source.changes:
            records.clear()
        if not snapshot.done:
            return Batch(records, self._snapshot_position(snapshot))
        snapshot.close()
        self._snapshot = None
        return Batch(records, self._position(Place(lsn_number(origin.began_lsn))))

    def _start(self, place: Place, connection: Connection) -> None:
        assert self._connection is not None and self._origin is not None
        name = self._publication.name(connection)
        target = lsn_number(one(connection, "SELECT pg_current_wal_flush_lsn()::text")[0])
        changes = Changes(
            place, self._origin, name, self._types, self._look, self._source.changes, self._needed, self._where
        )
        cursor = self._slot.start(self._connection, place.lsn)
        self._stream = ChangeStream(cursor, changes, target, self._look)

    def _types(self, types: Iterable[int]) -> Mapping[int, Convert]:
        connection = self._link.connect()
        try:
            with self._link.errors():
                return replicated(connection, types)
        finally:
            hang_up(connection)

    def _look(self) -> None:
        connection = self._link.connect()
        try:
            self._publication.require(connection, cast(Origin, self._origin))
        finally:
            hang_up(connection)

    def committed(self, position: Position) -> None:
        """Let the server forget what lies before `position`."""
        self._awaited = False
        if position["phase"] == "stream" and self._stream is not None:
            self._stream.committed(lsn_number(position["lsn"]))

    def lag(self) -> float | None:
        """0 if everything was read, else None: the server counts bytes, not changes."""
        return None if self.waiting() else 0.0

    def waiting(self) -> bool:
        """Whether what the server had when the stream was begun is not read yet."""
        return self._beginning or self._awaited or self._stream is None or self._stream.waiting()

    def broken(self) -> Mapping[str, str]:
        """Nothing ever is."""
        return {}

    def close(self) -> None:
        """Hang up; the slot keeps what comes."""
        hang_up(self._connection)
        if self._snapshot is not None:
            self._snapshot.close()
        self._connection = self._stream = self._snapshot = self._unrecorded = None
        self._awaited = self._broken = self._beginning = False

    def _replication(self) -> LogicalReplicationConnection:
        found = self._link.connect(LogicalReplicationConnection)
        assert isinstance(found, LogicalReplicationConnection)
        if found.get_parameter_status("server_encoding") == "SQL_ASCII":
            # A database without an encoding holds any bytes: here they come as they are.
            found.set_client_encoding("LATIN1")
        return found

    def _new_snapshot(self, connection: Connection, last: list[str] | None) -> Snapshot:
        columns = self._link.columns(connection)
        keys = self._link.require(columns, self._source.keys, "keys")
        return Snapshot(self._link, keys, list(columns.values()), connection, last)

    def _position(self, place: Place) -> Position:
        return {"phase": "stream", **cast(Origin, self._origin).to_position(), **place.to_position()}

    def _snapshot_position(self, snapshot: Snapshot) -> Position:
        inside = {"snapshot": snapshot.text, "file": snapshot.file, "after": snapshot.last}
        return {"phase": "snapshot", **cast(Origin, self._origin).to_position(), **inside}
