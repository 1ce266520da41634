"""A drain worker's consumer: a member of the group, that starts where it is told and commits nothing by itself."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaException, TopicPartition

from fasttrack.ingest.access import Access
from fasttrack.ingest.job import Job

_HEARTBEAT_SECONDS = 0.5


def member(job: Job, access: Access) -> Consumer:
    """A consumer of the job's group that gives up partitions one by one (cooperative rebalance).

    What it fetches ahead is bounded: 32 MiB, so a worker that is slow to write holds the broker back, not memory.
    """
    return Consumer(
        access.client()
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
            # By default a client whose queue was full does not ask again for a second, in which we could be through.
            "fetch.queue.backoff.ms": 10,
            "enable.partition.eof": True,
        }
    )


def pause(consumer: Consumer, at: tuple[str, int]) -> None:
    """Fetch nothing more of the partition `at` (topic, partition)."""
    try:
        consumer.pause([TopicPartition(*at)])
    except KafkaException:
        # Taken away in the same moment; then there is nothing to pause.
        return


def show_lag(consumer: Consumer, at: tuple[str, int], offset: int) -> None:
    """Tell Kafka how far the lake is: for lag displays only, the truth is in the tables."""
    try:
        consumer.commit(offsets=[TopicPartition(*at, offset)], asynchronous=True)
    except KafkaException:
        # Asked again with the next batch; nothing depends on it.
        return
