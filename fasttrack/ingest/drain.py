"""Kafka to Delta tables, each event exactly once: the parent of the workers.

The algorithm is in DESIGN.md ("Exactly-once drain"): offsets and data are one Delta commit, so it does not matter
when, or how often, any process here dies.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Literal

from fasttrack.ingest import schemas
from fasttrack.ingest.broker import Broker, Offsets, Topic
from fasttrack.ingest.crew import Crew, Progress
from fasttrack.ingest.job import Job
from fasttrack.ingest.lateness import moment
from fasttrack.ingest.marks import Marks, levels, marks
from fasttrack.ingest.metrics import DrainMetrics, serving
from fasttrack.ingest.partition import app_id, begin
from fasttrack.ingest.records import Records
from fasttrack.ingest.report import DrainReport, StreamDrain
from fasttrack.ingest.upkeep import compacting
from fasttrack.lake.append import Fenced, Ledger
from fasttrack.lake.compaction import Compaction
from fasttrack.lake.conditional import require_conditional_put
from fasttrack.lake.schemas import DEAD_LETTERS, DUPLICATES, raw_schema
from fasttrack.lake.storage import riding_out
from fasttrack.lake.tables import dead_letters_path, duplicates_path, ensure, raw_path, root
from fasttrack.progress import note, track
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

# The broker refuses less than 6 s by default (group.min.session.timeout.ms).
SESSION_SECONDS = 6.0
_LOOK_SECONDS = 2.0
# A batch costs some 20 ms for its commits and up to three files, and some 300 bytes of memory an event.
BATCH_EVENTS = 200_000


class Lake:
    """The tables of a use case as the drain's parent sees them."""

    def __init__(self, usecase: UseCase, settings: Settings, cluster: str, topics: dict[str, Topic]) -> None:
        self._usecase, self._settings, self._cluster, self._topics = usecase, settings, cluster, topics

    def ensure(self) -> None:
        """Create what is missing, so that workers don't race for it.

        Raises:
            StorageError: the disk refused.
            ConfigurationError: the object store would let workers overwrite each other's commits.
        """
        require_conditional_put(root(self._settings, self._usecase))
        for name, stream in self._usecase.streams.items():
            ensure(raw_path(self._settings, self._usecase, name), raw_schema(stream))
        ensure(duplicates_path(self._settings, self._usecase), DUPLICATES)
        ensure(dead_letters_path(self._settings, self._usecase), DEAD_LETTERS)

    def start(self, held: Mapping[tuple[str, int], Offsets]) -> Marks:
        """For each partition the first offset that some table lacks.

        Where a partition that holds nothing begins is noted, so that what Kafka deletes before we come again is missed.

        Args:
            held: what the partitions hold, by stream and partition.

        Raises:
            StorageError: the lake can't be read or written.
        """
        found = levels(self._usecase, self._settings, self._cluster, self._topics)
        shared = [duplicates_path(self._settings, self._usecase), dead_letters_path(self._settings, self._usecase)]
        for (name, partition), level in found.items():
            offsets = held[name, partition]
            if level.landed is None and offsets.earliest == offsets.latest:
                paths = [raw_path(self._settings, self._usecase, name), *shared]
                app = app_id(self._cluster, self._topics[name], partition)
                # Somebody else may begin it in this moment, and does what we want.
                with suppress(Fenced):
                    begin([Ledger(path, app) for path in paths], offsets.earliest)
        return {at: level.reached(held[at].earliest) for at, level in found.items()}

    def paths(self) -> list[str]:
        """Where the tables lie that a drain appends to."""
        raw = [raw_path(self._settings, self._usecase, name) for name in self._usecase.streams]
        shared = [duplicates_path(self._settings, self._usecase), dead_letters_path(self._settings, self._usecase)]
        return raw + shared

    def marks(self, lowest: dict[tuple[str, int], int]) -> Marks:
        """For each partition the first offset that some table lacks; `lowest` where nothing was drained yet."""
        return marks(self._usecase, self._settings, self._cluster, self._topics, lowest)

    def count(self, start: Marks, end: Marks) -> dict[str, StreamDrain]:
        """What the offsets ``start <= offset < end`` became, counted in the tables."""
        found = {}
        for name, topic in self._topics.items():
            spans = [(start[name, p], end[name, p]) for p in range(topic.partitions)]
            landed, again, dead = Records(self._usecase, self._settings, name, topic.id).count(spans)
            found[name] = StreamDrain(landed + again + dead, landed, again, dead)
        return found


@riding_out()
def drain(
    usecase: UseCase,
    settings: Settings,
    *,
    workers: int = 2,
    until: Literal["end", "forever"] = "end",
    group: str | None = None,
    session_seconds: float = SESSION_SECONDS,
    batch_events: int = BATCH_EVENTS,
    metrics: tuple[str, int] | None = None,
) -> DrainReport:
    """Move the streams' events into the lake.

    One without end puts small files together by itself (`fasttrack.ingest.upkeep`).

    May run any number of times at once, here or elsewhere: partitions are shared within a group, and no offset is
    ever written twice. SIGTERM makes it finish what is buffered and return.

    Args:
        usecase: whose streams.
        settings: needs `kafka`, `schema_registry` and `lake`.
        workers: processes.
        until: ``end``: what the topics hold now; ``forever``: until SIGTERM or Ctrl-C.
        group: the consumer group; default ``fasttrack.<use case>.drain``.
        session_seconds: after how long a silent worker's partitions go to another.
        batch_events: how many events of a partition are committed together at most.
        metrics: host and port to serve Prometheus metrics on.

    Raises:
        NotFoundError: a topic is missing.
        DataLossError: the broker no longer has events that the lake lacks, or a topic was deleted meanwhile.
        StorageError: the lake can't be written; nothing is lost, drain again.
        UnavailableError: broker, schema registry or object store do not answer for minutes; nothing is lost,
            drain again.
        KeyboardInterrupt: Ctrl-C before the end, after what was buffered is committed.
        ConfigurationError: the metrics can't be served there, or the lake's object store would let workers overwrite
            each other's commits.
    """
    began = time.monotonic()
    broker = Broker.at(settings)
    broker.greet()
    topics = broker.require([usecase.topic(name) for name in usecase.streams])
    by_stream = {name: topics[usecase.topic(name)] for name in usecase.streams}
    for name in usecase.streams:
        schemas.register(settings, usecase, name)
    cluster = broker.cluster_id()
    lake = Lake(usecase, settings, cluster, by_stream)
    lake.ensure()
    held = {(name, p): o for name, t in by_stream.items() for (topic, p), o in broker.offsets({t.name: t}).items()}
    lowest = {at: offsets.earliest for at, offsets in held.items()}
    start, end = lake.start(held), {at: offsets.latest for at, offsets in held.items()}
    left = {at for at in end if start[at] < end[at]}
    if not left and until == "end":
        return DrainReport({n: StreamDrain() for n in usecase.streams}, seconds=time.monotonic() - began, reused=True)
    ends = {n: [end[n, p] for p in range(t.partitions)] for n, t in by_stream.items()} if until == "end" else {}
    group = group or f"fasttrack.{usecase.name}.drain"
    # A topic with nothing left is not subscribed to: workers get equal numbers of partitions, whatever is in them.
    wanted = set(by_stream) if until == "forever" else {name for name, _ in left}
    busy = {name: topic for name, topic in by_stream.items() if name in wanted}
    job = Job(usecase, settings, cluster, busy, ends, group, session_seconds, batch_events)
    report = DrainReport()
    total = sum(end[at] - start[at] for at in left) if until == "end" else None
    with _measured(settings, by_stream, metrics) as measured, track("Draining", total, "events") as bar:
        tally = _Tally(report, bar.advance, measured)
        tended = lake.paths() if until == "forever" else []
        with (
            compacting(tended, tally.compacted) as upkeep,
            Crew(job, min(workers, sum(topic.partitions for topic in busy.values()))) as crew,
        ):
            try:
                _follow(crew, lake, lowest, end if until == "end" else None, left, tally)
            except KeyboardInterrupt:
                # The way to end what has no end; whoever wanted an end did not get it.
                if until == "end":
                    raise
            finally:
                # The workers end first, as whoever stops us does not wait for long.
                upkeep.set()
        for said in crew.last_words():
            tally.add(said)
    report.workers = crew.started
    reached = lake.marks(lowest)
    report.complete = until == "end" and all(reached[at] >= end[at] for at in end)
    report.streams = lake.count(start, {at: max(start[at], reached[at]) for at in reached})
    tally.complete()
    report.seconds = time.monotonic() - began
    return report


@contextmanager
def _measured(
    settings: Settings, topics: dict[str, Topic], at: tuple[str, int] | None
) -> Iterator[DrainMetrics | None]:
    if at is None:
        yield None
        return
    broker = Broker.at(settings, patience=_LOOK_SECONDS)
    streams = {topic.name: name for name, topic in topics.items()}

    def ends() -> dict[tuple[str, int], Offsets]:
        held = broker.offsets({topic.name: topic for topic in topics.values()})
        return {(streams[name], partition): offsets for (name, partition), offsets in held.items()}

    made = DrainMetrics(topics, ends)
    with serving(made, *at) as port:
        note(f"Metrics: http://{at[0]}:{port}/metrics")
        yield made


class _Tally:
    """Adds up what the workers say."""

    def __init__(
        self, report: DrainReport, advance: Callable[[float], None], metrics: DrainMetrics | None = None
    ) -> None:
        self._report, self._advance, self._metrics = report, advance, metrics
        self._late: Counter[str] = Counter()
        self._watermarks: dict[str, int] = {}

    def add(self, said: Progress) -> None:
        self._advance(said.events)
        self._report.files += said.files
        self._report.bytes += said.bytes
        self._late[said.stream] += said.late
        if said.watermark is not None:
            self._watermarks[said.stream] = max(said.watermark, self._watermarks.get(said.stream, said.watermark))
        if self._metrics is not None:
            self._metrics.observe(said)

    def look(self, restarted: int) -> None:
        if self._metrics is not None:
            self._metrics.look(restarted)

    def compacted(self, done: Compaction) -> None:
        if self._metrics is not None:
            self._metrics.compacted(done.replaced)

    def complete(self) -> None:
        for name, drained in self._report.streams.items():
            drained.late, drained.watermark = self._late[name], moment(self._watermarks.get(name))


def _follow(
    crew: Crew, lake: Lake, lowest: Marks, end: Marks | None, left: set[tuple[str, int]], tally: _Tally
) -> None:
    """Listen to the workers until all partitions are at their end, or a stop is asked for."""
    looked = time.monotonic()
    while not crew.stopping and (end is None or left):
        said = crew.listen(_LOOK_SECONDS)
        tally.look(crew.replaced)
        if isinstance(said, Progress):
            tally.add(said)
            if end is not None and said.mark >= end.get((said.stream, said.partition), 0):
                left.discard((said.stream, said.partition))
        if end is not None and left and time.monotonic() - looked > _LOOK_SECONDS:
            # Another drain of the group may have taken partitions, or a worker died after its commit.
            reached = lake.marks(lowest)
            left -= {at for at in left if reached[at] >= end[at]}
            looked = time.monotonic()
