"""The audit log made tamper-evident: rows become leaves of a Merkle tree, whose checkpoints are signed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from fasttrack.errors import FastTrackError, IntegrityError
from fasttrack.registry.checkpoints import Checkpoint, opened
from fasttrack.registry.merkle import Tree, leaf_hash
from fasttrack.registry.values import named_rows

#: PostgreSQL advisory lock of whoever seals ("FTSL" in ASCII).
LOCK: Final = 0x4654534C
_BATCH: Final = 5000
_TOLD: Final = 20

# Of which a leaf is made: one more column of the table must not change the leaves that are there.
_COLUMNS: Final = ("id", "at", "trace_id", "usecase", "subject", "role", "tenant", "route", "status", "model_version",
                   "digest", "request_hash", "latency_ms", "cached", "response")  # fmt: skip
_LAST = "SELECT size, frontier FROM audit_checkpoints ORDER BY size DESC LIMIT 1"
_NEXT = """
SELECT a.* FROM audit_unsealed u JOIN audit_log a ON a.id = u.id ORDER BY a.at, a.id LIMIT %s
"""
_SEALED = """
SELECT l.position, l.leaf, l.id AS leaf_id, a.* FROM audit_leaves l LEFT JOIN audit_log a ON a.id = l.id
WHERE l.position >= %s AND l.position < %s ORDER BY l.position
"""
_STRAY = """
SELECT id FROM audit_log a WHERE NOT EXISTS (SELECT 1 FROM audit_leaves l WHERE l.id = a.id)
    AND NOT EXISTS (SELECT 1 FROM audit_unsealed u WHERE u.id = a.id) ORDER BY at LIMIT %s
"""
_GONE = """
SELECT id FROM audit_unsealed u WHERE NOT EXISTS (SELECT 1 FROM audit_log a WHERE a.id = u.id) LIMIT %s
"""


@dataclass
class Verdict:
    """What the audit log was found to be.

    Attributes:
        sealed: rows in the tree.
        unsealed: rows that wait for the next checkpoint; about them nothing can be told.
        checkpoints: how many there are.
        newest: the last one's moment; None without any.
        faults: what was changed, removed or added, in words; at most some of each kind.
    """

    sealed: int = 0
    unsealed: int = 0
    checkpoints: int = 0
    newest: datetime | None = None
    faults: list[str] = field(default_factory=list)


def entry(row: dict[str, Any]) -> bytes:
    """A row of ``audit_log`` as the tree's entry: these columns as JSON, sorted by name, moments in UTC."""
    sealed = {name: row[name] for name in _COLUMNS}
    return json.dumps(sealed, sort_keys=True, separators=(",", ":"), default=_text).encode()


def _text(value: UUID | datetime) -> str:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)


def seal(cursor: Cursor, key: Ed25519PrivateKey) -> Checkpoint | None:
    """Put the rows that wait into the tree, a batch of them, and sign the new root, in the caller's transaction.

    Returns:
        The new checkpoint; None if no row waits, or somebody else is sealing.

    Raises:
        IntegrityError: the last checkpoint can't be gone on from.
    """
    cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (LOCK,))
    (free,) = cursor.fetchone() or (False,)
    if not free:
        return None
    cursor.execute(_LAST)
    size, frontier = cursor.fetchone() or (0, b"")
    tree = Tree(size, bytes(frontier))
    # A sealed row that was removed, and sent once more from a spool, has its place already.
    cursor.execute("DELETE FROM audit_unsealed u USING audit_leaves l WHERE l.id = u.id")
    cursor.execute(_NEXT, (_BATCH,))
    rows = named_rows(cursor)
    if not rows:
        return None
    leaves = [leaf_hash(entry(row)) for row in rows]
    tree.add(leaves)
    made = Checkpoint(tree.size, tree.root(), datetime.now(UTC))
    ids = [row["id"] for row in rows]
    places = [(size + at, id_, leaf) for at, (id_, leaf) in enumerate(zip(ids, leaves, strict=True))]
    execute_values(cursor, "INSERT INTO audit_leaves (position, id, leaf) VALUES %s", places, page_size=1000)
    cursor.execute("DELETE FROM audit_unsealed WHERE id = ANY(%s)", (ids,))
    cursor.execute(
        "INSERT INTO audit_checkpoints (size, frontier, note) VALUES (%s, %s, %s)",
        (made.size, tree.frontier, made.signed(key)),
    )
    return made


def newest_note(cursor: Cursor) -> str | None:
    """The last checkpoint as a signed note."""
    cursor.execute("SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1")
    found = cursor.fetchone()
    return None if found is None else str(found[0])


def verify(cursor: Cursor, key: Ed25519PublicKey, kept: Sequence[str] = ()) -> Verdict:
    """Compute the tree anew from the rows and compare it with every checkpoint, in one snapshot.

    Args:
        cursor: at the beginning of its transaction.
        key: the signer's.
        kept: notes that were kept elsewhere: only they show that rows and checkpoints were taken off the end, or
            that all of it was written anew by somebody with the key.
    """
    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    found = Verdict()
    wanted = _checkpoints(cursor, key, kept, found)
    tree, good = Tree(), 0
    for point, whose in wanted:
        if not _grown(cursor, tree, point.size, found):
            found.faults.append(f"{whose} of {point.size} rows: the log has only {tree.size} sealed ones now")
            break
        if tree.root() != point.root:
            # From here on no root can be right.
            found.faults.append(f"rows {good} to {point.size - 1} are not those that {whose} was signed for")
            break
        good = point.size
    else:
        cursor.execute("SELECT count(*) FROM audit_leaves WHERE position >= %s", (tree.size,))
        (behind,) = cursor.fetchone() or (0,)
        if behind:
            found.faults.append(f"{behind} rows are in the tree behind its last checkpoint")
    found.sealed = tree.size
    cursor.execute("SELECT count(*) FROM audit_unsealed")
    (found.unsealed,) = cursor.fetchone() or (0,)
    _named(cursor, _STRAY, "row {}: it was added past the sealing", found)
    _named(cursor, _GONE, "row {}: it was removed before it was sealed", found)
    return found


def _checkpoints(
    cursor: Cursor, key: Ed25519PublicKey, kept: Sequence[str], found: Verdict
) -> list[tuple[Checkpoint, str]]:
    cursor.execute("SELECT size, note FROM audit_checkpoints ORDER BY size")
    points: list[tuple[Checkpoint, str]] = []
    for size, note in cursor.fetchall():
        found.checkpoints += 1
        try:
            point = opened(note, key)
        except IntegrityError as error:
            found.faults.append(f"checkpoint of {size} rows: {error.what}")
            continue
        if point.size != size:
            found.faults.append(f"checkpoint of {size} rows: its note is that of {point.size} rows")
        points.append((point, "the checkpoint"))
        found.newest = point.at
    for note in kept:
        try:
            points.append((opened(note, key), "the kept checkpoint"))
        except FastTrackError as error:
            found.faults.append(f"the kept checkpoint: {error.what}")
    return sorted(points, key=lambda each: each[0].size)


def _grown(cursor: Cursor, tree: Tree, size: int, found: Verdict) -> bool:
    """Add the rows up to `size`; False if there are not so many."""
    while tree.size < size:
        low = tree.size
        cursor.execute(_SEALED, (low, min(size, low + _BATCH)))
        for row in named_rows(cursor):
            position, leaf, id_ = row.pop("position"), bytes(row.pop("leaf")), row.pop("leaf_id")
            if position != tree.size:
                return False
            tree.add([_checked(row, leaf, id_, position, found)])
        if tree.size == low:
            return False
    return True


def _checked(row: dict[str, Any], leaf: bytes, id_: UUID, position: int, found: Verdict) -> bytes:
    """The leaf that a row has now; the one that it had if it is gone, so that what follows can be judged."""
    if row["id"] is None:
        _tell(found, f"row {id_} (number {position}): it was removed")
        return leaf
    now = leaf_hash(entry(row))
    if now != leaf:
        _tell(found, f"row {id_} (number {position}): it was changed after it was sealed")
        return leaf
    return now


def _named(cursor: Cursor, query: str, words: str, found: Verdict) -> None:
    cursor.execute(query, (_TOLD,))
    found.faults += [words.format(id_) for (id_,) in cursor.fetchall()]


def _tell(found: Verdict, fault: str) -> None:
    if len(found.faults) < _TOLD:
        found.faults.append(fault)
