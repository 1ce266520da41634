"""The judge of an ingester: reads Kafka by itself, headers included."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, TopicPartition

from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Sent:
    """One message: where it is, whose record it holds, and what."""

    partition: int
    offset: int
    source: str
    key: bytes | None
    value: bytes

    @property
    def event(self) -> Any:
        return orjson.loads(self.value[5:])


def sent(settings: Settings, usecase: UseCase, stream: str) -> list[Sent]:
    """Every message of a stream's topic, by partition and offset."""
    consumer = Consumer({"bootstrap.servers": settings.kafka, "group.id": "oracle", "enable.auto.commit": False})
    topic, found = usecase.topic(stream), []
    try:
        for partition in range(usecase.streams[stream].partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
            consumer.assign([TopicPartition(topic, partition, low)])
            at = low
            while at < high:
                for message in consumer.consume(1000, 1.0):
                    assert message.error() is None
                    names = [value.decode() for name, value in message.headers() or [] if name == "source"]
                    assert len(names) == 1, "each message names its source once"
                    found.append(Sent(partition, message.offset(), names[0], message.key(), message.value()))
                    at = message.offset() + 1
    finally:
        consumer.close()
    return found


def once(messages: list[Sent], identities: list[str]) -> None:
    """Assert that these records, and no others, are there, each exactly once."""
    got, wanted = Counter(message.source for message in messages), Counter(identities)
    lost, invented = sorted(wanted - got), sorted(set(got) - set(wanted))
    twice = sorted(name for name, count in got.items() if count > 1)
    assert not lost, f"lost {len(lost)}: {lost[:5]}"
    assert not twice, f"twice {len(twice)}: {twice[:5]}"
    assert not invented, f"never there {len(invented)}: {invented[:5]}"


class Ingester:
    """`fasttrack ingest` as a process, to be killed and stopped."""

    def __init__(self, settings: Settings, file: Path, *words: str, until: str = "forever") -> None:
        environment = {**os.environ, **settings.to_environment(), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "fasttrack", "--json", "ingest", *words]
        command += ["--usecase", str(file), "--until", until]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def kill(self) -> str:
        """kill -9; what it had said."""
        self.process.kill()
        return self.process.communicate()[1]

    def finish(self, seconds: float = 180.0) -> tuple[int, str, str]:
        """Wait for its end: exit code, stdout, stderr."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self.process.returncode, out, err


def wait_for(condition: Any, what: str, process: Ingester | None = None, seconds: float = 120.0) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and process.process.poll() is not None:
            raise AssertionError(f"ended while waiting for {what}: {process.finish()}")
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
