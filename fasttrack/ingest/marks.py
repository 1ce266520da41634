"""How far the lake is: for each partition the first offset that some table has not decided on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deltalake import DeltaTable

from fasttrack.errors import NotFoundError
from fasttrack.ingest.broker import Topic
from fasttrack.ingest.partition import app_id
from fasttrack.lake.tables import dead_letters_path, duplicates_path, load, raw_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

#: By stream and partition.
Marks = dict[tuple[str, int], int]


@dataclass(frozen=True)
class Level:
    """Up to which offset each table has decided on a partition; None where no commit says so.

    The raw table is the first to be committed, so its mark is the foremost: the drain has read all before it. The
    others may be behind without lacking a row.
    """

    landed: int | None
    duplicates: int | None
    dead: int | None

    def reached(self, lowest: int) -> int:
        """The first offset that some table has not decided on; `lowest` where nothing was drained yet."""
        if self.landed is None:
            return lowest
        return min(lowest if mark is None else mark for mark in (self.landed, self.duplicates, self.dead))

    def promised(self) -> int | None:
        """The first offset that some table may still lack a row of; None before the first drain: nothing was promised.

        A drain that does not begin at 0 marks all tables first, so no mark means that nothing is decided from 0 on.
        """
        if self.landed is None:
            return None
        return min(self.landed, self.duplicates or 0, self.dead or 0)


def levels(
    usecase: UseCase, settings: Settings, cluster: str, topics: Mapping[str, Topic]
) -> dict[tuple[str, int], Level]:
    """Read the marks of every partition from the tables.

    Args:
        usecase: whose streams.
        settings: needs `lake`.
        cluster: the Kafka cluster's id.
        topics: the topic of each stream that is asked for.

    Raises:
        StorageError: the lake can't be read.
    """
    shared = [_table(path) for path in (duplicates_path(settings, usecase), dead_letters_path(settings, usecase))]
    found = {}
    for name, topic in topics.items():
        tables = [_table(raw_path(settings, usecase, name)), *shared]
        for partition in range(topic.partitions):
            app = app_id(cluster, topic, partition)
            found[name, partition] = Level(*(_mark(table, app) for table in tables))
    return found


def marks(
    usecase: UseCase,
    settings: Settings,
    cluster: str,
    topics: Mapping[str, Topic],
    lowest: Mapping[tuple[str, int], int],
) -> Marks:
    """The first offset of every partition that some table has not decided on.

    Args:
        usecase: whose streams.
        settings: needs `lake`.
        cluster: the Kafka cluster's id.
        topics: the topic of each stream that is asked for.
        lowest: by stream and partition, the mark where nothing was drained yet: the first offset that Kafka holds.

    Raises:
        StorageError: the lake can't be read.
    """
    return {at: level.reached(lowest[at]) for at, level in levels(usecase, settings, cluster, topics).items()}


def _table(path: str) -> DeltaTable | None:
    try:
        return load(path)
    except NotFoundError:
        return None


def _mark(table: DeltaTable | None, app: str) -> int | None:
    return None if table is None else table.transaction_version(app)
