"""One contract, wherever it is enforced: JSON and Avro, by rows and columns, Spark, gateway, the registry's schema."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastavro
import jsonschema
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_gateway.validation import Validator
from fasttrack.errors import DataQualityError, InvalidRequestError
from fasttrack.features import contract
from fasttrack.features.job import build
from fasttrack.ingest.avro import AvroRowChecker, avro_schema
from fasttrack.ingest.avrocolumns import AvroColumnChecker
from fasttrack.ingest.columncheck import Checked, ColumnChecker
from fasttrack.ingest.contracts import json_schema
from fasttrack.ingest.encode import header
from fasttrack.ingest.rowcheck import Rejected, RowChecker
from fasttrack.lake.schemas import event_schema
from tests.features_histories import random_histories, shop, write_lake
from tests.integration.spark_session import started
from tests.unit.ingest_usecase import usecase
from tests.unit.typed_events import MOMENTS, borders, event

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SHOP = usecase()
JSON = SHOP.streams["placed"]
AVRO = JSON.model_copy(update={"encoding": "avro"})
TYPES = {field["name"]: field["type"] for field in avro_schema(AVRO)["fields"]}
# Its writer lets every field be null, so that every event can be written; what the contract allows is for the reader.
WRITER = {
    "type": "record",
    "name": "event",
    "fields": [{"name": n, "type": t if isinstance(t, list) else ["null", t]} for n, t in TYPES.items()],
}
PARSED = fastavro.parse_schema(WRITER)
JSON_SCHEMA = jsonschema.Draft202012Validator(json_schema(JSON))
ROWS = RowChecker(JSON)
GATEWAY = Validator(SHOP, {})

Event = dict[str, Any]

#: Moments that text can hold.
WRITABLE = [m for m in MOMENTS if -62_135_596_800_000_000 <= m <= 253_402_300_799_999_999]


def values(name: str) -> list[Any]:
    found = WRITABLE if JSON.fields[name].type == "timestamp" else borders(TYPES[name])
    return [None, *found]


EVENTS = st.builds(
    lambda changes: event() | changes,
    st.fixed_dictionaries({}, optional={name: st.sampled_from(values(name)) for name in TYPES}),
)
BORDERS = [event(), *(event(**{name: value}) for name in TYPES for value in values(name))]


def text(one: Event) -> bytes:
    """The event as JSON; what JSON has no word for is written as Python does (NaN)."""
    moments = {n: _rfc3339(v) for n, v in one.items() if JSON.fields[n].type == "timestamp" and v is not None}
    return json.dumps(one | moments).encode()


def _rfc3339(micros: int) -> str:
    moment = datetime(1970, 1, 1) + timedelta(microseconds=micros)
    return f"{moment.isoformat()}Z"


def key(one: Event) -> bytes | None:
    return None if one["order_id"] is None else one["order_id"].encode()


def record(one: Event) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, PARSED, one)
    return stream.getvalue()


def accepts(check: Callable[[], Any]) -> bool:
    try:
        check()
    except (Rejected, InvalidRequestError, jsonschema.ValidationError, json.JSONDecodeError):
        return False
    return True


def in_columns(checked: Checked, count: int) -> list[bool]:
    good = set(checked.index.tolist())
    assert good.isdisjoint(at for at, _ in checked.rejected)
    return [at in good for at in range(count)]


def by_gateway(one: Event) -> bool:
    """What the gateway lets pass, the transformer checks as the drain does; both take what is null for unknown."""
    document = json.loads(text(one))
    known = all(one[name] is not None for name, field in JSON.fields.items() if not field.nullable)
    return known and accepts(lambda: ROWS.fields(GATEWAY.question({"event": document}, ()).event or {}))


def by_schema(one: Event) -> bool:
    def refuse(word: str) -> Any:
        raise json.JSONDecodeError(word, "", 0)

    return accepts(lambda: JSON_SCHEMA.validate(json.loads(text(one), parse_constant=refuse)))


def by_spark(spark: SparkSession, events: list[Event]) -> list[bool]:
    rows = pa.table({n: pa.array([e[n] for e in events]).cast(t) for n, t in _columns()})
    kept = reduce(lambda a, b: a & b, (contract.within(name, field) for name, field in JSON.fields.items()))
    return [row["kept"] for row in spark.createDataFrame(rows).select(kept.alias("kept")).collect()]


def _columns() -> list[tuple[str, pa.DataType]]:
    schema = event_schema(JSON)
    return [(field.name, field.type) for field in schema]


def assert_one_verdict(spark: SparkSession, events: list[Event]) -> list[bool]:
    count, keys = len(events), [key(one) for one in events]
    texts = [header(1) + text(one) for one in events]
    records = [header(1) + record(one) for one in events]
    writer = {1: json.dumps(WRITER)}
    avro_rows = AvroRowChecker(AVRO)
    verdict = [accepts(partial(ROWS.check, v, k, {1})) for v, k in zip(texts, keys, strict=True)]
    others = {
        "JSON columns": in_columns(ColumnChecker(JSON).check(texts, keys, {1}), count),
        "Avro rows": [accepts(partial(avro_rows.check, v, k, writer)) for v, k in zip(records, keys, strict=True)],
        "Avro columns": in_columns(AvroColumnChecker(AVRO).check(records, keys, writer), count),
        "Spark": by_spark(spark, events),
        "gateway": [by_gateway(one) for one in events],
        # The registry's schema anchors a pattern as all regular expressions can, which is before a last newline.
        "JSON Schema": [
            by_schema(one) and not str(one["code"]).endswith("\n") and not str(one["event_id"]).endswith("\n")
            for one in events
        ],
    }
    for point, found in others.items():
        differ = [(events[at], verdict[at]) for at in range(count) if found[at] != verdict[at]]
        assert not differ, f"{point} disagrees on {len(differ)}, the first: {differ[0]}"
    return verdict


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    with started() as found:
        yield found


def test_every_point_has_the_same_verdict_on_every_border(spark: SparkSession) -> None:
    verdict = assert_one_verdict(spark, BORDERS)
    assert len(verdict) > 300
    assert 100 < sum(verdict) < len(verdict) - 100


@settings(max_examples=3, deadline=None)
@given(st.lists(EVENTS, min_size=100, max_size=200))
def test_every_point_has_the_same_verdict_on_generated_events(spark: SparkSession, events: list[Event]) -> None:
    assert_one_verdict(spark, events)


def test_moments_that_python_has_not_are_outside_of_spark_as_well(spark: SparkSession) -> None:
    from pyspark.sql import functions as f

    field = JSON.fields["placed_at"]
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
