"""Dead letters: found, counted, shown, and held against the contract as it is now."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from fasttrack.errors import ConfigurationError, NotFoundError
from fasttrack.ingest.contracts import contract_version
from fasttrack.ingest.numbers import place
from fasttrack.ingest.partition import StreamContext
from fasttrack.ingest.rowcheck import Rejection
from fasttrack.lake.failures import storage
from fasttrack.lake.schemas import DEAD_LETTERS, MOMENT, REPLAYS
from fasttrack.lake.tables import dead_letters_path, load, read, replays_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

_PLACE = re.compile(r"(.+?)[:/](\d+)[:/](\d+)")
_GROUPS = ("reason", "stream", "detail", "partition", "contract_version", "topic")
_BATCH_ROWS = 10_000

Place = tuple[str, int, int]


@dataclass(frozen=True)
class Wanted:
    """Which dead letters; every part that is given must fit.

    Attributes:
        stream, reason: equal to these.
        partition: this one.
        offsets: first and last, both included.
        since, until: when the drain refused it: ``since <= ingested_at < until``, aware.
        contains: bytes that stand in its value.
    """

    stream: str | None = None
    reason: str | None = None
    partition: int | None = None
    offsets: tuple[int, int] | None = None
    since: datetime | None = None
    until: datetime | None = None
    contains: bytes | None = None

    def expression(self) -> ds.Expression:
        """The same for a reader of the table, but for `contains`."""
        parts = [ds.field("offset") >= 0]
        for name in ("stream", "reason", "partition"):
            if (value := getattr(self, name)) is not None:
                parts.append(ds.field(name) == value)
        if self.offsets is not None:
            parts += [ds.field("offset") >= self.offsets[0], ds.field("offset") <= self.offsets[1]]
        if self.since is not None:
            parts.append(ds.field("ingested_at") >= pa.scalar(self.since, MOMENT))
        if self.until is not None:
            parts.append(ds.field("ingested_at") < pa.scalar(self.until, MOMENT))
        found = parts[0]
        for part in parts[1:]:
            found &= part
        return found


@dataclass(frozen=True)
class Letter:
    """One dead letter, as the table has it; `place` is topic id, partition and offset."""

    stream: str
    topic: str
    topic_id: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    reason: str
    detail: str
    contract_version: str
    ingested_at: datetime

    @property
    def place(self) -> Place:
        """What tells it from all others."""
        return self.topic_id, self.partition, self.offset


@dataclass
class Listing:
    """What a search found.

    Attributes:
        matched: how many there are.
        groups: their counts (``count``, ``replayed``, ``first``, ``last``) by what they were grouped by, largest first.
        letters: the newest, without key and value; ``replayed_at`` if they were sent again.
    """

    matched: int = 0
    groups: list[dict[str, Any]] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)


class Judge:
    """Says what the drain would make of messages now.

    Args:
        usecase: whose contracts.
        settings: needs `schema_registry`.
    """

    def __init__(self, usecase: UseCase, settings: Settings) -> None:
        self._usecase, self._settings = usecase, settings
        self._contexts: dict[str, StreamContext] = {}

    def refused(self, stream: str, values: list[bytes | None], keys: list[bytes | None]) -> dict[int, Rejection]:
        """Why messages would be dead letters again, by their position; those that would land are left out.

        Raises:
            UnavailableError: the schema registry does not answer.
        """
        if stream not in self._usecase.streams:
            gone = Rejection("unknown stream", f"the use case has no stream {stream} any more")
            return dict.fromkeys(range(len(values)), gone)
        if stream not in self._contexts:
            self._contexts[stream] = StreamContext(self._usecase, self._settings, stream)
        return dict(self._contexts[stream].check(values, keys).rejected)

    def version(self, stream: str) -> str | None:
        """The present contract's version; None without such a stream."""
        found = self._usecase.streams.get(stream)
        return None if found is None else contract_version(found)


def parse_place(text: str) -> tuple[str, int, int]:
    """Topic or stream, partition and offset of ``TOPIC/PARTITION/OFFSET`` or ``STREAM:PARTITION:OFFSET``.

    Raises:
        ConfigurationError: it is not like that.
    """
    match = _PLACE.fullmatch(text)
    at = match and place(match[2], match[3])
    if not match or not at:
        fix = "Write TOPIC/PARTITION/OFFSET or STREAM:PARTITION:OFFSET."
        raise ConfigurationError(f"{text!r} is no place.", fix=fix)
    return match[1], *at


def replayed(usecase: UseCase, settings: Settings, stream: str | None = None) -> pa.Table:
    """The dead letters that were sent again: rows of the table `replays`, but for keys and values.

    Raises:
        StorageError: the lake can't be read.
    """
    columns = [name for name in REPLAYS.names if name not in ("key", "value")]
    where = ds.field("state") == "done"
    if stream is not None:
        where &= ds.field("stream") == stream
    try:
        return read(replays_path(settings, usecase), columns, where)
    except NotFoundError:
        return pa.table({name: pa.array([], REPLAYS.field(name).type) for name in columns})


def places(rows: pa.Table) -> list[Place]:
    """Topic id, partition and offset of each row."""
    columns = (rows.column(name).to_pylist() for name in ("topic_id", "partition", "offset"))
    return list(zip(*columns, strict=True))


def batches(usecase: UseCase, settings: Settings, wanted: Wanted, columns: list[str]) -> Iterator[pa.Table]:
    """The rows that are wanted, some thousand at a time, as the table is when this begins.

    Raises:
        NotFoundError: nothing was drained yet.
        StorageError: the lake can't be read.
    """
    path = dead_letters_path(settings, usecase)
    table = load(path)
    asked = columns if wanted.contains is None else list({*columns, "value"})
    with storage(path):
        found = table.to_pyarrow_dataset().to_batches(
            columns=asked, filter=wanted.expression(), batch_size=_BATCH_ROWS, batch_readahead=2, fragment_readahead=2
        )
        for batch in found:
            rows = pa.Table.from_batches([batch])
            if wanted.contains is not None:
                rows = rows.filter(pc.match_substring(rows.column("value"), wanted.contains))
            if rows.num_rows:
                yield rows.select(columns)


def search(usecase: UseCase, settings: Settings, wanted: Wanted, by: str = "reason", limit: int = 20) -> Listing:
    """Count dead letters, and list the newest.

    Args:
        by: a column to group by: reason, stream, detail, partition, contract_version or topic.
        limit: how many are listed.

    Raises:
        ConfigurationError: `by` is none of these.
        NotFoundError: nothing was drained yet.
        StorageError: the lake can't be read.
    """
    if by not in _GROUPS:
        raise ConfigurationError(f"{by!r} is nothing to group by.", where="--by", fix=f"Use {', '.join(_GROUPS)}.")
    columns = [name for name in DEAD_LETTERS.names if name not in ("key", "value")]
    done = replayed(usecase, settings)
    when = dict(zip(places(done), done.column("replayed_at").to_pylist(), strict=True))
    empty = pa.table({name: pa.array([], DEAD_LETTERS.field(name).type) for name in columns})
    rows = pa.concat_tables([empty, *batches(usecase, settings, wanted, columns)])
    again = pa.array([when.get(each) for each in places(rows)], MOMENT)
    rows = rows.append_column("replayed_at", again)
    order = [("topic", "ascending"), ("partition", "ascending"), ("offset", "descending")]
    newest = rows.sort_by([("ingested_at", "descending"), *order]).slice(0, limit)
    return Listing(rows.num_rows, _groups(rows, by), newest.to_pylist())


def _groups(rows: pa.Table, by: str) -> list[dict[str, Any]]:
    keys = list(dict.fromkeys(["stream", by]))
    sums = [([], "count_all"), ("replayed_at", "count"), ("ingested_at", "min"), ("ingested_at", "max")]
    found = rows.group_by(keys).aggregate(sums)
    names = {"count_all": "count", "replayed_at_count": "replayed"}
    names |= {"ingested_at_min": "first", "ingested_at_max": "last"}
    found = found.rename_columns([names.get(name, name) for name in found.column_names])
    order = [("count", "descending"), *((key, "ascending") for key in keys)]
    listed: list[dict[str, Any]] = found.select([*keys, *names.values()]).sort_by(order).to_pylist()
    return listed


def letter(usecase: UseCase, settings: Settings, at: tuple[str, int, int]) -> Letter:
    """One dead letter; of a topic that was deleted and made again, the newest.

    Args:
        at: topic or stream, partition and offset.

    Raises:
        NotFoundError: there is none there.
        StorageError: the lake can't be read.
    """
    name, partition, offset = at
    named = (ds.field("topic") == name) | (ds.field("stream") == name)
    here = (ds.field("partition") == partition) & (ds.field("offset") == offset)
    rows = read(dead_letters_path(settings, usecase), DEAD_LETTERS.names, named & here)
    if not rows.num_rows:
        raise NotFoundError(
            "is no dead letter.", where=f"{name}/{partition}/{offset}", fix="See `fasttrack deadletters list`."
        )
    return letters(rows.sort_by([("ingested_at", "descending")]).slice(0, 1))[0]


def letters(rows: pa.Table) -> list[Letter]:
    """Rows of the table as objects."""
    return [Letter(**row) for row in rows.to_pylist()]
