"""Messages of one partition between Kafka and the lake."""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from confluent_kafka import Message

from fasttrack.ingest.partition import PartitionWriter

_MAX_AGE_SECONDS = 5.0


@dataclass
class Buffer:
    """Messages of one partition that are not committed yet, from offset `next` - their number on."""

    writer: PartitionWriter
    next: int
    end: int | None
    offsets: list[int] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    bytes: int = 0
    since: float = 0.0

    @property
    def done(self) -> bool:
        """Whether everything that is wanted of the partition has been read."""
        return self.end is not None and self.next >= self.end

    def add(self, messages: list[Message]) -> int | None:
        """Take messages that are next in line; those before (delivered again) and from the end on are left.

        Returns:
            None, or the position of the first message that does not follow the one before it: none from there on is
            taken. After a seek librdkafka may still hand out messages that it had fetched before, from further on;
            taking them would lose what lies between.
        """
        if not self.offsets:
            self.since = time.monotonic()
        offsets: list[Any] = [message.offset() for message in messages]
        low = next((at for at, offset in enumerate(offsets) if offset >= self.next), len(offsets))
        high = len(offsets)
        while self.end is not None and high > low and offsets[high - 1] >= self.end:
            high -= 1
        if low >= high:
            return low if low < len(offsets) and not self.done else None
        if offsets[low] != self.next or offsets[high - 1] != self.next + high - 1 - low:
            high = next(at for at in range(low, high) if offsets[at] != self.next + at - low)
        values: list[Any] = [message.value() for message in messages[low:high]]
        self.offsets += offsets[low:high]
        self.values += values
        self.keys += [message.key() for message in messages[low:high]]
        self.bytes += sum(map(len, filter(None, values)))
        self.next += high - low
        return high if high < len(offsets) and not self.done else None

    def due(self, batch_events: int) -> bool:
        """Whether it is time to commit: at its end, `batch_events` long, or too old."""
        if not self.offsets:
            # Done, but with a hole at its end that no table's mark is past.
            return self.done and self.writer.mark < self.next
        return self.done or len(self.offsets) >= batch_events or time.monotonic() - self.since > _MAX_AGE_SECONDS


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
