"""SQL of the gateway's audit rows and of the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from fasttrack.registry.records import AuditRow, PredictionRow
from fasttrack.registry.values import clean, jsonb, named_rows

_INSERT_AUDIT = """
INSERT INTO audit_log (id, at, trace_id, usecase, subject, role, tenant, route, status, model_version, digest,
    request_hash, latency_ms, cached, response)
VALUES %s ON CONFLICT DO NOTHING RETURNING 1
"""
_INSERT_PREDICTIONS = """
INSERT INTO predictions (prediction_id, at, usecase, version, entity, probability, value, lower, upper, explanation,
    trace_id)
VALUES %s ON CONFLICT DO NOTHING RETURNING 1
"""


def append_audit(cursor: Cursor, rows: Sequence[AuditRow]) -> int:
    """Insert audit rows, whole batches in one statement each; returns how many were new."""
    return _append(
        cursor,
        _INSERT_AUDIT,
        [_audit_values(row) for row in rows],
        "(" + "%s, " * 14 + "%s::jsonb)",
    )


def audit_rows(cursor: Cursor, trace_id: str) -> tuple[AuditRow, ...]:
    """The audit rows of a trace, oldest first."""
    cursor.execute("SELECT * FROM audit_log WHERE trace_id = %s ORDER BY at, id", (clean(trace_id),))
    return tuple(AuditRow(**row) for row in named_rows(cursor))


def append_predictions(cursor: Cursor, rows: Sequence[PredictionRow]) -> int:
    """Insert predictions, whole batches in one statement each; returns how many were new."""
    return _append(
        cursor,
        _INSERT_PREDICTIONS,
        [_prediction_values(row) for row in rows],
        "(%s, %s, %s, %s, %s::jsonb, %s, %s, %s, %s, %s::jsonb, %s)",
    )


def predictions(cursor: Cursor, usecase: str, limit: int) -> tuple[PredictionRow, ...]:
    """The newest predictions of a use case, newest first."""
    cursor.execute(
        "SELECT * FROM predictions WHERE usecase = %s ORDER BY at DESC, prediction_id LIMIT %s",
        (clean(usecase), limit),
    )
    return tuple(PredictionRow(**row) for row in named_rows(cursor))


def _append(cursor: Cursor, statement: str, rows: list[tuple[Any, ...]], template: str) -> int:
    if not rows:
        return 0
    return len(execute_values(cursor, statement, rows, template=template, page_size=1000, fetch=True))


def _audit_values(row: AuditRow) -> tuple[Any, ...]:
    return (
        row.id,
        row.at,
        clean(row.trace_id),
        _optional(row.usecase),
        _optional(row.subject),
        _optional(row.role),
        _optional(row.tenant),
        clean(row.route),
        row.status,
        row.model_version,
        _optional(row.digest),
        _optional(row.request_hash),
        row.latency_ms,
        row.cached,
        jsonb(row.response),
    )


def _prediction_values(row: PredictionRow) -> tuple[Any, ...]:
    return (
        row.prediction_id,
        row.at,
        clean(row.usecase),
        row.version,
        jsonb(row.entity),
        row.probability,
        row.value,
        row.lower,
        row.upper,
        jsonb(row.explanation),
        clean(row.trace_id),
    )


def _optional(text: str | None) -> str | None:
    return None if text is None else clean(text)
