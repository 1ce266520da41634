"""Is the feature table good enough to learn from? The limits stand under `quality` in the use case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds

from fasttrack.errors import DataQualityError
from fasttrack.features.plan import LABEL, PREDICTION_TIME
from fasttrack.features.stats import require
from fasttrack.lake.tables import read
from fasttrack.usecase import UseCase
from fasttrack.usecase.durations import format_duration


@dataclass(frozen=True)
class QualityReport:
    """What was measured.

    Attributes:
        rows: rows of the table.
        dropped: prediction events that came after their own prediction time.
        missing: share of rows without a value, by column.
        label_missing: share of rows before the split's end without a label.
        lag_hours: by stream, hours from its newest event to the newest row (negative: the events are newer).
        breaches: the limits that were broken, one sentence each; empty in a report that is returned.
    """

    rows: int
    dropped: int
    missing: dict[str, float]
    label_missing: float
    lag_hours: dict[str, float]
    breaches: tuple[str, ...]


def measure(usecase: UseCase, path: str) -> QualityReport:
    """Compare a feature table with the use case's limits, without raising for breaches.

    Args:
        usecase: the use case.
        path: the table, as `FeatureTable.path`.

    Raises:
        NotFoundError: there is no complete table.
        StorageError: it can't be read.
    """
    stats = require(path)
    missing = {column.name: float(stats["columns"][column.name]["missing"]) for column in usecase.columns()}
    label_missing = _label_missing(usecase, path)
    lags = _lags(stats)
    breaches = [
        *_row_breaches(usecase, stats, label_missing),
        *_missing_breaches(usecase, missing),
        *_freshness_breaches(usecase, lags),
    ]
    return QualityReport(stats["rows"], stats["dropped"], missing, label_missing, lags, tuple(breaches))


def check(usecase: UseCase, path: str) -> QualityReport:
    """The report of a table that keeps every limit.

    Args:
        usecase: the use case.
        path: the table, as `FeatureTable.path`.

    Raises:
        DataQualityError: limits are broken; the message lists all of them.
        NotFoundError: there is no complete table.
        StorageError: it can't be read.
    """
    report = measure(usecase, path)
    if report.breaches:
        raise DataQualityError(
            "; ".join(report.breaches) + ".",
            where=path,
            fix="Repair the events, or change the limits under `quality` in the use case.",
        )
    return report


def limit(usecase: UseCase, column: str, definition: str) -> float:
    """The largest allowed share of missing values: the column's own, else its definition's, else the general one."""
    allowed = usecase.quality.allow_missing
    return allowed.get(column, allowed.get(definition, usecase.quality.max_missing))


def _row_breaches(usecase: UseCase, stats: dict[str, Any], label_missing: float) -> Iterator[str]:
    quality = usecase.quality
    if stats["rows"] < quality.min_rows:
        yield f"the table has {stats['rows']} rows, min_rows is {quality.min_rows}"
    if label_missing > quality.max_label_missing:
        allowed = quality.max_label_missing
        yield f"the label is missing in {label_missing:.1%} of rows, max_label_missing is {allowed:.1%}"


def _missing_breaches(usecase: UseCase, missing: dict[str, float]) -> Iterator[str]:
    for column in usecase.columns():
        allowed = limit(usecase, column.name, column.definition)
        if missing[column.name] > allowed:
            yield f"column {column.name!r} is missing in {missing[column.name]:.1%} of rows, {allowed:.1%} is allowed"


def _freshness_breaches(usecase: UseCase, lags: dict[str, float]) -> Iterator[str]:
    if usecase.quality.freshness is None:
        return
    allowed = usecase.quality.freshness.total_seconds() / 3600
    text = format_duration(usecase.quality.freshness)
    for stream, lag in lags.items():
        if lag > allowed:
            yield f"the newest event of stream {stream!r} is {lag:.1f} h older than the newest row, freshness is {text}"
    behind = max((-lag for lag in lags.values()), default=0.0)
    if behind > allowed:
        yield f"the newest row is {behind:.1f} h older than the newest event, freshness is {text}"


def _lags(stats: dict[str, Any]) -> dict[str, float]:
    if stats["newest_row"] is None:
        return {}
    row = datetime.fromisoformat(stats["newest_row"])
    events = {stream: datetime.fromisoformat(at) for stream, at in stats["newest_event"].items() if at is not None}
    return {stream: (row - at).total_seconds() / 3600 for stream, at in events.items()}


def _label_missing(usecase: UseCase, path: str) -> float:
    inside = ds.field(PREDICTION_TIME) < usecase.split.test_until
    labels = read(path, [LABEL], where=inside)[LABEL]
    return float(pc.sum(pc.is_null(labels)).as_py() or 0) / len(labels) if len(labels) else 0.0
