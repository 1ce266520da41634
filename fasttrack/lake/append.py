"""Appends that carry an offset: data and mark are one commit, and only one writer can make it.

The commit names a Delta app transaction (app id, offset). It is a compare-and-set: a handle is loaded, the offset on
that very handle is compared with what this writer believes, and the commit is made through the same handle. Delta
refuses the commit if anybody committed for the same app id since the handle was loaded. Loading again between the
comparison and the commit would let a writer that was paused (a zombie) write its rows a second time.

An object store may answer late or never: a commit whose outcome is not known is looked up, then tried again. Should it
arrive after all, it is refused, for its version is taken by then, or it is the commit.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from fasttrack.errors import ConflictError, FastTrackError, UnavailableError
from fasttrack.lake.commits import named
from fasttrack.lake.failures import storage, storage_error
from fasttrack.lake.newest import newest, span
from fasttrack.lake.storage import patiently, remote, remove, sync_log, write_parquet
from fasttrack.lake.tables import load
from fasttrack.progress import note

_COMMIT_ATTEMPTS = 6
_FIRST_WAIT_SECONDS = 0.2
_LOOKED_AT = 2000
# Commits whose writers may have been killed before they synced them.
_UNSYNCED = 100


class Fenced(ConflictError):
    """Another writer moved the mark: this one's buffer must be dropped."""


class Ledger:
    """One app id's appends to one table.

    Args:
        path: the table's folder; it must exist.
        app_id: who writes: cluster id, topic id and partition.
    """

    def __init__(self, path: str, app_id: str) -> None:
        self.path = path
        self.app_id = app_id
        self._table: DeltaTable = load(path)
        self._stale = False
        # Whether a commit was begun of which nobody can say yet that it will never be in the table.
        self._pending = False
        # The version before the present append's first commit, or an older one.
        self._base = self._table.version()
        # All commits up to here are durable, whoever made them.
        self._synced = max(-1, self._table.version() - _UNSYNCED)
        #: The next offset that the table lacks; None before the first commit.
        self.mark: int | None = self._table.transaction_version(app_id)

    def rows(self, columns: Sequence[str], where: ds.Expression) -> pa.Table:
        """Read the table as it was when this ledger was opened: rows and `mark` are one snapshot until an append.

        Whoever decides by what the table holds must read it here. A newer reading may show rows of another writer
        beyond `mark`, and taking them for earlier ones would make this writer's copies of them duplicates.

        Raises:
            StorageError: the storage refused.
        """
        with storage(self.path):
            dataset = self._table.to_pyarrow_dataset()
            return patiently(self.path, lambda: dataset.to_table(columns=list(columns), filter=where))

    def batches(self, columns: Sequence[str], where: ds.Expression) -> Iterator[pa.RecordBatch]:
        """As `rows`, piece by piece, for what may be larger than memory.

        Raises:
            StorageError: the storage refused.
        """
        with storage(self.path):
            dataset = self._table.to_pyarrow_dataset()
            if not remote(self.path):
                yield from dataset.to_batches(columns=list(columns), filter=where)
                return
            # Whole files, so that one can be read again when its answer breaks off.
            for part in dataset.get_fragments(filter=where):
                read = partial(part.to_table, columns=list(columns), filter=where)
                yield from patiently(self.path, read).to_batches()

    def span(self, column: str) -> tuple[int, int] | None:
        """The least and greatest moment in a column, in microseconds, by the files' statistics; None without rows.

        Raises:
            StorageError: the storage refused.
        """
        with storage(self.path):
            return patiently(self.path, lambda: span(self._table, column))

    def newest(self, column: str, where: ds.Expression, rank: int = 1) -> int | None:
        """The greatest moment in a column of the rows that `rows` would give, or the `rank`-th greatest.

        Returns:
            Microseconds since 1970; None if there are fewer rows.

        Raises:
            StorageError: the storage refused.
        """
        with storage(self.path):
            return patiently(self.path, lambda: newest(self._table, column, where, rank))

    def append(self, rows: pa.Table | None, mark: int) -> int:
        """Commit `rows` and move the mark to `mark`, together; rows and mark are durable on return.

        Returns:
            The size of the written file in bytes (0 without rows).

        Raises:
            Fenced: another writer moved the mark meanwhile; nothing of this call is in the table.
            StorageError: the storage refused; nothing of this call is in the table, unless that can't be read any more.
            UnavailableError: the object store does not answer; a new ledger sees whether this call is in the table.
        """
        name, size = self._write(rows, mark) if rows is not None and rows.num_rows else (None, 0)
        actions: list[AddAction | RemoveAction] = []
        if name is not None and rows is not None:
            actions.append(_add_action(name, size, rows))
        self._pending = False
        self._base = self._table.version()
        try:
            self._commit_surely(actions, mark, name)
        except FastTrackError:
            # Only a file that no commit can name any more.
            if name is not None and not self._pending:
                self._discard(name)
            raise
        self.mark = mark
        return size

    def _discard(self, name: str) -> None:
        try:
            remove(self.path, name)
        except OSError as error:
            # Of no harm, and the error on its way is the one to tell.
            note(f"{self.path}/{name}, which belongs to no commit, is left: {storage_error(error, self.path).what}")

    def _commit_surely(self, actions: list[AddAction | RemoveAction], mark: int, name: str | None) -> None:
        for attempt in range(_COMMIT_ATTEMPTS):
            try:
                return self._commit(actions, mark)
            except (DeltaError, OSError) as error:
                if self._settled(mark, name, error, last=attempt == _COMMIT_ATTEMPTS - 1):
                    return None
            if remote(self.path):
                time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _commit(self, actions: list[AddAction | RemoveAction], mark: int) -> None:
        table = self._table
        # Our own commit made this handle old, so it is brought up to date before (never after) the comparison.
        if self._stale:
            table.update_incremental()
        self._stale = True
        found = table.transaction_version(self.app_id)
        if found != self.mark:
            raise self._fenced(found)
        before = table.version()
        self._pending = True
        table.create_write_transaction(
            actions,
            "append",
            table.schema(),
            commit_properties=CommitProperties(app_transactions=[Transaction(self.app_id, mark)]),
        )
        self._synced = sync_log(self.path, self._synced, before)

    def _settled(self, mark: int, name: str | None, error: Exception, last: bool) -> bool:
        """After a failed or unknown commit: True if it is in the table, False if it may be tried again."""
        self._table, self._stale = load(self.path), False
        found = self._table.transaction_version(self.app_id)
        if found == mark and (name is None or self._names(name)):
            with storage(self.path):
                self._synced = sync_log(self.path, self._synced, self._table.version())
            return True
        if found != self.mark:
            # A commit of ours that is on its way still is for a version that is taken; one that is in the table has
            # been followed by another writer's.
            self._pending = name is not None and self._names(name)
            raise self._fenced(found) from error
        # What a disk does not show never comes; an object store may have yet to work on what it was sent.
        self._pending = self._pending and remote(self.path)
        told = storage_error(error, self.path)
        if last or (not isinstance(error, CommitFailedError) and not isinstance(told, UnavailableError)):
            raise told from error
        return False

    def _names(self, name: str) -> bool:
        """Whether a commit names this very file: another writer may have moved the mark to the same offset.

        The newest version need not have the file any more: a compaction may have replaced it since.
        """
        return named(self.path, name, self._base)

    def _fenced(self, found: int | None) -> Fenced:
        return Fenced(
            f"another writer moved the mark of {self.app_id} to {found}, this one expected {self.mark}.",
            where=self.path,
            fix="Nothing was written twice; the other writer goes on.",
        )

    def _write(self, rows: pa.Table, mark: int) -> tuple[str, int]:
        name = f"part-{mark:020d}-{uuid.uuid4().hex}.parquet"
        dictionary = [column for column in rows.column_names if _repeats(rows.column(column))]
        try:
            return name, write_parquet(self.path, name, rows, dictionary)
        except (OSError, pa.ArrowException) as error:
            raise storage_error(error, f"{self.path}/{name}") from error


def _repeats(column: pa.ChunkedArray) -> bool:
    """Whether a dictionary pays: unique values (ids, offsets) only make it grow until it is given up."""
    head = column.slice(0, _LOOKED_AT)
    return len(head.unique()) * 2 <= len(head)


def _add_action(name: str, size: int, rows: pa.Table) -> AddAction:
    return AddAction(name, size, {}, int(time.time() * 1000), True, json.dumps(statistics(rows)))


def statistics(rows: pa.Table) -> dict[str, Any]:
    """Delta's file statistics: row count, and each column's nulls, least and greatest value.

    Readers skip files by them. Every column that can be compared has both bounds: deltalake's dataset takes a missing
    bound for one that no row meets. Timestamps are written in whole milliseconds, the greatest rounded up; strings
    are never cut (the contract bounds their length).
    """
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        nulls[name] = column.null_count
        if column.null_count == rows.num_rows or pa.types.is_binary(column.type):
            continue
        moment = pa.types.is_timestamp(column.type)
        found = pc.min_max(column.cast(pa.int64()) if moment else column)
        low, high = found["min"].as_py(), found["max"].as_py()
        least[name] = _milliseconds(low // 1000) if moment else low
        greatest[name] = _milliseconds(-(-high // 1000)) if moment else high
    return {"numRecords": rows.num_rows, "minValues": least, "maxValues": greatest, "nullCount": nulls}


def _milliseconds(count: int) -> str:
    text: str = pa.scalar(count, pa.timestamp("ms")).cast(pa.string()).as_py()
    return text.replace(" ", "T") + "Z"
