"""The replication slot of a source: made once, then only checked, and read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg2
from psycopg2 import errors as pg
from psycopg2.extensions import connection as Connection
from psycopg2.extras import LogicalReplicationConnection, ReplicationCursor

from fasttrack.errors import ConfigurationError, DataLossError, UnavailableError
from fasttrack.ingest.sources.pgoutput import lsn_number
from fasttrack.ingest.sources.postgres_link import PostgresLink, one
from fasttrack.ingest.sources.source import Position
from fasttrack.progress import note

#: What a server says of a slot, or of its publication, that doesn't have what comes next.
UNREADABLE = (pg.ObjectNotInPrerequisiteState, pg.UndefinedObject)
_KEEP_MORE = " Raise max_slot_wal_keep_size, or let the ingester run."
# As JSON: what a column tells depends on the server's version.
_SLOT = "SELECT to_jsonb(s) FROM pg_replication_slots s WHERE s.slot_name = %s"


@dataclass(frozen=True)
class MadeSlot:
    """A new slot: where it begins, and the snapshot of the rows that were there."""

    consistent: str
    snapshot: str


class Slot:
    """A slot, and the publication of the same name that it tells.

    Args:
        link: to the server.
        name: of both.
    """

    def __init__(self, link: PostgresLink, name: str) -> None:
        self.name = name
        self._link = link

    def check(self, connection: Connection) -> None:
        """Make sure that the server logs what replication needs.

        Raises:
            ConfigurationError: it doesn't.
            UnavailableError: the server doesn't answer.
        """
        with self._link.errors():
            (level,) = one(connection, "SHOW wal_level")
        if level != "logical":
            raise self._wrong(
                f"the server's wal_level is {level}: it doesn't log what replication needs.",
                "ALTER SYSTEM SET wal_level = logical, and restart the server; or use `kind: postgres`.",
            )

    def require_none(self, connection: Connection) -> None:
        """Make sure that there is no slot yet: nobody knows what was read from one that is there.

        Raises:
            DataLossError: there is one.
            ConfigurationError: there is one of another program, or of another database.
            UnavailableError: the server doesn't answer.
        """
        with self._link.errors():
            found = self.state(connection)
            if found is None:
                return
            self._require_ours(connection, found)
        raise DataLossError(
            f"replication slot {self.name} is there already, and nothing is recorded of what was read from it. To "
            "begin anew would drop the changes that it still holds.",
            where=self._link.where,
            fix="If another environment reads it, set another `slot`. If topics were lost, or the stream's was made "
            f"again or renamed, bring them back, or begin anew with a snapshot: {self._dropped()}.",
        )  # fmt: skip

    def make(self, connection: Connection, stream: LogicalReplicationConnection) -> MadeSlot:
        """Make the slot; one of its name that nobody uses goes first, so nothing may have been sent from it.

        The snapshot can be taken up until `stream` is used again or closed.

        Args:
            connection: an ordinary one.
            stream: a replication connection that has not started.

        Raises:
            ConfigurationError: the name is another program's, or there is no right, or no slot left.
            UnavailableError: somebody uses the slot at the moment, or the server doesn't answer.
        """
        with self._link.errors():
            self._drop(connection)
            self._warn(connection)
            try:
                with stream.cursor() as cursor:
                    cursor.execute(f'CREATE_REPLICATION_SLOT "{self.name}" LOGICAL pgoutput')
                    _, consistent, snapshot, _ = cursor.fetchone() or ()
            except pg.ConfigurationLimitExceeded as error:
                raise self._wrong("all replication slots are taken.", "Raise max_replication_slots.") from error
            except pg.InsufficientPrivilege as error:
                raise self._wrong("there is no right to make a slot.", "ALTER ROLE ... REPLICATION.") from error
        return MadeSlot(consistent, snapshot)

    def _drop(self, connection: Connection) -> None:
        found = self.state(connection)
        if found is None:
            return
        self._require_ours(connection, found)
        try:
            one(connection, "SELECT pg_drop_replication_slot(%s)", (self.name,))
        except pg.ObjectInUse as error:
            raise self.busy() from error

    def _require_ours(self, connection: Connection, found: dict[str, Any]) -> None:
        if found["plugin"] != "pgoutput" or found["database"] != one(connection, "SELECT current_database()")[0]:
            raise self._wrong(f"slot {self.name} is another program's.", "Set another `slot`.")

    def _warn(self, connection: Connection) -> None:
        found = one(connection, "SELECT setting FROM pg_settings WHERE name = 'max_slot_wal_keep_size'")
        if found is None or found[0] == "-1":
            note(
                f"{self._link.where}: max_slot_wal_keep_size isn't set, so that the server's disk fills up while "
                "nothing is ingested: set it to what the disk can spare."
            )

    def state(self, connection: Connection) -> dict[str, Any] | None:
        """What the server tells of the slot; None if there is none."""
        found = one(connection, _SLOT, (self.name,))
        return None if found is None else found[0]

    def require(self, connection: Connection, position: Position, server: str) -> None:
        """Make sure that the slot still has what comes after `position`; `server` is the server's system identifier.

        Raises:
            DataLossError: it is gone, the server gave up what it held, or this is another server.
        """
        if server != position["server"]:
            raise self.lost("this is another server than the one that was read until now.")
        with self._link.errors():
            now = one(connection, "SELECT pg_current_wal_lsn()::text")[0]
            found = self.state(connection)
        if position["phase"] == "stream" and lsn_number(now) < lsn_number(position["lsn"]):
            raise self.lost(f"the server's log ends at {now}, before {position['lsn']}: it was set back.")
        if found is None:
            raise self.lost(f"replication slot {self.name} is gone, and with it the changes since.")
        reason = found.get("invalidation_reason")
        if found.get("wal_status") == "lost" or reason:
            raise self.lost(
                f"the server gave up what replication slot {self.name} held ({reason or 'wal_removed'}).", _KEEP_MORE
            )

    def start(self, stream: LogicalReplicationConnection, lsn: int) -> ReplicationCursor:
        """Begin to read from `lsn` on.

        Raises:
            UnavailableError: somebody reads from the slot.
            DataLossError: it no longer has what comes next.
        """
        cursor: ReplicationCursor = stream.cursor()
        options = {"proto_version": "1", "publication_names": f'"{self.name}"'}
        try:
            cursor.start_replication(slot_name=self.name, decode=False, start_lsn=lsn, options=options)
        except pg.ObjectInUse as error:
            raise self.busy() from error
        except UNREADABLE as error:
            raise self.unreadable(error) from error
        return cursor

    def unreadable(self, error: psycopg2.Error) -> DataLossError:
        """What `UNREADABLE` means: the slot was given up, or its publication wasn't there when something was done."""
        return self.lost(f"{str(error).strip().splitlines()[0]}.")

    def lost(self, what: str, more: str = "") -> DataLossError:
        """The error that says that changes are gone, and how to begin anew; `more`: what else to do."""
        return self._link.lost(what, self.name, more)

    def _dropped(self) -> str:
        return f"SELECT pg_drop_replication_slot('{self.name}')"

    def busy(self) -> UnavailableError:
        """The error that says that somebody else reads from the slot."""
        return UnavailableError(
            f"replication slot {self.name} is in use.", where=self._link.where,
            fix="Another ingester reads it, or the server hasn't noticed yet that one ended; it is tried again.",
        )  # fmt: skip

    def _wrong(self, what: str, fix: str) -> ConfigurationError:
        return ConfigurationError(what, where=self._link.where, fix=fix)
