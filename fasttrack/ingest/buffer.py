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
    """Messages of one partition that are not committed yet; `next` is the offset of the one that comes next."""

    writer: PartitionWriter
    next: int
    end: int | None
    values: list[bytes | None] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    bytes: int = 0
    since: float = 0.0
    _offsets: list[npt.NDArray[np.int64]] = field(default_factory=list)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Of the messages, ``[n]``."""
        return np.concatenate(self._offsets) if self._offsets else np.empty(0, np.int64)

    @property
    def done(self) -> bool:
        """Whether everything that is wanted of the partition has been read."""
        return self.end is not None and self.next >= self.end

    def add(self, messages: list[Message]) -> int | None:
        """Take messages that are next in line; those before (delivered again) and from the end on are left.

        Args:
            messages: at least one, their offsets ascending.

        Returns:
            None, or the position of the first message that does not follow the one before it: none from there on is
            taken. After a seek librdkafka may still hand out messages that it had fetched before, from further on;
            taking them would lose what lies between.
        """
        if not self.values:
            self.since = time.monotonic()
        count = len(messages)
        first, last = cast(int, messages[0].offset()), cast(int, messages[-1].offset())
        if first == self.next and last == first + count - 1 and (self.end is None or last < self.end):
            self._take(messages)
            return None
        offsets: list[Any] = [message.offset() for message in messages]
        low = next((at for at, offset in enumerate(offsets) if offset >= self.next), count)
        high = count
        while self.end is not None and high > low and offsets[high - 1] >= self.end:
            high -= 1
        if low >= high:
            return low if low < count and not self.done else None
        if offsets[low] != self.next or offsets[high - 1] != self.next + high - 1 - low:
            high = next(at for at in range(low, high) if offsets[at] != self.next + at - low)
        self._take(messages[low:high])
        return high if high < count and not self.done else None

    def _take(self, messages: list[Message]) -> None:
        values: list[Any] = [message.value() for message in messages]
        self.values += values
        self.keys += [message.key() for message in messages]
        self._offsets.append(np.arange(self.next, self.next + len(messages)))
        self.bytes += sum(map(len, filter(None, values)))
        self.next += len(messages)

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
