"""Statistics of the raw tables against their contracts, and the share of dead letters that a run may have."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from fasttrack.errors import DataQualityError, NotFoundError
from fasttrack.lake.tables import batches, dead_letters_path, raw_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase


@dataclass(frozen=True)
class FieldStatistics:
    """One column of a raw table.

    Attributes:
        missing: share of nulls, 0..1.
        minimum, maximum: least and greatest value of numbers and timestamps (ISO 8601); None for others.
    """

    missing: float
    minimum: float | str | None = None
    maximum: float | str | None = None


@dataclass(frozen=True)
class StreamStatistics:
    """One stream.

    Attributes:
        rows: accepted events.
        dead_letters: refused messages.
        dead_share: refused / (accepted + refused), 0..1.
        reasons: refused messages by reason.
        fields: by field of the contract.
    """

    rows: int
    dead_letters: int
    dead_share: float
    reasons: dict[str, int] = field(default_factory=dict)
    fields: dict[str, FieldStatistics] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """Statistics by stream."""

    streams: dict[str, StreamStatistics]


def validate(usecase: UseCase, settings: Settings) -> Validation:
    """Read the raw tables and hold them against the contracts.

    Args:
        usecase: whose streams.
        settings: needs `lake`.

    Raises:
        NotFoundError: nothing was drained yet.
        DataQualityError: a stream has more dead letters than ``quality.max_dead_letters``, or a value that its
            contract forbids stands in the table (after the contract was tightened).
        StorageError: the lake can't be read.
    """
    found = Validation({name: _stream(usecase, settings, name) for name in usecase.streams})
    limit = usecase.quality.max_dead_letters
    for name, statistics in found.streams.items():
        if statistics.dead_share > limit:
            worst = max(statistics.reasons, key=lambda reason: statistics.reasons[reason])
            raise DataQualityError(
                f"{statistics.dead_share:.2%} of the messages are dead letters, allowed are {limit:.2%}; "
                f"most frequent: {worst} ({statistics.reasons[worst]:,}).",
                where=f"stream {name}",
                fix="Look into the dead_letters table; mend the producer, or raise quality.max_dead_letters.",
            )
        for field_name, values in statistics.fields.items():
            _check_range(usecase, name, field_name, values)
    return found


def _stream(usecase: UseCase, settings: Settings, name: str) -> StreamStatistics:
    columns = {field_name: _Column() for field_name in usecase.streams[name].fields}
    rows = 0
    for batch in batches(raw_path(settings, usecase, name), list(columns)):
        rows += batch.num_rows
        for field_name, column in columns.items():
            column.add(batch.column(field_name))
    reasons: Counter[str] = Counter()
    try:
        for batch in batches(dead_letters_path(settings, usecase), ["reason"], pc.field("stream") == name):
            for counted in pc.value_counts(batch.column("reason")).to_pylist():
                reasons[counted["values"]] += counted["counts"]
    except NotFoundError:
        pass
    dead = reasons.total()
    return StreamStatistics(
        rows,
        dead,
        dead / (rows + dead) if dead else 0.0,
        dict(reasons),
        {field_name: column.statistics(rows) for field_name, column in columns.items()},
    )


class _Column:
    """What is kept of a column while it passes by: its nulls, and the bounds of each batch."""

    def __init__(self) -> None:
        self._nulls = 0
        self._bounds: list[pa.Scalar] = []

    def add(self, column: pa.Array) -> None:
        self._nulls += column.null_count
        kind = column.type
        comparable = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_timestamp(kind)
        if comparable and column.null_count < len(column):
            found = pc.min_max(column)
            self._bounds += [found["min"], found["max"]]

    def statistics(self, rows: int) -> FieldStatistics:
        missing = self._nulls / rows if rows else 0.0
        if not self._bounds:
            return FieldStatistics(missing)
        found = pc.min_max(pa.array(self._bounds)).as_py()
        low, high = (v.isoformat() if isinstance(v, datetime) else v for v in (found["min"], found["max"]))
        return FieldStatistics(missing, low, high)


def _check_range(usecase: UseCase, stream: str, name: str, values: FieldStatistics) -> None:
    contract = usecase.streams[stream].fields[name]
    low = contract.minimum is not None and isinstance(values.minimum, int | float) and values.minimum < contract.minimum
    high = (
        contract.maximum is not None and isinstance(values.maximum, int | float) and values.maximum > contract.maximum
    )
    if low or high or (values.missing and not contract.nullable):
        raise DataQualityError(
            f"holds {values.minimum} to {values.maximum}, {values.missing:.2%} missing, which the contract forbids.",
            where=f"stream {stream}, field {name}",
            fix="The contract was tightened after the events were accepted: relax it, or use a new stream.",
        )
