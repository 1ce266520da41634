"""The table's files, written by the workers, and the one Delta commit that makes them the table."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from fasttrack.errors import StorageError
from fasttrack.lake.durability import sync_file
from fasttrack.lake.failures import storage

#: What a worker tells the driver about a file: a row of this schema.
WRITTEN = pa.schema([pa.field("path", pa.string()), pa.field("size", pa.int64()), pa.field("stats", pa.string())])


def write_part(folder: str, table: pa.Table, attempt: str = "") -> pa.RecordBatch:
    """Write one Parquet file and make it durable. It is no part of the table until `commit` names it.

    Args:
        folder: the table's folder, made if it is missing.
        attempt: names the build, so that `sweep` finds what it left.
        table: the rows.

    Returns:
        One row with the schema `WRITTEN`.

    Raises:
        StorageError: the disk refused.
    """
    file = Path(folder) / f"part-{attempt}{uuid.uuid4().hex}.parquet"
    text = [field.name for field in table.schema if pa.types.is_string(field.type)]
    with storage(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file, compression="zstd", compression_level=1, use_dictionary=text)
        sync_file(file)
        size = file.stat().st_size
    found = orjson.dumps({"numRecords": len(table)}).decode()
    return pa.RecordBatch.from_pylist([{"path": file.name, "size": size, "stats": found}], schema=WRITTEN)


def commit(folder: str, schema: pa.Schema, written: Sequence[tuple[str, int, str]]) -> None:
    """Make the files the whole contents of the Delta table, in one commit.

    Files of an earlier attempt that failed stay unnamed. Two builds of one fingerprint at the same time have the
    same rows, so it doesn't matter whose commit is the last.

    Args:
        folder: the table's folder.
        schema: of the table.
        written: (path, size, stats) of each file, as `write_part` gave them.

    Raises:
        StorageError: the disk refused.
    """
    from deltalake import Schema
    from deltalake.exceptions import DeltaError
    from deltalake.transaction import AddAction, create_table_with_add_actions

    now = int(time.time() * 1000)
    actions = [AddAction(path, size, {}, now, True, stats) for path, size, stats in sorted(written)]
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        create_table_with_add_actions(folder, Schema.from_arrow(schema), actions, mode="overwrite")
        sync_file(folder)
    except (DeltaError, OSError) as error:
        raise StorageError(f"the table can't be committed: {error}", where=folder, fix="Free some space.") from error


def sweep(folder: str, attempt: str, keep: Sequence[str] = ()) -> None:
    """Delete the files of a build that are no part of the table: of a build that failed, or of tasks that ran twice.

    Args:
        folder: the table's folder.
        attempt: as given to `write_part`.
        keep: names of the files that were committed.
    """
    for file in Path(folder).glob(f"part-{attempt}*.parquet"):
        if file.name not in keep:
            file.unlink(missing_ok=True)
