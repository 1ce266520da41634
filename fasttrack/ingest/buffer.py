"""Messages of one partition between Kafka and the lake."""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from confluent_kafka import Message

from fasttrack.ingest.partition import PartitionWriter

_MAX_AGE_SECONDS = 5.0


@dataclass
class Buffer:
    """Messages of one partition that are not committed yet; `next` is the offset of the one that comes next.

    Attributes:
        holes: the ``[low, high)`` that were passed over: transactions and compaction leave some, and after a seek the
            client may hand out messages that it had fetched before, from further on. Only Kafka can tell; nothing may
            be committed before it was asked.
        placed: whether the client is known to be where this buffer is, by a message that followed or by Kafka's word.
        ended: where the partition ended when the client last came to its end.
    """

    writer: PartitionWriter
    next: int
    end: int | None
    placed: bool = False
    ended: int = 0
    values: list[bytes | None] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    holes: list[tuple[int, int]] = field(default_factory=list)
    bytes: int = 0
    since: float = 0.0
    begin: int = field(init=False)
    _offsets: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin = self.next

    def emptied(self) -> Buffer:
        """One that goes on behind this one."""
        return Buffer(self.writer, self.next, self.end, self.placed, self.ended)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Of the messages, ``[n]``."""
        return np.concatenate(self._offsets) if self._offsets else np.empty(0, np.int64)

    @property
    def done(self) -> bool:
        """Whether everything that is wanted of the partition has been read."""
        return self.end is not None and self.next >= self.end

    @property
    def position(self) -> int:
        """The first offset that the lake lacks, or where the partition ends if it lacks nothing."""
        return self.begin if self.values else max(self.next, self.ended)

    def add(self, messages: list[Message]) -> None:
        """Take messages; those that are there already (delivered again) and from the end on are left.

        Args:
            messages: at least one.
        """
        if not self.values:
            self.since = time.monotonic()
        count = len(messages)
        first, last = cast(int, messages[0].offset()), cast(int, messages[-1].offset())
        if first == self.next and last == first + count - 1 and (self.end is None or last < self.end):
            self.placed = True
            self._take(messages, np.arange(first, last + 1))
            return
        given = np.array([message.offset() for message in messages], np.int64)
        # Behind a message from further on there may be some from before it, which only count once that one is gone.
        newer = given > np.maximum.accumulate(np.concatenate([[self.next - 1], given]))[:-1]
        wanted = newer if self.end is None else newer & (given < self.end)
        self._skip(given[newer])
        chosen = np.flatnonzero(wanted).tolist()
        if chosen:
            self._take([messages[at] for at in chosen], given[wanted])
        if self.end is not None and (newer & ~wanted).any():
            self.next = max(self.next, self.end)

    def _skip(self, newer: npt.NDArray[np.int64]) -> None:
        """Note what lies between ascending offsets, and before them."""
        if not len(newer) or self.done:
            return
        self.placed |= not self.holes and int(newer[0]) == self.next
        before = np.concatenate([[self.next], newer[:-1] + 1])
        after = newer if self.end is None else np.minimum(newer, self.end)
        gaps = before < after
        self.holes += zip(before[gaps].tolist(), after[gaps].tolist(), strict=True)

    def _take(self, messages: list[Message], offsets: npt.NDArray[np.int64]) -> None:
        values: list[Any] = [message.value() for message in messages]
        keys: list[Any] = [message.key() for message in messages]
        self.values += values
        self.keys += keys
        self._offsets.append(offsets)
        self.bytes += sum(map(len, filter(None, values))) + sum(map(len, filter(None, keys)))
        self.next = int(offsets[-1]) + 1

    def due(self, batch_events: int) -> bool:
        """Whether it is time to commit: at its end, `batch_events` long, or too old."""
        if not self.values:
            # Done, but with a hole at its end that no table's mark is past.
            return self.done and self.writer.mark < self.next
        return self.done or len(self.values) >= batch_events or time.monotonic() - self.since > _MAX_AGE_SECONDS


def runs(messages: list[Message], several_topics: bool) -> Iterator[tuple[tuple[str, int], list[Message]]]:
    """The messages that follow one another in one partition: topic and partition, and the messages."""
    # No tuple for each message: they would wake the garbage collector again and again.
    parts = np.array([message.partition() for message in messages])
    changes = parts[1:] != parts[:-1]
    if several_topics:
        topics = [message.topic() for message in messages]
        changes |= np.fromiter(map(operator.ne, topics[1:], topics[:-1]), np.bool_, len(changes))
    cuts = (np.flatnonzero(changes) + 1).tolist()
    for low, high in itertools.pairwise([0, *cuts, len(messages)] if messages else []):
        first = messages[low]
        yield (str(first.topic()), cast(int, first.partition())), messages[low:high]
