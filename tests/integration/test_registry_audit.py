"""Audit rows and predictions: whole batches, once each, whatever clients put into them."""

from __future__ import annotations

import dataclasses
import math
from uuid import UUID

from fasttrack.registry.records import AuditRow, PredictionRow
from fasttrack.registry.store import Registry
from tests.integration.registry_database import digest

AUDIT = AuditRow(
    trace_id="t-1",
    route="predict",
    status=200,
    latency_ms=12.5,
    usecase="orders",
    subject="ann",
    role="analyst",
    tenant="default",
    model_version=3,
    digest=digest(3),
    request_hash="abc",
    response={"probability": 0.25},
)


def test_audit_rows_land_once(registry: Registry) -> None:
    bare = AuditRow(trace_id="t-1", route="predict", status=401, latency_ms=0.1)
    assert registry.append_audit([AUDIT, bare]) == 2
    assert registry.append_audit([AUDIT, bare]) == 0
    assert registry.append_audit([]) == 0
    assert registry.audit("t-1") == (AUDIT, bare)


def test_batch_of_thousands(registry: Registry) -> None:
    rows = [dataclasses.replace(AUDIT, id=UUID(int=n), trace_id="many") for n in range(1, 2502)]
    assert registry.append_audit(rows) == 2501
    assert len(registry.audit("many")) == 2501


def test_hostile_request_does_not_spoil_its_batch(registry: Registry) -> None:
    hostile = AuditRow(
        trace_id="evil\x00",
        route="predict",
        status=200,
        latency_ms=1.0,
        subject="\ud800",
        response={"nul\x00": "\x00", "surrogate": "\udfff", "big": 2**80, "literal": "\\u0000", "nan": math.nan},
    )
    assert registry.append_audit([hostile, dataclasses.replace(AUDIT, id=UUID(int=0), trace_id="beside")]) == 2
    (read,) = registry.audit("evil\x00")
    assert read.subject == "?"
    assert read.response == {
        "nul\ufffd": "\ufffd",
        "surrogate": "?",
        "big": str(2**80),
        "literal": "\\u0000",
        "nan": None,
    }
    assert len(registry.audit("beside")) == 1


def test_predictions(registry: Registry) -> None:
    rows = [
        PredictionRow("orders", 1, {"order_id": str(n)}, 0.5, n / 3, -1.0, math.inf, f"t-{n}", {"top": []})
        for n in range(5)
    ]
    assert registry.append_predictions(rows) == 5
    assert registry.append_predictions(rows) == 0
    assert registry.predictions("orders") == tuple(sorted(rows, key=lambda row: row.at, reverse=True))
    assert registry.predictions("orders", limit=1) == (rows[-1],)
    assert registry.predictions("nothing") == ()
