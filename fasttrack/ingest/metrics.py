"""The drain's metrics for Prometheus, served by its parent from what the workers say."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from fasttrack.errors import ConfigurationError, UnavailableError
from fasttrack.ingest.broker import Offsets
from fasttrack.ingest.crew import Progress

# Asking the broker for its ends costs two requests; nobody scrapes more often.
_LAG_EVERY_SECONDS = 2.0
# Workers tell every five seconds which partitions they hold, unless they wait for an object store.
_SILENT_SECONDS = 180.0


class DrainMetrics:
    """Counts what a drain does.

    Args:
        streams: their names.
        ends: asked now and then for what the partitions hold, by stream and partition.
    """

    def __init__(self, streams: Iterable[str], ends: Callable[[], Mapping[tuple[str, int], Offsets]]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Summary

        self._ends = ends
        # Where each partition stands that a worker of ours holds, and when it said so.
        self._positions: dict[tuple[str, int], tuple[int, float]] = {}
        self._asked, self._restarted = 0.0, 0
        #: What is served.
        registry = self.registry = CollectorRegistry()
        name, at = "fasttrack_drain_{}".format, ["stream", "partition"]
        self._events = Counter(name("events"), "Messages committed.", ["stream", "outcome"], registry=registry)
        self._late = Counter(name("late"), "Landed events behind the watermark.", ["stream"], registry=registry)
        self._lag = Gauge(name("lag"), "Offsets the topic holds and the lake lacks, or NaN.", at, registry=registry)
        self._watermark = Gauge(name("watermark_seconds"), "Newest event less allowed lateness.", at, registry=registry)
        self._files = Counter(name("files"), "Parquet files written.", registry=registry)
        self._bytes = Counter(name("bytes"), "Bytes of Parquet written.", registry=registry)
        self._commits = Summary(name("commit_seconds"), "Seconds to commit a batch.", ["stream"], registry=registry)
        self._compacted = Counter(name("compacted_files"), "Small files put together.", registry=registry)
        self._restarts = Counter(name("workers_restarted"), "Workers killed and replaced.", registry=registry)
        for stream in streams:
            self._late.labels(stream)
            for outcome in ("landed", "duplicate", "dead_letter"):
                self._events.labels(stream, outcome)

    def observe(self, said: Progress) -> None:
        """Count one commit of a worker."""
        for outcome, count in (("landed", said.landed), ("duplicate", said.duplicates), ("dead_letter", said.dead)):
            self._events.labels(said.stream, outcome).inc(count)
        self._late.labels(said.stream).inc(said.late)
        if said.watermark is not None:
            self._watermark.labels(said.stream, str(said.partition)).set(said.watermark / 1e6)
        self._files.inc(said.files)
        self._bytes.inc(said.bytes)
        if said.events:
            self._commits.labels(said.stream).observe(said.seconds)
        self._positions[said.stream, said.partition] = said.position, time.monotonic()

    def compacted(self, files: int) -> None:
        """Count small files that were put together, into fewer."""
        self._compacted.inc(files)

    def look(self, restarted: int) -> None:
        """Bring up to date what no worker says.

        Args:
            restarted: how many workers were replaced so far.
        """
        self._restarts.inc(restarted - self._restarted)
        self._restarted = restarted
        if time.monotonic() - self._asked < _LAG_EVERY_SECONDS:
            return
        try:
            held = self._ends()
        except UnavailableError:
            # The workers wait for the broker, and say so if it does not come back; here it is only not known.
            held = {}
        for at, (position, when) in list(self._positions.items()):
            if time.monotonic() - when > _SILENT_SECONDS:
                # Another drain has it, and tells of it.
                del self._positions[at]
                self._lag.remove(at[0], str(at[1]))
                continue
            found = held.get(at)
            behind = math.nan if found is None else max(0, found.latest - max(position, found.earliest))
            self._lag.labels(at[0], str(at[1])).set(behind)
        self._asked = time.monotonic()


@contextmanager
def serving(metrics: DrainMetrics, host: str, port: int) -> Iterator[int]:
    """Serve them as Prometheus text during the block.

    Args:
        port: 0 for any that is free.

    Yields:
        The port.

    Raises:
        ConfigurationError: nothing can listen there.
    """
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"can't serve metrics: {error}.", where=f"{host}:{port}", fix="Choose another --metrics-port."
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
