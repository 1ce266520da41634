"""One event as an Avro record: the same bytes as a whole table's, and nothing that isn't in the contract."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.errors import DataQualityError
from fasttrack.ingest.avroencode import records
from fasttrack.ingest.avrorow import record
from fasttrack.ingest.rowcheck import RowChecker
from fasttrack.lake.schemas import event_schema
from tests.unit.ingest_usecase import event, usecase

STREAM = usecase().streams["placed"]
MOMENTS = ["2020-01-01T10:00:00Z", "1890-01-01T10:00:00.000001Z", "9999-12-31T23:59:59.999999Z"]
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "event_id": st.text(max_size=5),
    "placed_at": st.sampled_from(MOMENTS),
    "amount": st.floats(allow_nan=False) | st.integers(-(2**53), 2**53),
    "rating": st.none() | st.floats(),
    "pieces": st.integers(-(2**63), 2**63 - 1),
    "serial": st.none() | st.integers(-(2**63), 2**63 - 1),
    "gift": st.booleans(),
    "city": st.none() | st.text(max_size=5),
    "shipped_at": st.none() | st.sampled_from(MOMENTS),
}


@given(st.fixed_dictionaries({}, optional=GOOD))
def test_a_row_has_the_bytes_that_it_has_in_a_table(changes: dict[str, Any]) -> None:
    given_event = event(1, **changes)
    columns = {}
    for field in event_schema(STREAM):
        value = given_event[field.name]
        if pa.types.is_timestamp(field.type) and value is not None:
            value = datetime.fromisoformat(value)
        columns[field.name] = pa.array([value], field.type)
    assert record(STREAM, given_event) == records(STREAM, pa.table(columns))[0].as_py()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pieces", 0.5), ("pieces", True), ("pieces", "3"), ("pieces", 2**63), ("pieces", None), ("amount", True),
        ("amount", 10**400), ("amount", "1"), ("gift", 1), ("placed_at", 5), ("placed_at", "2020-13-01T00:00:00Z"),
        ("placed_at", "2020-01-01T10:00:00+02:00"), ("city", 5), ("event_id", "\udcff"), ("more", 1),
    ],
)  # fmt: skip
def test_what_avro_cannot_hold_as_it_is_is_refused_not_bent(field: str, value: Any) -> None:
    with pytest.raises(DataQualityError):
        record(STREAM, event(1, **{field: value}))


@given(st.integers(-(2**80), 2**80))
def test_a_number_is_the_nearest_double_as_in_the_check_of_json(value: int) -> None:
    checked = RowChecker(STREAM).event(event(1, rating=value), b"o1")["rating"]
    assert record(STREAM, event(1, rating=value)) == record(STREAM, event(1, rating=checked))
