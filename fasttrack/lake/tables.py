"""Where the tables lie, and how they are opened and read."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError, TableNotFoundError

from fasttrack.errors import ConfigurationError, NotFoundError, StorageError, UnavailableError
from fasttrack.lake.failures import storage, storage_error
from fasttrack.lake.repair import repair
from fasttrack.lake.schemas import MOMENT
from fasttrack.lake.storage import exists, open_table, patiently, remote, storage_options, sync_table
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

_ATTEMPTS = 9
_FIRST_WAIT_SECONDS = 0.01
# Of what is read piece by piece, how many pieces and files are read ahead: each is memory.
_READAHEAD = 2

# Lineage names table versions, so the log that finds them is kept; app transactions are the drain's offsets and must
# never expire (they don't by default: delta.setTransactionRetentionDuration is unset).
_CONFIGURATION = {"delta.enableExpiredLogCleanup": "false", "delta.logRetentionDuration": "interval 3650 days"}

# The Delta library takes paths for URLs: these it refuses, or reads as other characters.
_UNFIT = re.compile(r"[\[\]\\]|%[0-9A-Fa-f]{2}")
_BUCKET = re.compile(r"s3://[^/:]+(/[^:]*)?")


def root(settings: Settings, usecase: UseCase) -> str:
    """The folder, or the S3 prefix, of a use case's tables.

    Raises:
        ConfigurationError: no lake is set, it is of another kind, or its name can't be a table's.
    """
    lake = settings.require("lake").removeprefix("file://")
    if remote(lake):
        place = f"{lake.rstrip('/')}/{usecase.name}"
        wrong = not _BUCKET.fullmatch(lake)
    else:
        place = str(Path(lake).expanduser().absolute() / usecase.name)
        wrong = "://" in lake
    if wrong:
        raise ConfigurationError(
            "a lake is a local (or mounted) folder, or in S3.", where=f"FASTTRACK_LAKE={lake}",
            fix="Give the path of a folder, or s3://bucket/prefix.",
        )  # fmt: skip
    if found := _UNFIT.search(place):
        raise ConfigurationError(
            f"a folder with {found.group()!r} in its path can't hold Delta tables.", where=f"FASTTRACK_LAKE={lake}",
            fix="Choose a folder without brackets, backslashes and percent codes.",
        )  # fmt: skip
    return place


def folder(settings: Settings, usecase: UseCase, who: str) -> str:
    """`root`, for `who` can work with a folder only.

    Raises:
        ConfigurationError: the lake is in an object store, or as for `root`.
    """
    place = root(settings, usecase)
    if remote(place):
        raise ConfigurationError(
            f"{who} a lake in a folder, this one is in an object store.", where=f"FASTTRACK_LAKE={settings.lake}",
            fix="Mount the bucket or copy the tables to a folder, and give that folder's path to this step.",
        )  # fmt: skip
    return place


def raw_path(settings: Settings, usecase: UseCase, stream: str) -> str:
    """The Delta table of a stream's accepted events."""
    return f"{root(settings, usecase)}/raw/{stream}"


def dead_letters_path(settings: Settings, usecase: UseCase) -> str:
    """The Delta table of the messages that broke their contract, with their raw bytes."""
    return f"{root(settings, usecase)}/dead_letters"


def replays_path(settings: Settings, usecase: UseCase) -> str:
    """The Delta table that names each dead letter that was sent again."""
    return f"{root(settings, usecase)}/replays"


def duplicates_path(settings: Settings, usecase: UseCase) -> str:
    """The Delta table that names each message whose event was in the lake already."""
    return f"{root(settings, usecase)}/duplicates"


def features_path(settings: Settings, usecase: UseCase, fingerprint: str) -> str:
    """The folder of one build of the feature table.

    Raises:
        ConfigurationError: the lake is in an object store.
    """
    return f"{folder(settings, usecase, 'features and training need')}/features/{fingerprint}"


def load(path: str, version: int | None = None) -> DeltaTable:
    """Open a table, trying again while others commit ("gap in commit files" is such a race).

    Raises:
        NotFoundError: there is no table.
        StorageError: it can't be read.
        UnavailableError: the object store does not answer.
    """
    wait = _FIRST_WAIT_SECONDS
    for attempt in range(_ATTEMPTS):
        try:
            return open_table(path, version)
        except TableNotFoundError as error:
            raise NotFoundError(
                "there is no table yet.", where=path, fix="Run `fasttrack run` or drain first."
            ) from error
        except (DeltaError, OSError) as error:
            told = storage_error(error, path)
            # An object store has been asked for long enough already, and what it refuses stays refused.
            final = remote(path) and (isinstance(error, OSError) or isinstance(told, UnavailableError))
            if attempt == _ATTEMPTS - 1 or final:
                raise told from error
        time.sleep(wait)
        wait *= 2
    raise AssertionError("unreachable: the last attempt returns or raises")


def ensure(path: str, schema: pa.Schema) -> None:
    """Create the table if it is missing, repair it after a power cut, and add columns that the contract has got since.

    Raises:
        StorageError: the disk refused, or a column's type differs from the contract's.
    """
    with storage(path):
        if not remote(path):
            repair(path)
        existed = exists(path)
        if not existed:
            options = storage_options(path)
            try:
                DeltaTable.create(path, schema, mode="ignore", configuration=_CONFIGURATION, storage_options=options)
            except (DeltaError, OSError):
                # Perhaps somebody created it at the same moment; otherwise this is the reason why it can't be.
                if not exists(path):
                    raise
        sync_table(path, made=not existed)
    if existed:
        _evolve(path, schema)


def _evolve(path: str, schema: pa.Schema) -> None:
    table = load(path)
    known = {field.name: field for field in pa.schema(table.schema())}
    for field in schema:
        have = known.get(field.name)
        if have is not None and have.type != field.type:
            raise StorageError(
                f"column {field.name!r} holds {have.type}, the contract now says {field.type}.", where=path,
                fix="A contract evolves by adding nullable fields: give the changed field a new name.",
            )  # fmt: skip
    missing = [field for field in schema if field.name not in known]
    if missing:
        fields = Schema.from_arrow(pa.schema(missing)).fields
        with storage(path):
            table.alter.add_columns(fields)


def read(
    path: str, columns: Sequence[str] | None = None, where: ds.Expression | None = None, version: int | None = None
) -> pa.Table:
    """Read a table; files whose statistics exclude `where` are not opened.

    Raises:
        NotFoundError: there is no table.
        StorageError: it can't be read.
    """
    table = load(path, version)
    with storage(path):
        dataset, chosen = table.to_pyarrow_dataset(), None if columns is None else list(columns)
        return patiently(path, lambda: dataset.to_table(columns=chosen, filter=where))


def batches(path: str, columns: Sequence[str], where: ds.Expression | None = None) -> Iterator[pa.RecordBatch]:
    """As `read`, piece by piece, for what may be larger than memory; the table as it is when this begins.

    Raises:
        NotFoundError: there is no table.
        StorageError: it can't be read.
    """
    table = load(path)
    with storage(path):
        dataset = table.to_pyarrow_dataset()
        if not remote(path):
            yield from dataset.to_batches(
                columns=list(columns), filter=where, batch_readahead=_READAHEAD, fragment_readahead=_READAHEAD
            )
            return
        # Whole files, so that one can be read again when its answer breaks off.
        for part in dataset.get_fragments(filter=where):
            # By the table's schema: a file may be older than a column.
            whole = partial(part.to_table, dataset.schema, columns=list(columns), filter=where)
            yield from patiently(path, whole).to_batches()


def read_raw(
    settings: Settings,
    usecase: UseCase,
    stream: str,
    columns: Sequence[str] | None = None,
    before: datetime | None = None,
    version: int | None = None,
) -> pa.Table:
    """Read a stream's accepted events.

    Args:
        columns: the columns to read; all if absent.
        before: only events whose event time is earlier than this (aware) moment.
        version: a pinned Delta version; the newest if absent.

    Returns:
        One row an event, in no particular order (sort by ``_partition, _offset`` for the order within a key).

    Raises:
        NotFoundError: nothing was drained yet.
        StorageError: the table can't be read.
    """
    where = None if before is None else ds.field(usecase.streams[stream].event_time) < pa.scalar(before, MOMENT)
    return read(raw_path(settings, usecase, stream), columns, where, version)


def versions(settings: Settings, usecase: UseCase) -> dict[str, int]:
    """The newest Delta version of each stream's raw table; streams without a table are left out."""
    found: dict[str, int] = {}
    for stream in usecase.streams:
        try:
            found[stream] = load(raw_path(settings, usecase, stream)).version()
        except NotFoundError:
            continue
    return found
