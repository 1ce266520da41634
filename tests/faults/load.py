"""The load of the fault tests: what every message is follows from its partition and offset alone.

So the judge knows what must become of each message without asking the drain's own checks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import Producer

from fasttrack.usecase import UseCase, parse
from tests.faults.malformed import DAMAGES, malformed

GOOD, DUPLICATE, MALFORMED = 0, 1, 2
MAX_BYTES = 4096
KEYS = 50
_START = np.datetime64("2020-01-01T00:00:00", "us")
_BLOCK = 20_000
_CITIES = np.array(["Paris", "Łódź", None], object)
Ints = npt.NDArray[np.int64]

_YAML = """
api_version: fasttrack.ai/v1
name: {name}
streams:
  placed: &orders
    key: order_id
    event_id: event_id
    event_time: placed_at
    partitions: 2
    max_bytes: 4096
    fields:
      event_id: {{type: string}}
      order_id: {{type: string, max_length: 64}}
      placed_at: {{type: timestamp}}
      amount: {{type: number, minimum: 0, maximum: 1000}}
      serial: {{type: integer, minimum: 0}}
      gift: {{type: boolean}}
      city: {{type: string, nullable: true, enum: [Paris, Łódź]}}
  changed: *orders
entities:
  order: {{keys: [order_id]}}
prediction: {{stream: placed, entity: order, time_field: placed_at, lead: 1h}}
label: {{stream: changed, field: amount, late_above: 5}}
features:
  amount: {{kind: field, field: amount}}
split: {{train_until: 2020-01-01T00:00:00Z, validate_until: 2020-02-01T00:00:00Z, test_until: 2020-03-01T00:00:00Z}}
models: [{{architecture: mlp}}]
gate: {{thresholds: [{{metric: auc, at_least: 0.5}}]}}
roles: {{user: {{may: [predict]}}}}
"""


def usecase(name: str) -> UseCase:
    """Two streams of two partitions each."""
    return parse(_YAML.format(name=name))


@dataclass
class Messages:
    """The messages of one partition.

    Attributes:
        kinds: ``[n]``: `GOOD`, `DUPLICATE`, or `MALFORMED` and more.
        numbers: ``[n]``: the number of the event that each message carries; a good event's is its offset.
    """

    kinds: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    numbers: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def extend(self, count: int, duplicates: float, bad: float, chance: np.random.Generator) -> None:
        """Plan `count` more messages; duplicates are copies of any good event before, mostly of a near one."""
        low = len(self.kinds)
        draw = chance.random(count)
        kinds = np.where(draw < duplicates, DUPLICATE, GOOD)
        kinds = np.where(draw >= 1 - bad, MALFORMED + chance.integers(len(DAMAGES), size=count), kinds)
        kinds = np.concatenate([self.kinds, kinds])
        numbers = np.arange(len(kinds))
        good = np.flatnonzero(kinds == GOOD)
        for_copies = np.flatnonzero(kinds[low:] == DUPLICATE) + low
        earlier = np.searchsorted(good, for_copies)
        # A copy needs an original: the first messages of a partition are good ones.
        kinds[for_copies[earlier == 0]] = GOOD
        for_copies, earlier = for_copies[earlier > 0], earlier[earlier > 0]
        back = np.minimum(chance.geometric(0.01, len(earlier)), earlier)
        far = chance.random(len(earlier)) < 0.2
        back = np.where(far, chance.integers(1, earlier + 1), back)
        numbers[for_copies] = good[earlier - back]
        self.kinds, self.numbers = kinds, np.concatenate([self.numbers, numbers[low:]])


class Load:
    """Messages for a use case's topics.

    Args:
        name: the use case's.
        seed: of everything that is chosen.
        epoch: part of every event's id; another one makes other events.
        repeats: the events are in the lake already (from a deleted topic of the same name), so that all good ones
            are duplicates.
    """

    def __init__(self, name: str, seed: int, epoch: int = 0, repeats: bool = False) -> None:
        self.usecase = usecase(name)
        self.seed, self.epoch, self.repeats = seed, epoch, repeats
        #: The schema id of each stream, once it is registered.
        self.schemas: dict[str, int] = {}
        self._chance = np.random.default_rng(seed)
        self.partitions = {
            (stream, p): Messages() for stream, s in self.usecase.streams.items() for p in range(s.partitions)
        }

    def __len__(self) -> int:
        return sum(len(messages.kinds) for messages in self.partitions.values())

    @property
    def copies(self) -> int:
        """How many messages are planned as copies of an event."""
        return sum(int((messages.kinds == DUPLICATE).sum()) for messages in self.partitions.values())

    @property
    def malformed(self) -> int:
        """How many messages are malformed."""
        return sum(int((messages.kinds >= MALFORMED).sum()) for messages in self.partitions.values())

    def kinds(self, stream: str, partition: int) -> Ints:
        """`GOOD`, `DUPLICATE` or `MALFORMED` for each offset."""
        kinds = np.minimum(self.partitions[stream, partition].kinds, MALFORMED)
        return np.where(kinds == GOOD, DUPLICATE, kinds) if self.repeats else kinds

    def ids(self, stream: str, partition: int, numbers: Ints) -> list[str]:
        """The events' ids."""
        head = f"{stream}-{self.epoch}-{partition}-"
        return [f"{head}{n}" for n in numbers.tolist()]

    def columns(self, stream: str, partition: int, numbers: Ints) -> pa.Table:
        """The events with these numbers, as a table must show them."""
        return pa.table(
            {
                "event_id": pa.array(self.ids(stream, partition, numbers), pa.string()),
                "order_id": pa.array([f"o{partition}-{n}" for n in (numbers % KEYS).tolist()], pa.string()),
                "placed_at": pa.array(_START + numbers.astype("m8[s]"), pa.timestamp("us", "UTC")),
                "amount": pa.array(numbers % 1000 / 4),
                "serial": pa.array(numbers),
                "gift": pa.array(numbers % 2 == 0),
                "city": pa.array(_CITIES[numbers % 3], pa.string()),
            }
        )

    def messages(self, stream: str, partition: int, low: int, high: int) -> tuple[list[bytes | None], list[bytes]]:
        """Values and keys of the messages at offsets ``low <= offset < high``."""
        planned = self.partitions[stream, partition]
        kinds, numbers = planned.kinds[low:high], planned.numbers[low:high]
        moments = np.datetime_as_string(_START + numbers.astype("m8[s]"), unit="s").tolist()
        lead = f'{{"event_id":"{stream}-{self.epoch}-{partition}-'
        middle = f'","order_id":"o{partition}-'
        head = b"\0" + self.schemas[stream].to_bytes(4, "big")
        cities = ('"Paris"', '"Łódź"', "null")
        values: list[bytes | None] = [
            head
            + (
                f'{lead}{n}{middle}{n % KEYS}","placed_at":"{moment}Z","amount":{n % 1000 / 4},"serial":{n},'
                f'"gift":{"false" if n % 2 else "true"},"city":{cities[n % 3]}}}'
            ).encode()
            for n, moment in zip(numbers.tolist(), moments, strict=True)
        ]
        for at in np.flatnonzero(kinds >= MALFORMED).tolist():
            good = values[at]
            assert good is not None
            seed = (self.seed << 40) + (partition << 36) + low + at
            values[at] = malformed(good, int(kinds[at]) - MALFORMED, seed, MAX_BYTES)
        return values, [f"o{partition}-{n % KEYS}".encode() for n in numbers.tolist()]

    def plan(self, count: int, duplicates: float = 0.05, bad: float = 0.02) -> dict[tuple[str, int], tuple[int, int]]:
        """Plan about `count` more messages, spread evenly.

        Args:
            count: how many.
            duplicates, bad: the shares of copies and of malformed messages.

        Returns:
            For each partition the offsets ``[low, high)`` that are new.
        """
        share = -(-count // len(self.partitions))
        found = {}
        for at, messages in self.partitions.items():
            low = len(messages.kinds)
            messages.extend(share, duplicates, bad, self._chance)
            found[at] = low, low + share
        return found


def blocks(spans: dict[tuple[str, int], tuple[int, int]]) -> Iterator[tuple[str, int, int, int]]:
    """Stream, partition, low and high of pieces that are produced in turn."""
    for start in range(0, max(high - low for low, high in spans.values()), _BLOCK):
        for (stream, partition), (low, high) in spans.items():
            if low + start < high:
                yield stream, partition, low + start, min(high, low + start + _BLOCK)


def produce(kafka: str, load: Load, spans: dict[tuple[str, int], tuple[int, int]], seconds: float = 120.0) -> None:
    """Send planned messages, each once and in order; returns when the broker has them all.

    Args:
        kafka: the broker.
        load: the messages.
        spans: as `Load.plan` gave them.
        seconds: how long a broker that is away is waited for.

    Raises:
        AssertionError: the broker refused a message, or was away too long.
    """
    failures: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": kafka, "enable.idempotence": True, "acks": "all", "linger.ms": 5,
            "message.timeout.ms": 0, "queue.buffering.max.messages": 1_000_000, "reconnect.backoff.max.ms": 200,
            "log_level": 0, "delivery.report.only.error": True,
            "on_delivery": lambda error, _: failures.append(str(error)) if error else None,
        }
    )  # fmt: skip
    for stream, partition, low, high in blocks(spans):
        values, keys = load.messages(stream, partition, low, high)
        while len(producer) > 5 * _BLOCK:
            producer.poll(0.05)
        batch = [{"value": v, "key": k} for v, k in zip(values, keys, strict=True)]
        queued = producer.produce_batch(load.usecase.topic(stream), batch, partition)
        assert queued == len(batch), "the producer's queue is full"
    deadline = time.monotonic() + seconds
    while producer.flush(0.5):
        assert time.monotonic() < deadline, "the broker takes no messages"
    assert not failures, failures[0]
