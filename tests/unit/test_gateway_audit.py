"""Audit rows: none lost while PostgreSQL is away, slow or refusing, nor at the end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from api_gateway.audit import AuditWriter
from api_gateway.observability import Metrics
from api_gateway.spool import Row, Spool
from fasttrack.errors import InvalidRequestError, StorageError
from fasttrack.registry.records import AuditRow, PredictionRow
from tests.unit.gateway_harness import ENTITY, MemorySink, deployment, gateway, model_server, until


def rows(count: int) -> list[AuditRow]:
    return [
        AuditRow(trace_id=f"{number:032x}", route="POST /x", status=200, latency_ms=1.5, response={"n": number})
        for number in range(count)
    ]


def prediction() -> PredictionRow:
    return PredictionRow("flights", 3, {"flight_id": "x"}, 0.5, 1.0, 0.0, 2.0, "0" * 32, {"method": "shap"})


def writer(folder: Path, sink: MemorySink, *, limit: int = 1000, seconds: float = 0.01) -> AuditWriter:
    return AuditWriter(sink, Spool(folder), Metrics(), limit=limit, seconds=seconds)


def test_rows_arrive_as_they_were(tmp_path: Path) -> None:
    sink, row, other = MemorySink(), rows(1)[0], prediction()
    audit = writer(tmp_path, sink)
    audit.start()
    audit.put(row, other)
    until(lambda: len(sink.rows) == 2)
    audit.close()
    assert sink.rows == {row.id: row, other.prediction_id: other}


def test_a_spooled_row_is_the_same_row(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    given: list[Row] = [*rows(3), prediction()]
    spool.write(given)
    (batch,) = Spool(tmp_path).batches()
    assert spool.read(batch) == given
    spool.remove(batch)
    assert spool.read(batch) == []


def test_while_the_database_is_away_rows_lie_on_disk_and_arrive_later(tmp_path: Path) -> None:
    sink, given = MemorySink(), rows(200)
    sink.up = False
    audit = writer(tmp_path, sink)
    audit.start()
    for row in given:
        audit.put(row)
    until(lambda: audit.waiting == 0)
    assert audit.spooled > 0
    assert not sink.rows
    sink.up = True
    until(lambda: len(sink.rows) == 200)
    until(lambda: audit.spooled == 0)
    audit.close()
    assert sink.rows == {row.id: row for row in given}


def test_rows_left_by_a_dead_gateway_are_sent_by_the_next(tmp_path: Path) -> None:
    sink, given = MemorySink(), rows(20)
    sink.up = False
    first = writer(tmp_path, sink)
    first.start()
    first.put(*given)
    first.close()
    assert first.waiting == 0
    (tmp_path / "00000000000000000000-torn.partial").write_bytes(b'{"kind": "aud')
    sink.up = True
    second = writer(tmp_path, sink)
    second.start()
    until(lambda: len(sink.rows) == 20)
    second.close()


def test_nothing_is_lost_at_the_end_even_of_a_writer_that_never_ran(tmp_path: Path) -> None:
    sink = MemorySink()
    audit = writer(tmp_path, sink, seconds=3600.0)
    audit.put(*rows(7))
    audit.close()
    audit.close()
    spool = Spool(tmp_path)
    assert sum(len(spool.read(batch)) for batch in spool.batches()) == 7


def test_a_database_that_hangs_does_not_fill_the_memory(tmp_path: Path) -> None:
    release = threading.Event()

    class Hanging(MemorySink):
        def append_audit(self, batch: Sequence[AuditRow]) -> int:
            release.wait(30)
            return super().append_audit(batch)

    sink, given = Hanging(), rows(500)
    audit = writer(tmp_path, sink, limit=50)
    audit.start()
    for row in given:
        audit.put(row)
        assert audit.waiting <= 50 + 50
    assert audit.spooled > 0
    release.set()
    until(lambda: len(sink.rows) == 500)
    audit.close()


def test_one_row_that_is_refused_for_good_does_not_hold_the_others(tmp_path: Path) -> None:
    class Picky(MemorySink):
        def append_audit(self, batch: Sequence[AuditRow]) -> int:
            if any(row.status == 999 for row in batch):
                raise InvalidRequestError("999 is no status.")
            return super().append_audit(batch)

    sink, given = Picky(), rows(9)
    poison = AuditRow(trace_id="p", route="x", status=999, latency_ms=1)
    audit = writer(tmp_path, sink)
    audit.start()
    audit.put(*given[:5], poison, *given[5:])
    until(lambda: len(sink.rows) == 9)
    audit.close()
    assert '"status":999' in (tmp_path / "refused.log").read_text()


def test_when_neither_database_nor_disk_take_rows_nothing_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Spool, batch: object) -> None:
        raise StorageError("the disk is full in this test.")

    sink = MemorySink()
    sink.up = False
    with (
        model_server() as server,
        gateway(tmp_path, lambda: [deployment(server.url, server.url)], sink=sink, audit_rows=4) as running,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Spool, "write", full)
            statuses = [running.predict(ENTITY).status for _ in range(8)]
            assert 503 in statuses
            answered = statuses.count(200)
            assert answered > 0
        sink.up = True
        until(lambda: sum(row.status == 200 for row in sink.audit()) == answered)
        assert running.predict(ENTITY).status == 200


def test_predictions_go_on_without_the_database_and_are_recorded_later(tmp_path: Path) -> None:
    sink = MemorySink()
    with (
        model_server() as server,
        gateway(tmp_path, lambda: [deployment(server.url, server.url)], sink=sink) as running,
    ):
        sink.up = False
        assert [running.predict().status for _ in range(10)] == [200] * 10
        until(lambda: running.app.parts.audit.waiting == 0)
        assert not sink.rows
        sink.up = True
        until(lambda: len(sink.rows) == 20)
