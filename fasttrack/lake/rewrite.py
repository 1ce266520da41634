"""Many small Parquet files as one, a row group at a time."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake._internal import DeltaFileSystemHandler
from pyarrow.fs import FileSystem

from fasttrack.lake.append import statistics
from fasttrack.lake.commits import filesystem
from fasttrack.lake.durability import sync_file
from fasttrack.lake.encodings import parquet_options
from fasttrack.lake.storage import patiently, remote, storage_options

_BATCH_ROWS = 16_384
# One row group: what is in memory at a time.
_GROUP_ROWS, _GROUP_BYTES = 131_072, 32 * 2**20
_PART_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Rewritten:
    """A file that is written and durable, and that no commit names yet.

    Attributes:
        bytes: its size.
        rows: how many it holds.
        statistics: Delta's, as JSON (see `append.statistics`).
    """

    bytes: int
    rows: int
    statistics: str


def new_name() -> str:
    """A file name that nobody else uses."""
    return f"compacted-{uuid.uuid4().hex}.parquet"


def rewrite(
    path: str, name: str, files: Sequence[str], schema: pa.Schema, stop: Callable[[], bool] = lambda: False
) -> Rewritten | None:
    """Write the rows of `files`, one file after the other, into the new file `name`; it is durable on return.

    On a disk it holds one row group of at most 32 MiB (and what Parquet keeps of the one that it reads) in memory; on
    S3 the compressed file, too.

    Args:
        path: the table's.
        name: the new file's.
        files: names of files of the table.
        schema: the table's: columns that a file lacks are null in it.
        stop: asked now and then; if it says True, writing ends.

    Returns:
        What was written; None if it was stopped.

    Raises:
        OSError, ArrowException: the storage refused; a part of the file may be left.
    """
    source, bounds = filesystem(path), _Bounds(schema)
    with (
        _sink(path, name) as sink,
        pq.ParquetWriter(sink, schema, **parquet_options(schema, _dictionary(source, files[0]))) as writer,
    ):
        for rows in _groups(_batches(source, files, schema)):
            if stop():
                return None
            writer.write_table(rows, row_group_size=len(rows))
            bounds.add(rows)
        writer.close()
        size = sink.tell()
    return Rewritten(size, bounds.rows, bounds.statistics())


@contextmanager
def _sink(path: str, name: str) -> Iterator[Any]:
    if remote(path):
        # In memory first: a retried request sends all of it again.
        buffer = pa.BufferOutputStream()
        yield buffer
        content = buffer.getvalue()
        patiently(path, lambda: _upload(path, name, content))
        return
    with (Path(path) / name).open("wb") as out:
        yield out
        out.flush()
        os.fsync(out.fileno())
    sync_file(path)


def _upload(path: str, name: str, content: pa.Buffer) -> None:
    stream = DeltaFileSystemHandler(path, storage_options(path)).open_output_stream(name)
    for start in range(0, content.size, _PART_BYTES):
        stream.write(content.slice(start, min(_PART_BYTES, content.size - start)).to_pybytes())
    # Only now the object is there; deltalake's type hints forget it.
    stream.close()  # type: ignore[attr-defined]


def _dictionary(source: FileSystem, name: str) -> list[str]:
    """The columns that the writer of a file found worth a dictionary."""
    with source.open_input_file(name) as file:
        found = pq.read_metadata(file)
    if not found.num_row_groups:
        return []
    group = found.row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    return [column.path_in_schema for column in columns if column.has_dictionary_page]


def _batches(source: FileSystem, files: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
    for name in files:
        with source.open_input_file(name) as stream, pq.ParquetFile(stream) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                yield _conformed(batch, schema)


def _conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    have = set(batch.schema.names)
    columns = [
        batch.column(field.name).cast(field.type) if field.name in have else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _groups(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Batches put together to row groups."""
    pending: list[pa.Table] = []
    rows = size = 0
    for batch in batches:
        pending.append(batch)
        rows, size = rows + len(batch), size + batch.nbytes
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield pa.concat_tables(pending)
            pending, rows, size = [], 0, 0
    if rows:
        yield pa.concat_tables(pending)


class _Bounds:
    """The statistics of a file of which one row group is known at a time.

    They come from the rows and not from the old files' statistics: those of other writers are cut, or not there.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._extremes: list[pa.Table] = []
        self._nulls = dict.fromkeys(schema.names, 0)
        self.rows = 0

    def add(self, rows: pa.Table) -> None:
        """Take a row group into account."""
        self.rows += len(rows)
        columns = []
        for name, column in zip(rows.column_names, rows.columns, strict=True):
            self._nulls[name] += column.null_count
            if pa.types.is_binary(column.type):
                columns.append(pa.nulls(2, column.type))
            else:
                found = pc.min_max(column)
                columns.append(pa.array([found["min"], found["max"]], column.type))
        self._extremes.append(pa.Table.from_arrays(columns, schema=self._schema))

    def statistics(self) -> str:
        """As `append.statistics` has them for all rows at once, as JSON."""
        extremes = pa.concat_tables(self._extremes) if self._extremes else self._schema.empty_table()
        return json.dumps(statistics(extremes) | {"numRecords": self.rows, "nullCount": self._nulls})
