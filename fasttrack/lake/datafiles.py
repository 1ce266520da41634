"""The tables of a use case's lake, and the data files that they consist of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from fasttrack.errors import NotFoundError, StorageError
from fasttrack.lake.tables import dead_letters_path, duplicates_path, load, raw_path, replays_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

# Where a row came from, in raw tables and in the others.
_PLACES = (("_topic_id", "_partition", "_offset"), ("topic_id", "partition", "offset"))


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a table.

    Attributes:
        name: in the table's folder.
        bytes: its size.
        rows: how many it holds; None if its commit does not say.
        source: the topic's id and the partition that all its rows are from; None if they are from several.
        first: the least offset in it; 0 if its commit does not say.
    """

    name: str
    bytes: int
    rows: int | None
    source: tuple[str, int] | None = None
    first: int = 0


def table_paths(settings: Settings, usecase: UseCase) -> dict[str, str]:
    """The paths of a use case's tables that are there, by the names that commands know them by.

    Feature tables are not among them: each is written once, in files of the right size, and deleted as a whole.

    Raises:
        StorageError: the lake can't be read.
    """
    paths = {f"raw/{stream}": raw_path(settings, usecase, stream) for stream in usecase.streams}
    paths["dead_letters"] = dead_letters_path(settings, usecase)
    paths["duplicates"] = duplicates_path(settings, usecase)
    paths["replays"] = replays_path(settings, usecase)
    return {name: path for name, path in paths.items() if _is_there(path)}


def _is_there(path: str) -> bool:
    try:
        load(path)
    except NotFoundError:
        return False
    return True


def data_files(table: DeltaTable) -> list[DataFile]:
    """The files that a table consists of at its handle's version, in no particular order.

    Raises:
        StorageError: the table has what FastTrack's never have: partition columns, deletion vectors, renamed columns.
    """
    if table.protocol().min_reader_version > 1 or table.metadata().partition_columns:
        raise StorageError(
            "the table was changed by another program: it has partition columns or needs a newer reader.",
            where=table.table_uri,
            fix="Maintain it with the program that changed it.",
        )
    actions = pa.table(table.get_add_actions(flatten=True))
    columns = {name: actions[name].to_pylist() for name in ("path", "size_bytes", "num_records")}
    sources, firsts = _sources(actions)
    rows = zip(*columns.values(), sources, firsts, strict=True)
    return [DataFile(*row) for row in rows]


def _sources(actions: pa.Table) -> tuple[list[tuple[str, int] | None], list[int]]:
    nothing: list[Any] = [None] * len(actions)
    for topic, partition, offset in _PLACES:
        if f"min.{offset}" not in actions.column_names:
            continue
        bounds = [
            actions[name].to_pylist() if name in actions.column_names else nothing
            for name in (f"min.{topic}", f"max.{topic}", f"min.{partition}", f"max.{partition}")
        ]
        sources = [
            (low, number) if low is not None and low == high and number is not None and number == last else None
            for low, high, number, last in zip(*bounds, strict=True)
        ]
        return sources, [first or 0 for first in actions[f"min.{offset}"].to_pylist()]
    return nothing, [0] * len(actions)


@dataclass(frozen=True)
class TableState:
    """What `fasttrack lake list` says of a table.

    Attributes:
        table: its name.
        version: the newest Delta version.
        files, rows, bytes: at that version.
        small: how many of the files are smaller than wanted.
        pinned: the versions that runs, models and feature tables were made from.
    """

    table: str
    version: int
    files: int
    rows: int
    bytes: int
    small: int
    pinned: list[int]


def state(name: str, path: str, small: int, pinned: Iterable[int]) -> TableState:
    """Describe a table.

    Args:
        name: its name.
        path: where it lies.
        small: a file of fewer bytes is small.
        pinned: its pinned versions.

    Raises:
        NotFoundError, StorageError: it can't be read.
    """
    table = load(path)
    files = data_files(table)
    return TableState(
        name, table.version(), len(files), sum(file.rows or 0 for file in files), sum(file.bytes for file in files),
        sum(file.bytes < small for file in files), sorted(pinned),
    )  # fmt: skip
