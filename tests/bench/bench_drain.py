"""The drain against a consumer that only counts and against Spark's file sink: the same messages, one run.

    python tests/bench/bench_drain.py [--events 2000000] [--workers 2] [--only json,avro] [--without-spark]

Starts a platform of its own; prints a table, and one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition

from fasttrack.ingest.broker import Broker
from fasttrack.ingest.drain import drain
from fasttrack.ingest.reconcile import reconcile
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.bench import drain_load, spark_sink
from tests.local_homes import running_platform

ROOT = Path(__file__).parents[2]
_LOOK_SECONDS = 0.25


_NO_PAUSE = {"fetch.queue.backoff.ms": 10}
#: Counters: how many messages each asks for at once, and what it sets. `poll` is how a consumer is mostly written;
#: `batches` asks for many at once, and `few` for so few that they stay in the processor's cache. By default a client
#: whose queue was full waits for a second; the last two don't.
COUNTERS: dict[str, tuple[int, dict[str, Any]]] = {
    "poll": (1, {}),
    "batches": (20_000, _NO_PAUSE),
    "few": (300, _NO_PAUSE),
}


def count(settings: Settings, case: UseCase, counter: str) -> tuple[int, float, float]:
    """Messages, seconds and CPU seconds of one consumer that reads every partition and only counts."""
    at_once, further = COUNTERS[counter]
    broker = Broker(settings.require("kafka"))
    held = broker.offsets(broker.require([case.topic(drain_load.STREAM)]))
    wanted = sum(offsets.latest - offsets.earliest for offsets in held.values())
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka, "group.id": uuid.uuid4().hex, "enable.auto.commit": False} | further
    )
    consumer.assign([TopicPartition(topic, partition, held[topic, partition].earliest) for topic, partition in held])
    began, cpu, found = time.monotonic(), time.process_time(), 0
    while found < wanted:
        found += len(consumer.consume(at_once, 0.5)) if at_once > 1 else consumer.poll(0.5) is not None
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    consumer.close()
    return found, seconds, cpu


def cpu_seconds() -> float:
    """Processor time of this process and all ended children so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    return sum(u.ru_utime + u.ru_stime for u in used)


@dataclass
class Memory:
    """Resident memory in MB, as time goes by.

    Attributes:
        seen: of the drain's workers together.
        parent: of the drain's parent, which is this process: what it has more than before the drain.
    """

    seen: list[float] = field(default_factory=list)
    parent: list[float] = field(default_factory=list)

    def at(self, share: float) -> float:
        """The most of the workers until this share of the time."""
        return _most(self.seen, share)

    def parent_at(self, share: float) -> float:
        """The most of the parent until this share of the time."""
        return _most(self.parent, share)


def _most(seen: list[float], share: float) -> float:
    return round(max(seen[: max(1, round(len(seen) * share))], default=0.0))


@contextmanager
def watched() -> Iterator[Memory]:
    """Look at the memory of this process and of the worker processes that it starts."""
    memory, ended, itself = Memory(), threading.Event(), psutil.Process()
    # What counting and producing left behind is no part of the drain, which must not find room in it either.
    gc.collect()
    pa.default_memory_pool().release_unused()
    before = itself.memory_info().rss

    def look() -> None:
        while not ended.wait(_LOOK_SECONDS):
            memory.parent.append((itself.memory_info().rss - before) / 2**20)
            total = 0
            for child in itself.children(recursive=True):
                try:
                    if "fasttrack.ingest.process" in child.cmdline():
                        total += child.memory_info().rss
                except psutil.Error:
                    continue
            if total:
                memory.seen.append(total / 2**20)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield memory
    finally:
        ended.set()
        thread.join()


def measure(settings: Settings, encoding: str, events: int, workers: int, spark: bool) -> dict[str, Any]:
    """Produce, count, drain (and let Spark write): what each took."""
    case = drain_load.usecase(f"bench-{encoding}", encoding)
    print(f"{encoding}: producing {events:,} events", file=sys.stderr, flush=True)
    size = drain_load.produce(case, settings, events)
    counted = {counter: count(settings, case, counter) for counter in COUNTERS}
    messages = counted["poll"][0]
    with watched() as memory:
        before = cpu_seconds()
        drained = drain(case, settings, workers=workers)
        cpu = cpu_seconds() - before
    balance = reconcile(case, settings, [drain_load.STREAM])
    found: dict[str, Any] = {
        "encoding": encoding,
        "messages": messages,
        "bytes_a_message": round(size / messages),
        "balanced": balance.balanced,
        "landed": balance.total.landed,
        "duplicates": balance.total.duplicates,
        "dead_lettered": balance.total.dead_lettered,
        "drain_seconds": round(drained.seconds, 2),
        "drain_cpu_seconds_a_million": round(cpu / messages * 1e6, 2),
        "worker_memory_mb": {"at 25%": memory.at(0.25), "at 50%": memory.at(0.5), "at the end": memory.at(1.0)},
        # With the counting at its end, for which the workers are gone.
        "parent_memory_mb": {"at 50%": memory.parent_at(0.5), "at the end": memory.parent_at(1.0)},
        "files": drained.files,
    }
    for counter, (_, counting, counting_cpu) in counted.items():
        found |= {
            f"count_{counter}_seconds": round(counting, 2),
            f"count_{counter}_cpu_seconds_a_million": round(counting_cpu / messages * 1e6, 2),
            f"drain_to_count_{counter}_ratio": round(counting / drained.seconds, 3),
        }
    if spark:
        found |= _spark(settings, case, counted["batches"][1], drained.seconds)
    return found


def _spark(settings: Settings, case: UseCase, counting: float, draining: float) -> dict[str, Any]:
    """Spark's file sink alone, and with the checks and the dedup of the drain."""
    found: dict[str, Any] = {}
    for name, checked in (("spark", False), ("spark_checked", True)):
        with tempfile.TemporaryDirectory() as folder:
            wrote = spark_sink.write(settings, case, Path(folder), checked=checked)
        found |= {
            f"{name}_rows": wrote.rows,
            f"{name}_seconds": round(wrote.seconds, 2),
            f"{name}_start_seconds": round(wrote.start_seconds, 2),
            f"{name}_to_count_batches_ratio": round(counting / wrote.seconds, 3),
            f"drain_to_{name}_ratio": round(wrote.seconds / draining, 2),
        }
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="json,avro", help="encodings")
    parser.add_argument("--without-spark", action="store_true", help="leave Spark's file sink out")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    results = []
    with running_platform(["kafka", "schema_registry"]) as platform:
        for encoding in options.only.split(","):
            spark = encoding == "json" and not options.without_spark
            results.append(measure(platform.settings(), encoding, options.events, options.workers, spark))
    for found in results:
        print("\n".join(f"{name:30} {value}" for name, value in found.items()), end="\n\n")
    conditions = {"load_average": os.getloadavg(), "processors": os.cpu_count(), "workers": options.workers}
    print(json.dumps({"results": results, **conditions}))


if __name__ == "__main__":
    main()
