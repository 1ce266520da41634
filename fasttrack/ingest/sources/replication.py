"""A table's changes from a logical replication slot, after the rows that are there when the slot is made.

The slot begins at one place of the server's log, and the snapshot that is exported with it shows the table at exactly
that place: rows come from the snapshot, every change after it from the slot, nothing in between is missing or doubled.

What is there is never thrown away unread. A first position, "begin", is recorded (`committed`) while there is no slot;
one that is there later was made for this source. The second is where that begins, and before it is recorded no row is
given: until then a slot is made anew, from then on never.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import cast

import psycopg2
from psycopg2 import errors as pg
from psycopg2.extensions import connection as Connection
from psycopg2.extras import LogicalReplicationConnection, ReplicationCursor

from fasttrack.ingest.sources.changes import Changes, Place
from fasttrack.ingest.sources.origin import Origin, identify
from fasttrack.ingest.sources.pgoutput import lsn_number, parse
from fasttrack.ingest.sources.postgres_link import PostgresLink, TableColumn, hang_up, one
from fasttrack.ingest.sources.slot import Slot
from fasttrack.ingest.sources.slotname import slot_name
from fasttrack.ingest.sources.snapshot import Snapshot
from fasttrack.ingest.sources.source import Batch, Position, Record
from fasttrack.usecase import UseCase
from fasttrack.usecase.sources import PostgresReplicationSource

_RECORDS = 5_000
_FEEDBACK_SECONDS = 5.0
_ASK_SECONDS = 0.5
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
        self._slot = Slot(self._link, source.slot or slot_name(usecase.name, name), source.changes)
        fields = usecase.streams[source.stream].fields
        paths = [source.fields.get(field, field) for field in fields if field not in source.constants]
        self._needed = {*paths, *(path.partition(".")[0] for path in paths)}
        self._stream: LogicalReplicationConnection | None = None
        self._cursor: ReplicationCursor | None = None
        self._snapshot: Snapshot | None = None
        self._changes: Changes | None = None
        self._origin: Origin | None = None
        self._beginning = False
        self._unrecorded: Position | None = None
        self._last: Position | None = None
        self._awaited = self._broken = False
        self._given = Place(0)
        self._flushed = self._target = 0
        self._told_at = 0.0

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
        keep = False
        try:
            with self._link.errors():
                if position is None:
                    self._slot.require_none(connection)
                self._slot.check(connection)
                columns = self._link.columns(connection)
                self._link.require(columns, self._source.keys, "keys")
                self._stream = self._replication()
                server, timeline = identify(self._stream)
                if position is None or (position["phase"] == _BEGIN and position["server"] != server):
                    self._slot.require_none(connection)
                    self._unrecorded = {"phase": _BEGIN, "server": server}
                if position is None or position["phase"] == _BEGIN:
                    self._beginning = True
                    return
                self._slot.require(connection, position, server)
                self._origin = Origin.of(position, timeline)
                if position["phase"] == "snapshot":
                    self._snapshot = self._new_snapshot(connection, position["after"])
                    keep = True
                    self._snapshot.resume(position["snapshot"], position["file"])
                else:
                    self._start(Place.of(position), connection)
        finally:
            if not keep:
                hang_up(connection)

    def _begin(self) -> None:
        """Make the slot: the position is where it begins."""
        assert self._stream is not None
        connection = self._link.connect()
        try:
            # Asked first: a further command on its connection would end what the slot exports.
            server, timeline = identify(self._stream)
            made = self._slot.make(connection, self._stream)
            self._origin = Origin(server, timeline, datetime.now(UTC).isoformat(), made.consistent)
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
        return self._page() if self._snapshot else self._read(time.monotonic() + seconds)

    def _page(self) -> Batch:
        snapshot, origin = self._snapshot, self._origin
        assert snapshot is not None and origin is not None
        rows = snapshot.page()
        records = [
            Record(name, {**fields, **origin.inserted(name)})
            for name, fields in rows
            if "insert" in self._source.changes
        ]
        if not snapshot.done:
            return Batch(records, self._snapshot_position(snapshot))
        snapshot.close()
        self._snapshot = None
        self._given = Place(lsn_number(origin.began_lsn))
        return Batch(records, self._position(self._given))

    def _read(self, deadline: float) -> Batch | None:
        if self._cursor is None:
            connection = self._link.connect()
            try:
                self._start(self._given, connection)
            finally:
                hang_up(connection)
        assert self._cursor is not None and self._changes is not None
        records: list[Record] = []
        while len(records) < _RECORDS:
            message = self._cursor.read_message()
            if message is not None:
                found = self._changes.record(parse(bytes(message.payload)))
                if found is not None:
                    records.append(found)
                continue
            left = deadline - time.monotonic()
            if left <= 0 or (records and not self._changes.place.transaction):
                break
            self._feedback()
            select.select([self._cursor], [], [], min(left, _ASK_SECONDS))
        place = self._changes.place
        if not records and (place == self._given or place.transaction):
            return None
        self._given = place
        # Also without records, if only others' changes came: the server may forget those.
        return Batch(records, self._position(place))

    def _start(self, place: Place, connection: Connection) -> None:
        assert self._stream is not None and self._origin is not None
        self._given = place
        self._target = lsn_number(one(connection, "SELECT pg_current_wal_flush_lsn()::text")[0])
        self._changes = Changes(
            place,
            self._origin,
            self._slot.table(connection),
            self._describe,
            self._source.changes,
            self._needed,
            self._where,
        )
        cursor: ReplicationCursor = self._stream.cursor()
        options = {"proto_version": "1", "publication_names": f'"{self._slot.name}"'}
        try:
            cursor.start_replication(slot_name=self._slot.name, decode=False, start_lsn=place.lsn, options=options)
        except pg.ObjectInUse as error:
            raise self._slot.busy() from error
        except (pg.ObjectNotInPrerequisiteState, pg.UndefinedObject) as error:
            raise self._slot.lost(f"{str(error).strip().splitlines()[0]}.") from error
        self._cursor = cursor

    def _feedback(self, force: bool = False) -> None:
        """Tell the server what it may forget, and ask how far it is."""
        if self._cursor is not None and (force or time.monotonic() - self._told_at > _ASK_SECONDS):
            self._told_at = time.monotonic()
            self._cursor.send_feedback(flush_lsn=self._flushed, reply=not force and self.waiting())  # type: ignore[no-untyped-call]

    def committed(self, position: Position) -> None:
        """Let the server forget what lies before `position`."""
        self._awaited = False
        if position["phase"] == "stream":
            self._flushed = max(self._flushed, lsn_number(position["lsn"]))
            # A broken connection shows at the next read.
            with suppress(psycopg2.Error):
                self._feedback(force=True)

    def lag(self) -> float | None:
        """0 if everything was read, else None: the server counts bytes, not changes."""
        return None if self.waiting() else 0.0

    def waiting(self) -> bool:
        """Whether what the server had when the stream was begun is not read yet."""
        if self._beginning or self._snapshot or self._awaited or self._cursor is None or self._changes is None:
            return True
        reached: int = max(self._cursor.wal_end, self._changes.place.lsn)
        return reached < self._target

    def broken(self) -> Mapping[str, str]:
        """Nothing ever is."""
        return {}

    def close(self) -> None:
        """Hang up; the slot keeps what comes."""
        hang_up(self._stream)
        if self._snapshot is not None:
            self._snapshot.close()
        self._stream = self._cursor = self._snapshot = self._changes = self._unrecorded = None
        self._awaited = self._broken = self._beginning = False
        self._flushed = 0

    def _replication(self) -> LogicalReplicationConnection:
        found = self._link.connect(LogicalReplicationConnection)
        assert isinstance(found, LogicalReplicationConnection)
        return found

    def _new_snapshot(self, connection: Connection, last: list[str] | None) -> Snapshot:
        columns = self._link.columns(connection)
        keys = self._link.require(columns, self._source.keys, "keys")
        return Snapshot(self._link, keys, list(columns.values()), connection, last)

    def _describe(self) -> Mapping[str, TableColumn]:
        connection = self._link.connect()
        try:
            return self._link.columns(connection)
        finally:
            hang_up(connection)

    def _position(self, place: Place) -> Position:
        return {"phase": "stream", **cast(Origin, self._origin).to_position(), **place.to_position()}

    def _snapshot_position(self, snapshot: Snapshot) -> Position:
        inside = {"snapshot": snapshot.text, "file": snapshot.file, "after": snapshot.last}
        return {"phase": "snapshot", **cast(Origin, self._origin).to_position(), **inside}
