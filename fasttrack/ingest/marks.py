"""How far the lake is: for each partition the first offset that some table has not decided on."""

from __future__ import annotations

from collections.abc import Mapping

from deltalake import DeltaTable

from fasttrack.errors import NotFoundError
from fasttrack.ingest.broker import Topic
from fasttrack.ingest.partition import app_id
from fasttrack.lake.tables import dead_letters_path, duplicates_path, load, raw_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

#: By stream and partition.
Marks = dict[tuple[str, int], int]


def marks(
    usecase: UseCase,
    settings: Settings,
    cluster: str,
    topics: Mapping[str, Topic],
    lowest: Mapping[tuple[str, int], int],
) -> Marks:
    """Read them from the tables.

    Args:
        usecase: whose streams.
        settings: needs `lake`.
        cluster: the Kafka cluster's id.
        topics: the topic of each stream that is asked for.
        lowest: by stream and partition, the mark where nothing was drained yet: the first offset that Kafka holds.

    Raises:
        StorageError: the lake can't be read.
    """
    shared = [_table(path) for path in (duplicates_path(settings, usecase), dead_letters_path(settings, usecase))]
    found: Marks = {}
    for name, topic in topics.items():
        tables = [_table(raw_path(settings, usecase, name)), *shared]
        for partition in range(topic.partitions):
            low = lowest[name, partition]
            landed, *others = [_mark(table, app_id(cluster, topic, partition)) for table in tables]
            # The raw table is the first to be committed: without its mark nothing was decided.
            decided = landed is not None
            found[name, partition] = min(low if m is None else m for m in (landed, *others)) if decided else low
    return found


def _table(path: str) -> DeltaTable | None:
    try:
        return load(path)
    except NotFoundError:
        return None


def _mark(table: DeltaTable | None, app: str) -> int | None:
    return None if table is None else table.transaction_version(app)
