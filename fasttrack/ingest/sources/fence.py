"""Up to where a table can be read by a cursor column so that no row is passed over.

A transaction takes its cursor value (``now()``, ``nextval()``) some time before it commits, so that rows with smaller
values than those read may still come. Ids of transactions don't help: one that began early may get its id late. But a
transaction that begins after a row was seen takes a greater value. So: note the greatest value, then which transactions
are open; once all of those have ended, every value up to the noted one is there, or never will be.

So a value has to be taken by the transaction that writes it. A sequence that hands out numbers in blocks (CACHE) breaks
that: a session goes on with the block that it took long ago. `require_growing` refuses it.
"""

from __future__ import annotations

import time

from psycopg2 import sql
from psycopg2.extensions import connection as Connection

from fasttrack.errors import ConfigurationError
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
# A table with its partitions and heirs, or a view with all that it shows.
_SHOWN = sql.SQL("""
WITH RECURSIVE shown (relation) AS (
  SELECT %s::regclass::oid
  UNION
  SELECT below.relation FROM shown CROSS JOIN LATERAL (
    SELECT inhrelid FROM pg_inherits WHERE inhparent = shown.relation
    UNION ALL
    SELECT d.refobjid FROM pg_class c JOIN pg_rewrite r ON r.ev_class = c.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    WHERE c.oid = shown.relation AND c.relkind IN ('v', 'm')
  ) AS below (relation)
)
""")
# Where rows come up otherwise than by this server's transactions.
_ELSEWHERE = _SHOWN + sql.SQL("SELECT 1 FROM pg_class JOIN shown ON oid = relation WHERE relkind IN ('m', 'f') LIMIT 1")
# The sequences that give the numbers of a column, in a view of the same name: by the column's default, as its identity,
# owned by it, or called by a trigger that names both.
_SEQUENCES = _SHOWN + sql.SQL("""
, filled AS (
  SELECT a.* FROM pg_attribute a JOIN shown ON shown.relation = a.attrelid
  WHERE a.attname = %s AND NOT a.attisdropped
), feeding (sequence) AS (
  SELECT d.refobjid FROM filled f JOIN pg_attrdef x ON x.adrelid = f.attrelid AND x.adnum = f.attnum
  JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = x.oid AND d.refclassid = 'pg_class'::regclass
  UNION
  SELECT d.objid FROM filled f JOIN pg_depend d ON d.refobjid = f.attrelid AND d.refobjsubid = f.attnum
  WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
  UNION
  SELECT s.oid FROM filled f JOIN pg_trigger t ON t.tgrelid = f.attrelid JOIN pg_proc p ON p.oid = t.tgfoid
  JOIN pg_class s ON s.relkind = 'S' AND p.prosrc ~* 'nextval'
    AND strpos(lower(p.prosrc), lower(s.relname)) > 0 AND strpos(lower(p.prosrc), lower(f.attname)) > 0
  WHERE NOT t.tgisinternal AND f.atttypid IN (20, 21, 23, 1700)
)
SELECT seqrelid::regclass::text, seqcache, seqincrement FROM pg_sequence JOIN feeding ON sequence = seqrelid
WHERE seqcache > 1 OR seqincrement < 0 ORDER BY 1 LIMIT 1
""")
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
        elsewhere: the server doesn't know the transactions, so that `settle` alone counts.
    """

    def __init__(self, value: str, settle: float, where: str, *, elsewhere: bool) -> None:
        self.value = value
        self._told = time.monotonic()
        self._settled_at = self._told + max(_SETTLE_SECONDS, settle)
        self._where = where
        self._listed = elsewhere
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


def elsewhere(connection: Connection, table: str) -> bool:
    """Whether rows of a table, as SQL writes it, come up otherwise than by transactions of the server that is asked.

    It is a standby, or the table is (or shows) a foreign table, or a materialized view, which shows rows late.
    """
    return bool(one(connection, "SELECT pg_is_in_recovery()")[0] or one(connection, _ELSEWHERE, (table,)))


def require_growing(connection: Connection, table: str, column: str, where: str) -> None:
    """Refuse a sequence behind the cursor column whose numbers aren't in the order in which they are taken.

    Args:
        connection: in autocommit.
        table: as SQL writes it.
        column: the cursor column.
        where: named in the message.

    Raises:
        ConfigurationError: the sequence hands out numbers in blocks, or counts down.
    """
    found = one(connection, _SEQUENCES, (table, column))
    if found is None:
        return
    sequence, cache, increment = found
    if increment < 0:
        raise ConfigurationError(
            f"sequence {sequence} counts down, so that new rows lie before those that were read.", where=where,
            fix="Name a column that grows.",
        )  # fmt: skip
    raise ConfigurationError(
        f"sequence {sequence} gives each session {cache} numbers at once (CACHE {cache}), so that a session that has "
        "some left writes rows that lie before those that were read.",
        where=where,
        fix=f"ALTER SEQUENCE {sequence} CACHE 1, and let everybody who writes the table connect anew: a session first "
        "uses up the numbers that it has.",
    )


def _set(connection: Connection, query: str) -> set[str]:
    return set(one(connection, query)[0])
