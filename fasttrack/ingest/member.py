"""A drain worker's consumer: a member of the group, that starts where it is told and commits nothing by itself."""

from __future__ import annotations

from confluent_kafka import Consumer

from fasttrack.ingest.broker import client_settings
from fasttrack.ingest.job import Job

_HEARTBEAT_SECONDS = 0.5


def member(job: Job) -> Consumer:
    """A consumer of the job's group that gives up partitions one by one (cooperative rebalance).

    What it fetches ahead is bounded: 32 MiB, so a worker that is slow to write holds the broker back, not memory.
    """
    return Consumer(
        client_settings(job.settings.require("kafka"))
        | {
            "group.id": job.group,
            "enable.auto.commit": False,
            # The truth about offsets is in the tables: to start anywhere else would lose or repeat.
            "auto.offset.reset": "error",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": int(job.session_seconds * 1000),
            "heartbeat.interval.ms": int(_HEARTBEAT_SECONDS * 1000),
            "max.partition.fetch.bytes": 4 * 2**20,
            "queued.max.messages.kbytes": 32 * 2**10,
            "queued.min.messages": 100_000,
            "fetch.wait.max.ms": 50,
            "enable.partition.eof": True,
        }
    )
