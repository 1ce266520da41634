"""The same contract in Spark: it says of each event what the drain, the gateway and the registry's schema say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from fasttrack.errors import DataQualityError
from fasttrack.features import contract
from fasttrack.features.job import build
from fasttrack.ingest.avro import avro_schema
from fasttrack.lake.schemas import event_schema
from tests.features_histories import random_histories, shop, write_lake
from tests.integration.spark_session import started
from tests.unit.contract_cases import EPOCH, SINGLE, STREAM, Example, examples, typed
from tests.unit.contract_points import (
    avro_columns,
    avro_rows,
    gateway_point,
    in_columns,
    json_columns,
    json_rows,
    registered_schema,
)
from tests.unit.typed_events import MOMENTS, borders, event

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

#: What Spark can't see: a table has no message key, no other columns, and each of its own once.
BLIND = {"key", "unknown", "twice"}
#: Moments that text can hold.
WRITABLE = [m for m in MOMENTS if -62_135_596_800_000_000 <= m <= 253_402_300_799_999_999]


def spark_verdicts(spark: SparkSession, rows: list[dict[str, Any]]) -> list[bool]:
    """What the feature job's check says of rows of the raw table, times in microseconds."""
    columns = {
        field.name: pa.array([row.get(field.name) for row in rows]).cast(field.type) for field in event_schema(STREAM)
    }
    kept = reduce(lambda a, b: a & b, (contract.within(name, field) for name, field in STREAM.fields.items()))
    found = spark.createDataFrame(pa.table(columns)).select(kept.alias("kept")).collect()
    return [row["kept"] for row in found]


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    with started() as found:
        yield found


def test_spark_says_what_the_maker_of_each_event_knows(spark: SparkSession) -> None:
    every = [*SINGLE, *examples(5, 3000)]
    rows = [(one, row) for one in every if (row := typed(one.document)) is not None]
    # What has another type than its column was never in a table.
    assert not any(one.good_for(BLIND) for one in every if typed(one.document) is None)
    found = spark_verdicts(spark, [row for _, row in rows])
    wrong = [one for (one, _), said in zip(rows, found, strict=True) if said != one.good_for(BLIND)]
    assert not wrong, f"Spark is wrong on {len(wrong)}, the first: {wrong[0]}"
    assert len(rows) > 2000
    assert min(sum(found), len(found) - sum(found)) > 300


def test_every_border_of_every_type_has_one_verdict(spark: SparkSession, tmp_path: Path) -> None:
    types = {field["name"]: field["type"] for field in avro_schema(STREAM)["fields"]}
    values = {n: WRITABLE if STREAM.fields[n].type == "timestamp" else borders(kind) for n, kind in types.items()}
    rows = [event(), *(event(**{name: value}) for name, found in values.items() for value in [None, *found])]
    some = [written(row) for row in rows]
    verdict = json_rows(some)
    assert min(sum(verdict), len(verdict) - sum(verdict)) > 100
    others = {
        "JSON columns": in_columns(json_columns(some), len(some)),
        "Avro rows": avro_rows(some),
        "Avro columns": in_columns(avro_columns(some), len(some)),
        "JSON Schema": registered_schema(some),
        "Spark": spark_verdicts(spark, rows),
    }
    for point, found in others.items():
        differ = [one for one, said, right in zip(some, found, verdict, strict=True) if said != right]
        assert not differ, f"{point} disagrees on {len(differ)}, the first: {differ[0]}"
    with gateway_point(tmp_path) as point:
        for one, right in zip(some, verdict, strict=True):
            # To it, null is unknown; and NUL is in no request.
            unknown = any(one.document[n] is None for n, field in STREAM.fields.items() if not field.nullable)
            expected = unknown or (right and "\0" not in "".join(map(str, one.document.values())))
            assert point.ask(one)[0] == (200 if expected else 400), one


def written(row: dict[str, Any]) -> Example:
    """A row as its message would have it."""
    times = {n for n, field in STREAM.fields.items() if field.type == "timestamp" and row[n] is not None}
    texts = {n: f"{(EPOCH + timedelta(microseconds=row[n])).replace(tzinfo=None).isoformat()}Z" for n in times}
    return Example(row | texts, None if row["order_id"] is None else row["order_id"].encode())


def test_moments_that_python_has_not_are_outside_of_spark_as_well(spark: SparkSession) -> None:
    from pyspark.sql import functions as f

    field = STREAM.fields["placed_at"]
    rows = spark.createDataFrame([(m,) for m in MOMENTS], "m long").select("m", f.timestamp_micros("m").alias("t"))
    found = {row["m"]: row["kept"] for row in rows.select("m", contract.within("t", field).alias("kept")).collect()}
    assert found == {m: m in WRITABLE for m in MOMENTS}


def test_the_feature_job_names_what_breaks_the_contract(spark: SparkSession, tmp_path: Path) -> None:
    histories = random_histories(3, orders=20, events=60)
    lake = write_lake(shop(), tmp_path, histories)
    spent = "      spent: {type: number, nullable: true}"
    tighter = shop(**{spent: "      spent: {type: number, nullable: true, maximum: 1000}"})
    beyond = sum(one["spent"] is not None and one["spent"] > 1000 for one in histories["visits"])
    assert beyond
    with pytest.raises(DataQualityError, match=rf"\(visits\.spent: {beyond} rows\)"):
        build(tighter, lake, spark=spark)
    assert not list((tmp_path / "shop").glob("features/*/*"))
    # Written by hand, with a value that no drain would have let in.
    write_lake(shop(), tmp_path, {"visits": [histories["visits"][0] | {"spent": math.nan, "event_id": None}]})
    with pytest.raises(DataQualityError) as caught:
        build(shop(), lake, spark=spark)
    assert "visits.event_id: 1 rows" in caught.value.what
    assert "visits.spent: 1 rows" in caught.value.what
