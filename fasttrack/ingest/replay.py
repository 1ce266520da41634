"""Publish a use case's history to Kafka, in event-time order, with declared disturbances."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from fasttrack.ingest import schemas
from fasttrack.ingest.broker import Broker, Topic
from fasttrack.ingest.marker import Marker, Markers, TopicMark, fetch
from fasttrack.ingest.plan import StreamPlan, blocks, plan
from fasttrack.ingest.publisher import Publisher
from fasttrack.ingest.source import Source
from fasttrack.progress import note, track
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

_BLOCK = 10_000
_BLOCKS_A_SECOND = 10


@dataclass(frozen=True)
class StreamReplay:
    """What a stream's topic holds of the replay: `produced` = events + duplicates + malformed."""

    events: int
    duplicates: int
    malformed: int
    produced: int


@dataclass(frozen=True)
class ReplayReport:
    """What was published.

    Attributes:
        streams: the whole replay's counts by stream.
        produced: messages of the whole replay that the topics hold now.
        sent: how many of them this run sent.
        reused: the topics held exactly this replay already.
        digest: names the replay: source, contracts, settings, sample, seed.
        seconds: how long it took.
    """

    streams: dict[str, StreamReplay] = field(default_factory=dict)
    produced: int = 0
    sent: int = 0
    reused: bool = False
    digest: str = ""
    seconds: float = 0.0


def replay(
    usecase: UseCase,
    settings: Settings,
    *,
    sample: float = 1.0,
    rate: float | None = None,
    seed: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    source: Source | None = None,
) -> ReplayReport:
    """Publish the events of all streams, merged by event time.

    Topics are created and schemas registered as needed. Run again with the same arguments it sends nothing; after
    an interruption it sends what is missing.

    Args:
        usecase: a use case with a ``replay`` part.
        settings: needs `kafka` and `schema_registry`.
        sample: the share of the prediction's entities whose events are sent.
        rate: messages a second; as fast as possible if absent.
        seed: of duplicates, disorder and damage; default ``replay.seed``.
        on_progress: called with the number of messages just queued; default: a progress bar.
        source: the use case's source, if it is being loaded already.

    Raises:
        UseCaseError: there is nothing to replay.
        DataQualityError: the source's events don't fit the contracts.
        ConflictError: a topic or schema differs from the use case's.
        UnavailableError: the broker or the schema registry does not answer.
    """
    started = time.monotonic()
    source = source or Source(usecase)
    seed = seed if seed is not None or usecase.replay is None else usecase.replay.seed
    digest = source.digest(sample, seed or 0)
    broker = Broker.at(settings)
    broker.greet()
    ids = {name: schemas.register(settings, usecase, name) for name in usecase.streams}
    broker.create({usecase.topic(name): stream.partitions for name, stream in usecase.streams.items()})
    topics = broker.require([usecase.topic(name) for name in usecase.streams])
    markers = Markers(broker, usecase.name)
    marker = markers.read()
    sent = _sent(broker, topics, marker, digest)
    if sent is not None and marker is not None and all(sent[t] == m.planned for t, m in marker.topics.items()):
        produced = sum(map(sum, sent.values()))
        streams = {name: StreamReplay(**counts) for name, counts in marker.streams.items()}
        return ReplayReport(streams, produced, 0, True, digest, time.monotonic() - started)
    plans = {n: plan(usecase, n, events, seed or 0) for n, events in source.events(sample).items()}
    if sent is None or not _is_prefix(broker, marker, plans, sent, ids):
        sent = {p.topic: [0] * p.stream.partitions for p in plans.values()}
        markers.write(_marker(broker, topics, plans, digest))
    left = {name: p.without(sent[p.topic]) if any(sent[p.topic]) else p for name, p in plans.items()}
    count = _publish(broker, left, ids, rate, on_progress)
    streams = {name: _summary(p) for name, p in plans.items()}
    total = sum(s.produced for s in streams.values())
    return ReplayReport(streams, total, count, False, digest, time.monotonic() - started)


def _sent(broker: Broker, topics: dict[str, Topic], marker: Marker | None, digest: str) -> dict[str, list[int]] | None:
    """How much of the replay each partition has; None if the topics were not begun with this very replay."""
    if marker is None or marker.digest != digest or set(marker.topics) != set(topics):
        return None
    if any(topics[name].id != mark.topic_id for name, mark in marker.topics.items()):
        return None
    held = broker.offsets(topics)
    return {
        name: [min(held[name, p].latest - m.start[p], count) for p, count in enumerate(m.planned)]
        for name, m in marker.topics.items()
    }


def _is_prefix(
    broker: Broker, marker: Marker | None, plans: dict[str, StreamPlan], sent: dict[str, list[int]], ids: dict[str, int]
) -> bool:
    """Whether the partitions hold what was sent: the last message of each must be the one that stands there."""
    if marker is None:
        return False
    for name, p in plans.items():
        for partition, count in enumerate(sent[p.topic]):
            at = marker.topics[p.topic].start[partition] + count - 1
            if count and [v for _, v in fetch(broker, p.topic, partition, at, at + 1)] != [
                p.last(partition, count, ids[name])
            ]:
                note(f"{p.topic}: somebody else wrote there too, so the replay begins anew (copies are duplicates)")
                return False
    note(f"going on with a replay that was cut short: {sum(map(sum, sent.values())):,} messages are there")
    return True


def _marker(broker: Broker, topics: dict[str, Topic], plans: dict[str, StreamPlan], digest: str) -> Marker:
    held = broker.offsets(topics)
    marks = {}
    for p in plans.values():
        start = [held[p.topic, partition].latest for partition in range(p.stream.partitions)]
        marks[p.topic] = TopicMark(topics[p.topic].id, start, p.planned())
    return Marker(digest, marks, {name: asdict(_summary(p)) for name, p in plans.items()})


def _publish(
    broker: Broker,
    plans: dict[str, StreamPlan],
    ids: dict[str, int],
    rate: float | None,
    on_progress: Callable[[int], None] | None,
) -> int:
    total = sum(len(p.row) for p in plans.values())
    size = _BLOCK if rate is None else max(1, min(_BLOCK, int(rate / _BLOCKS_A_SECOND)))
    publisher = Publisher(broker)
    began, count = time.monotonic(), 0
    try:
        with track("Replaying", total, "events") as bar:
            for block in blocks(plans, size):
                for name, (low, high) in block.items():
                    _send(publisher, plans[name], low, high, ids[name])
                done = sum(high - low for low, high in block.values())
                count += done
                (on_progress or bar.advance)(done)
                if rate is not None:
                    time.sleep(max(0.0, began + count / rate - time.monotonic()))
            publisher.flush()
    except KeyboardInterrupt:
        publisher.flush()
        note(f"Interrupted: the broker has {publisher.acknowledged:,} of {total:,} messages; run it again to go on.")
        raise
    return count


def _send(publisher: Publisher, p: StreamPlan, low: int, high: int, schema_id: int) -> None:
    values, keys = p.messages(low, high, schema_id)
    partition = p.partition[low:high].tolist()
    messages = [{"value": v, "key": k, "partition": n} for v, k, n in zip(values, keys, partition, strict=True)]
    publisher.send(p.topic, messages)


def _summary(p: StreamPlan) -> StreamReplay:
    malformed = int((p.kind > 0).sum())
    return StreamReplay(len(p.row) - p.duplicates - malformed, p.duplicates, malformed, len(p.row))
