"""Whether rows of raw tables keep their streams' contracts, as a Spark expression.

The drain lets nothing else in. A row that breaks its contract was written by hand, or under a contract that was looser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from fasttrack.errors import DataQualityError
from fasttrack.features.fingerprint import Source
from fasttrack.features.plan import entity_plans, field_definitions
from fasttrack.usecase import UseCase
from fasttrack.usecase.limits import limits, portable_to_java
from fasttrack.usecase.streams import FieldContract

if TYPE_CHECKING:
    from pyspark.sql import Column as SparkColumn
    from pyspark.sql import DataFrame

# The first and last microsecond of Python's datetimes: years 1 to 9999.
_MOMENTS = (-62_135_596_800_000_000, 253_402_300_799_999_999)


def within(name: str, field: FieldContract) -> SparkColumn:
    """Whether a typed value keeps its field's contract: nullability, range, finiteness, length, enum, pattern.

    Args:
        name: the column; of the type that `fasttrack.lake.schemas.field_type` gives.
        field: its contract.

    Returns:
        A column that is true or false, never null.
    """
    from pyspark.sql import functions as f

    column = f.col(name)
    kept = f.lit(True)
    for condition in _conditions(column, field):
        kept = kept & condition
    return f.when(column.isNull(), f.lit(field.nullable)).otherwise(kept)


def _conditions(column: SparkColumn, field: FieldContract) -> list[SparkColumn]:
    from pyspark.sql import functions as f

    if field.type == "timestamp":
        return [f.unix_micros(column).between(*_MOMENTS)]
    if field.type in ("integer", "number"):
        bounds = limits(field)
        found = [] if field.type == "integer" else [~f.isnan(column), f.abs(column) != f.lit(float("inf"))]
        if field.minimum is not None:
            found.append(column >= f.lit(bounds.least))
        if field.maximum is not None:
            found.append(column <= f.lit(bounds.greatest))
        return found
    if field.type != "string":
        return []
    found = [f.char_length(column) <= f.lit(field.max_length)]
    if field.enum is not None:
        found.append(column.isin(*field.enum))
    if field.pattern is not None:
        found.append(_matches(column, field.pattern))
    return found


def _matches(column: SparkColumn, pattern: str) -> SparkColumn:
    """Java's expressions where they surely mean the same as Python's, Python itself (much slower) elsewhere."""
    from pyspark.sql.pandas.functions import arrow_udf

    if portable_to_java(pattern):
        # Java's $ is also before a last newline.
        return column.rlike(rf"\A(?:{pattern})\z")

    def fullmatch(texts: pa.Array) -> pa.Array:
        compiled = re.compile(pattern)
        return pa.array([text is not None and compiled.fullmatch(text) is not None for text in texts.to_pylist()])

    # Its overloads know nothing of Arrow's arrays, which have no types.
    found: SparkColumn = arrow_udf(fullmatch, "boolean")(column)  # type: ignore[call-overload]
    return found


def columns_read(usecase: UseCase) -> dict[str, list[str]]:
    """By stream, the fields that the feature table is made from."""
    found: dict[str, dict[str, None]] = {}

    def add(stream: str, names: Iterable[str]) -> None:
        found.setdefault(stream, {}).update(dict.fromkeys(names))

    own = usecase.prediction.stream
    contract = usecase.streams[own]
    add(own, (contract.event_id, contract.event_time, usecase.prediction.time_field))
    add(own, (definition.field for _, definition in field_definitions(usecase)))
    for plan in entity_plans(usecase):
        add(own, plan.keys)
        for feed in plan.feeds:
            add(feed.stream, (*plan.keys, feed.time_field, feed.id_field, *feed.fields))
    return {stream: list(names) for stream, names in found.items()}


def verify(usecase: UseCase, raw: Mapping[str, DataFrame], lake: Mapping[str, Source]) -> None:
    """Count the rows that break their contracts, in the columns that features are made from.

    Args:
        usecase: has the contracts.
        raw: the raw table of each stream.
        lake: where they are, for the message.

    Raises:
        DataQualityError: there is such a row; the message names streams, fields and counts.
    """
    counts = broken(usecase, raw)
    if counts:
        named = "; ".join(f"{stream}.{field}: {count:,} rows" for (stream, field), count in counts.items())
        raise DataQualityError(
            f"raw tables hold values that the contracts refuse ({named}).",
            where=lake[next(iter(counts))[0]].path,
            fix="They were not drained under these contracts: loosen them again, or drain into a new lake.",
        )


def broken(usecase: UseCase, raw: Mapping[str, DataFrame]) -> dict[tuple[str, str], int]:
    """By stream and field, how many rows break the contract; none where all keep it."""
    from pyspark.sql import functions as f

    parts = []
    for stream, names in sorted(columns_read(usecase).items()):
        fields = usecase.streams[stream].fields
        sums = [f.count_if(~within(name, fields[name])) for name in names]
        counted = raw[stream].agg(f.array(*sums).alias("counts"))
        parts.append(counted.select(f.lit(stream).alias("stream"), "counts"))
    together = parts[0]
    for part in parts[1:]:
        together = together.unionAll(part)
    found = {row["stream"]: row["counts"] for row in together.collect()}
    return {
        (stream, name): count
        for stream, names in sorted(columns_read(usecase).items())
        for name, count in zip(names, found[stream], strict=True)
        if count
    }
