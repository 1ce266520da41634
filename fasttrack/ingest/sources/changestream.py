"""A table's changes as a replication connection gives them, and what the server is told of how far they are."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg2
from psycopg2.extras import ReplicationCursor

from fasttrack.errors import FastTrackError
from fasttrack.ingest.sources.changes import Changes, Place
from fasttrack.ingest.sources.pgoutput import parse
from fasttrack.ingest.sources.source import Record

_RECORDS = 5_000
_FEEDBACK_SECONDS = 0.5
_LOOK_SECONDS = 30.0


class ChangeStream:
    """The changes from a place on, in the order of their commits.

    Args:
        cursor: the slot's, which has started at that place.
        changes: turns messages into records, and knows the place.
        target: the end of the server's log at the start.
        look: makes sure that the table's changes are told still: where nothing comes, nothing need be wrong.
    """

    def __init__(self, cursor: ReplicationCursor, changes: Changes, target: int, look: Callable[[], None]) -> None:
        self._cursor, self._changes, self._target, self._look = cursor, changes, target, look
        self._given = changes.place
        self._flushed = 0
        self._told_at = self._looked_at = float("-inf")
        self._failure: Exception | None = None

    def read(self, deadline: float) -> tuple[list[Record], Place] | None:
        """The next records and the place behind them; None if nothing came up to `deadline` of the monotonic clock.

        Raises:
            psycopg2.Error: the server refuses, or the connection broke.
            FastTrackError: what is told can't be understood, or isn't all that there is.
        """
        if self._failure is not None:
            raise self._failure
        records: list[Record] = []
        try:
            self._gather(records, deadline)
        except (psycopg2.Error, FastTrackError) as error:
            if not records:
                raise
            # What came before is given first: after a restart it would be in the way again, and never be given.
            self._failure = error
        place = self._changes.place
        if not records and (place == self._given or place.transaction):
            return None
        self._given = place
        # Also without records, if only others' changes came: the server may forget those.
        return records, place

    def _gather(self, records: list[Record], deadline: float) -> None:
        while len(records) < _RECORDS:
            message = self._cursor.read_message()
            if message is not None:
                found = self._changes.record(parse(bytes(message.payload)))
                if found is not None:
                    records.append(found)
                continue
            # Not before it has caught up: what was told before something went wrong is told all the same.
            if not self.waiting() and time.monotonic() - self._looked_at > _LOOK_SECONDS:
                self._look()
                self._looked_at = time.monotonic()
            left = deadline - time.monotonic()
            if left <= 0 or (records and not self._changes.place.transaction):
                break
            self._feedback()
            select.select([self._cursor], [], [], min(left, _FEEDBACK_SECONDS))

    def _feedback(self, force: bool = False) -> None:
        """Tell the server what it may forget, and ask how far it is."""
        if force or time.monotonic() - self._told_at > _FEEDBACK_SECONDS:
            self._told_at = time.monotonic()
            self._cursor.send_feedback(flush_lsn=self._flushed, reply=not force and self.waiting())  # type: ignore[no-untyped-call]

    def committed(self, lsn: int) -> None:
        """Let the server forget what lies before `lsn`."""
        self._flushed = max(self._flushed, lsn)
        # A broken connection shows at the next read.
        with suppress(psycopg2.Error):
            self._feedback(force=True)

    def waiting(self) -> bool:
        """Whether what the server had at the start is not read yet."""
        reached: int = max(self._cursor.wal_end, self._changes.place.lsn)
        return reached < self._target
