"""Up to where a table can be read by a cursor column so that no row is passed over.

A transaction takes its cursor value (``now()``, ``nextval()``) some time before it commits, so that rows with smaller
values than those read may still come. Ids of transactions don't help: one that began early may get its id late. But a
transaction that begins after a row was seen takes a greater value. So: note the greatest value, then which transactions
are open; once all of those have ended, every value up to the noted one is there, or never will be.
"""

from __future__ import annotations

import time

from psycopg2.extensions import connection as Connection

from fasttrack.ingest.sources.postgres_link import one
from fasttrack.progress import note

# Everybody may read pg_locks and of pg_stat_activity the database. Prepared transactions keep no virtual id.
_OPEN = """
SELECT coalesce(array_agg(l.virtualtransaction), '{}') FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.pid <> pg_backend_pid()
  AND (a.datname IS NULL OR a.datname = current_database())
"""
_PREPARED = """
SELECT coalesce(array_agg(transaction::text), '{}') FROM pg_prepared_xacts WHERE database = current_database()
"""
_PIDS = "SELECT coalesce(array_agg(DISTINCT pid), '{}') FROM pg_locks WHERE virtualtransaction = ANY(%s)"
# A backend notes its now() a moment before its transaction can be seen.
_SETTLE_SECONDS = 0.02
_TELL_SECONDS = 60.0


class Fence:
    """A value up to which a table is read once `passed` says so.

    Args:
        value: the greatest value of the cursor column, which was read a moment ago, as text.
        settle: seconds after which a transaction that begins takes a greater value: the column's granularity, or how
            far the clocks differ that give the values.
        where: named in messages.
        standby: the server doesn't know its transactions, so that `settle` alone counts.
    """

    def __init__(self, value: str, settle: float, where: str, *, standby: bool) -> None:
        self.value = value
        self._told = time.monotonic()
        self._settled_at = self._told + max(_SETTLE_SECONDS, settle)
        self._where = where
        self._listed = standby
        self._running: set[str] = set()
        self._prepared: set[str] = set()

    def passed(self, connection: Connection) -> bool:
        """Whether everything up to `value` can be read now; `connection` is in autocommit."""
        now = time.monotonic()
        if now < self._settled_at:
            return False
        # In this order: what is prepared between the two is seen as prepared.
        if not self._listed:
            self._running = _set(connection, _OPEN)
            self._prepared = _set(connection, _PREPARED)
            self._listed = True
        elif self._running:
            ended = self._running - _set(connection, _OPEN)
            self._running -= ended
            if ended:
                self._prepared |= _set(connection, _PREPARED)
        if self._prepared:
            self._prepared &= _set(connection, _PREPARED)
        waiting = len(self._running) + len(self._prepared)
        if waiting and now - self._told > _TELL_SECONDS:
            self._told = now
            pids = one(connection, _PIDS, (list(self._running),))[0]
            which = f"process {', '.join(map(str, pids))}" if pids else "pg_prepared_xacts"
            note(f"{self._where}: new rows wait for {waiting} open transactions, see {which}")
        return not waiting


def _set(connection: Connection, query: str) -> set[str]:
    return set(one(connection, query)[0])
