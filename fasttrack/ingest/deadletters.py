"""Dead letters: what they are, one of them, and what they are held against the contract as it is now."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.dataset as ds

from fasttrack.errors import ConfigurationError, NotFoundError
from fasttrack.ingest.contracts import contract_version
from fasttrack.ingest.numbers import place
from fasttrack.ingest.partition import StreamContext
from fasttrack.ingest.rowcheck import Rejection
from fasttrack.lake.schemas import DEAD_LETTERS, MOMENT, REPLAYS
from fasttrack.lake.tables import dead_letters_path, read, replays_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

_PLACE = re.compile(r"(.+?)[:/](\d+)[:/](\d+)")

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


def replayed(usecase: UseCase, settings: Settings, stream: str | None = None, at: Place | None = None) -> pa.Table:
    """The dead letters that were sent again: rows of the table `replays`, but for keys and values.

    Args:
        stream: only those of this stream.
        at: only the one at this place.

    Raises:
        StorageError: the lake can't be read.
    """
    columns = [name for name in REPLAYS.names if name not in ("key", "value")]
    where = ds.field("state") == "done"
    if stream is not None:
        where &= ds.field("stream") == stream
    if at is not None:
        for name, value in zip(("topic_id", "partition", "offset"), at, strict=True):
            where &= ds.field(name) == value
    try:
        return read(replays_path(settings, usecase), columns, where)
    except NotFoundError:
        return pa.table({name: pa.array([], REPLAYS.field(name).type) for name in columns})


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
