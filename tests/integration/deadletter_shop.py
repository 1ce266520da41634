"""Orders of which some break their contract, and what became of them in the topic and in the lake."""

from __future__ import annotations

import uuid
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from fasttrack.ingest.broker import Broker
from fasttrack.ingest.outbox import HEADER
from fasttrack.ingest.scan import scan
from fasttrack.ingest.schemas import register
from fasttrack.lake.tables import read_raw
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.unit.ingest_usecase import event, message, usecase

ROOT = Path(__file__).parents[2]
GOOD = 10
NO_EVENTS = 4

_FIX = """
import json

def mend(value, key):
    if not value.startswith(b"\\0"):
        return None
    document = json.loads(value[5:])
    document["pieces"] = int(document["pieces"].split()[0])
    return value[:5] + json.dumps(document).encode()
"""


def new_shop(settings: Settings, partitions: int = 3) -> UseCase:
    """A use case with a name of its own, and its topics."""
    made = usecase(f"shop-{uuid.uuid4().hex[:8]}", partitions=partitions)
    Broker(settings.kafka).create({made.topic(name): stream.partitions for name, stream in made.streams.items()})
    return made


def fix_file(folder: Path) -> str:
    """What `--fix` takes: it mends the orders that `orders` broke."""
    (folder / "fix.py").write_text(_FIX)
    return f"{folder / 'fix.py'}:mend"


def send(settings: Settings, case: UseCase, messages: list[tuple[bytes, bytes]]) -> None:
    """Values and keys, each key in its partition."""
    producer = Producer({"bootstrap.servers": settings.kafka})
    for value, key in messages:
        producer.produce(case.topic("placed"), value, key, zlib.crc32(key) % case.streams["placed"].partitions)
    assert producer.flush(30) == 0


def orders(settings: Settings, case: UseCase, broken: int, **changes: Any) -> list[tuple[bytes, bytes]]:
    """`GOOD` events, `broken` ones (changed as said) with words for a number, `NO_EVENTS` that are no events at all."""
    schema = register(settings, case, "placed")
    good = [event(n) for n in range(GOOD)]
    worded = [event(n, pieces=f"{n} pieces", **changes) for n in range(GOOD, GOOD + broken)]
    sent = [(message(one, schema), one["order_id"].encode()) for one in (*good, *worded)]
    return [*sent, *((b"\xff\xfe[bold]" + bytes([n]), b"nobody") for n in range(NO_EVENTS))]


def sent_again(settings: Settings, case: UseCase) -> Counter[bytes]:
    """The dead letters that the messages of the topic name."""
    broker = Broker(settings.kafka)
    topics = broker.topics([case.topic("placed")])
    found: Counter[bytes] = Counter()
    for (name, partition), held in broker.offsets(topics).items():
        for one in scan(broker, name, partition, held.earliest, held.latest - 1):
            found.update(value for header, value in one.headers() or [] if header == HEADER)
    return found


def landed(settings: Settings, case: UseCase) -> list[str]:
    return sorted(read_raw(settings, case, "placed", ["event_id"])["event_id"].to_pylist())
