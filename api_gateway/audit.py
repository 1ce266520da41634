"""Audit and prediction rows, written behind the requests in batches; spooled to disk while PostgreSQL is away."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from api_gateway.observability import Metrics, log, log_failure
from api_gateway.spool import Row, Spool, kind_of
from fasttrack.errors import FastTrackError, InvalidRequestError, StorageError
from fasttrack.registry.records import AuditRow, PredictionRow

_BATCH: Final = 500
_RETRY_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 10.0


class Sink(Protocol):
    """Where rows go: `fasttrack.registry.store.Registry`. Sending a row twice must land it once."""

    def append_audit(self, rows: Sequence[AuditRow]) -> int:
        """Append audit rows."""

    def append_predictions(self, rows: Sequence[PredictionRow]) -> int:
        """Append predictions."""


class AuditWriter:
    """Takes rows without waiting and brings them to the sink from a thread of its own.

    A row is in memory for at most about `seconds`; then it is in PostgreSQL or, if that is away, in the
    spool, from which it is sent again later. `close` leaves nothing in memory.

    Args:
        sink: the registry.
        spool: the folder for bad times.
        limit: rows in memory; beyond that, `put` writes the oldest ones to the spool itself.
        seconds: how long a batch is collected.
    """

    def __init__(self, sink: Sink, spool: Spool, metrics: Metrics, *, limit: int, seconds: float) -> None:
        self._sink = sink
        self._spool = spool
        self._metrics = metrics
        self._limit = limit
        self._seconds = seconds
        self._queue: deque[Row] = deque()
        self._sending: list[Row] = []
        self._wake = threading.Event()
        self._closing = False
        self._retry_at = 0.0
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows in memory."""
        return len(self._queue) + len(self._sending)

    @property
    def spooled(self) -> int:
        """Batches on disk."""
        return len(self._spool.batches())

    def put(self, *rows: Row) -> None:
        """Take rows.

        Raises:
            StorageError: memory is full and the disk refuses: what can't be recorded must not be answered.
        """
        if len(self._queue) >= self._limit:
            self._spill()
        self._queue.extend(rows)

    def close(self) -> None:
        """Bring everything to the sink or the spool; safe to call twice."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)
        # A sink that hangs keeps its rows; ids make it harmless if they land after all.
        rows = [*self._sending, *self._queue]
        self._queue.clear()
        self._sending = []
        if rows:
            self._write_to_spool(rows)

    def _spill(self) -> None:
        rows = self._take(self._limit // 2)
        try:
            self._write_to_spool(rows)
        except StorageError:
            self._queue.extendleft(reversed(rows))
            raise

    def _run(self) -> None:
        while True:
            self._wake.wait(self._seconds)
            closing = self._closing
            try:
                while self._queue:
                    self._sending = self._take(_BATCH)
                    self._bring(self._sending)
                    self._sending = []
                if closing:
                    return
                if time.monotonic() >= self._retry_at:
                    self._empty_spool()
            except StorageError as error:
                # Nowhere to put them: they stay in memory, and `put` refuses once that is full.
                log("error", "audit rows can't be kept", reason=str(error))
                self._queue.extendleft(reversed(self._sending))
                self._sending = []
                if closing:
                    return
                time.sleep(_RETRY_SECONDS)
            except Exception as error:
                # The thread must outlive any error, or every later row would be lost.
                log_failure("audit rows could not be written", error)
                self._write_to_spool(self._sending)
                self._sending = []

    def _take(self, most: int) -> list[Row]:
        rows: list[Row] = []
        while len(rows) < most:
            try:
                rows.append(self._queue.popleft())
            except IndexError:
                # Another thread may have taken the last one between the test and the pop.
                break
        return rows

    def _bring(self, rows: list[Row]) -> None:
        if time.monotonic() < self._retry_at or not self._delivered(rows):
            self._write_to_spool(rows)

    def _delivered(self, rows: list[Row]) -> bool:
        """Send rows to the sink; False if it can't take any now."""
        audit = [row for row in rows if isinstance(row, AuditRow)]
        predictions = [row for row in rows if isinstance(row, PredictionRow)]
        try:
            if audit:
                self._sink.append_audit(audit)
            if predictions:
                self._sink.append_predictions(predictions)
        except InvalidRequestError as error:
            return self._sorted_out(rows, error)
        except FastTrackError as error:
            log("warning", "PostgreSQL does not take audit rows; they go to the spool", reason=str(error))
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            return False
        self._metrics.audit_rows.labels("delivered").inc(len(rows))
        return True

    def _sorted_out(self, rows: list[Row], error: FastTrackError) -> bool:
        """One bad row spoils its batch: send them one by one and set the bad one aside."""
        if len(rows) == 1:
            log("error", "the database refuses an audit row", kind=kind_of(rows[0]), reason=str(error))
            self._spool.set_aside(rows)
            self._metrics.audit_rows.labels("refused").inc()
            return True
        outcomes = [self._delivered([row]) for row in rows]
        return all(outcomes)

    def _write_to_spool(self, rows: Sequence[Row]) -> None:
        if rows:
            self._spool.write(rows)
            self._metrics.audit_rows.labels("spooled").inc(len(rows))

    def _empty_spool(self) -> None:
        for batch in self._spool.batches():
            if self._closing or not self._delivered(self._spool.read(batch)):
                return
            self._spool.remove(batch)
