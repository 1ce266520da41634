"""Appends that carry an offset: data and mark are one commit, and only one writer can make it.

The commit names a Delta app transaction (app id, offset). It is a compare-and-set: a handle is loaded, the offset on
that very handle is compared with what this writer believes, and the commit is made through the same handle. Delta
refuses the commit if anybody committed for the same app id since the handle was loaded. Loading again between the
comparison and the commit would let a writer that was paused (a zombie) write its rows a second time.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from fasttrack.errors import ConflictError, StorageError
from fasttrack.lake.durability import sync_commits, sync_file
from fasttrack.lake.failures import storage, storage_error
from fasttrack.lake.tables import load

_COMMIT_ATTEMPTS = 6
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
            return self._table.to_pyarrow_dataset().to_table(columns=list(columns), filter=where)

    def append(self, rows: pa.Table | None, mark: int) -> int:
        """Commit `rows` and move the mark to `mark`, together; rows and mark are durable on return.

        Returns:
            The size of the written file in bytes (0 without rows).

        Raises:
            Fenced: another writer moved the mark meanwhile; nothing of this call is in the table.
            StorageError: the storage refused; nothing of this call is in the table.
        """
        file = self._write(rows, mark) if rows is not None and rows.num_rows else None
        actions: list[AddAction | RemoveAction] = [] if file is None or rows is None else [_add_action(file, rows)]
        size = 0 if file is None else file.stat().st_size
        try:
            self._commit_surely(actions, mark, file)
        except (Fenced, StorageError):
            # The outcome is known by now: no commit names the file.
            if file is not None:
                file.unlink(missing_ok=True)
            raise
        self.mark = mark
        return size

    def _commit_surely(self, actions: list[AddAction | RemoveAction], mark: int, file: Path | None) -> None:
        for attempt in range(_COMMIT_ATTEMPTS):
            try:
                return self._commit(actions, mark)
            except (DeltaError, OSError) as error:
                if self._settled(mark, file, error, last=attempt == _COMMIT_ATTEMPTS - 1):
                    return None
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
        table.create_write_transaction(
            actions,
            "append",
            table.schema(),
            commit_properties=CommitProperties(app_transactions=[Transaction(self.app_id, mark)]),
        )
        self._sync(_newest(self.path, before))

    def _sync(self, upto: int) -> None:
        sync_commits(self.path, self._synced, upto)
        self._synced = upto

    def _settled(self, mark: int, file: Path | None, error: Exception, last: bool) -> bool:
        """After a failed or unknown commit: True if it is in the table, False if it may be tried again."""
        self._table, self._stale = load(self.path), False
        found = self._table.transaction_version(self.app_id)
        if found == mark and (file is None or self._names(file)):
            with storage(self.path):
                self._sync(self._table.version())
            return True
        if found != self.mark:
            raise self._fenced(found) from error
        if last or not isinstance(error, CommitFailedError):
            raise storage_error(error, self.path) from error
        return False

    def _names(self, file: Path) -> bool:
        """Whether the table holds this very file: another writer may have moved the mark to the same offset."""
        return any(uri.endswith(file.name) for uri in self._table.file_uris())

    def _fenced(self, found: int | None) -> Fenced:
        return Fenced(
            f"another writer moved the mark of {self.app_id} to {found}, this one expected {self.mark}.",
            where=self.path,
            fix="Nothing was written twice; the other writer goes on.",
        )

    def _write(self, rows: pa.Table, mark: int) -> Path:
        path = Path(self.path) / f"part-{mark:020d}-{uuid.uuid4().hex}.parquet"
        dictionary = [name for name in rows.column_names if _repeats(rows.column(name))]
        try:
            with path.open("wb") as file:
                pq.write_table(rows, file, compression="zstd", compression_level=1, use_dictionary=dictionary)
                file.flush()
                os.fsync(file.fileno())
            sync_file(path.parent)
        except (OSError, pa.ArrowException) as error:
            path.unlink(missing_ok=True)
            raise storage_error(error, str(path)) from error
        return path


def _repeats(column: pa.ChunkedArray) -> bool:
    """Whether a dictionary pays: unique values (ids, offsets) only make it grow until it is given up."""
    head = column.slice(0, _LOOKED_AT)
    return len(head.unique()) * 2 <= len(head)


def _newest(table: str, before: int) -> int:
    """The version of the newest commit file above `before`; others may have committed between."""
    log = Path(table) / "_delta_log"
    version = before
    while (log / f"{version + 1:020d}.json").exists():
        version += 1
    return version


def _add_action(file: Path, rows: pa.Table) -> AddAction:
    return AddAction(
        file.name, file.stat().st_size, {}, int(time.time() * 1000), True, json.dumps(statistics(rows))
    )  # fmt: skip


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
