"""Drain throughput against a consumer that only counts, in the same run on the same messages.

    python tests/bench/bench_drain.py [--sample 1.0] [--workers 2]

Starts a platform of its own, replays the flights example, counts, drains, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
import uuid
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from fasttrack.ingest.broker import Broker
from fasttrack.ingest.drain import drain
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.replay import replay
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, load
from tests.local_homes import running_platform

ROOT = Path(__file__).parents[2]


def count(settings: Settings, usecase: UseCase) -> tuple[int, float]:
    """Messages and seconds of one consumer that reads every partition and only counts."""
    broker = Broker(settings.kafka)
    held = broker.offsets(broker.require([usecase.topic(name) for name in usecase.streams]))
    wanted = sum(offsets.latest - offsets.earliest for offsets in held.values())
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka, "group.id": uuid.uuid4().hex, "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, partition, held[topic, partition].earliest) for topic, partition in held])
    began, found = time.monotonic(), 0
    while found < wanted:
        found += len(consumer.consume(20_000, 0.5))
    seconds = time.monotonic() - began
    consumer.close()
    return found, seconds


def cpu_seconds() -> float:
    """Processor time of all ended children so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    usecase = load(ROOT / "examples" / "flights" / "usecase.yaml")
    with running_platform(["kafka", "schema_registry"]) as platform:
        settings = platform.settings()
        sent = replay(usecase, settings, sample=options.sample)
        messages, counting = count(settings, usecase)
        before = cpu_seconds()
        drained = drain(usecase, settings, workers=options.workers)
        cpu = cpu_seconds() - before
        balanced = reconcile(usecase, settings).balanced
    million = messages / 1e6
    print(
        json.dumps(
            {
                "messages": messages,
                "balanced": balanced,
                "workers": drained.workers,
                "replay_seconds": round(sent.seconds, 2),
                "count_seconds": round(counting, 2),
                "drain_seconds": round(drained.seconds, 2),
                "drain_to_count_ratio": round(counting / drained.seconds, 3),
                "drain_cpu_seconds_a_million": round(cpu / million, 2),
                "files": drained.files,
                "load_average": os.getloadavg(),
                "processors": os.cpu_count(),
            }
        )
    )


if __name__ == "__main__":
    main()
