"""A record as a message: what is obvious is coerced, what isn't goes on as it is, and the drain alone judges."""

from __future__ import annotations

import math
import zlib
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.ingest.plan import partitions
from fasttrack.ingest.rowcheck import Rejected, RowChecker
from fasttrack.ingest.sources.message import Mapper, fit, identity_of, source_header
from fasttrack.ingest.sources.source import Record
from fasttrack.usecase.sources import FilesSource, StreamSource
from fasttrack.usecase.streams import FieldContract
from tests.unit.ingest_usecase import event, usecase

STREAM = usecase().streams["placed"]


def contract(kind: str, **more: Any) -> FieldContract:
    return FieldContract.model_validate({"type": kind, **more})


def mapper(format: str = "jsonl", **more: Any) -> Mapper:
    declared = {"kind": "files", "stream": "placed", "path": "in", "format": format, **more}
    return Mapper("shop", FilesSource.model_validate(declared), STREAM, 7)


def checked(found: Any) -> dict[str, Any]:
    return RowChecker(STREAM).check(found.value, found.key, {7})


@pytest.mark.parametrize(
    ("kind", "value", "becomes"),
    [
        ("timestamp", datetime(2020, 1, 1, 10, tzinfo=UTC), "2020-01-01T10:00:00Z"),
        ("timestamp", datetime(2020, 1, 1, 10, 0, 0, 5, timezone(timedelta(hours=2))), "2020-01-01T08:00:00.000005Z"),
        ("timestamp", "2020-01-01 12:00:00+02:00", "2020-01-01T10:00:00Z"),
        ("timestamp", "2020-01-01T12:00:00+02", "2020-01-01T10:00:00Z"),
        ("timestamp", datetime(2020, 1, 1, 10), "2020-01-01T10:00:00"),  # nobody knows its zone
        ("timestamp", "2020-01-01T10:00:00.123456789Z", "2020-01-01T10:00:00.123456789Z"),  # would lose nanoseconds
        ("timestamp", date(2020, 1, 1), "2020-01-01"),
        ("timestamp", 1577836800, 1577836800),  # seconds or milliseconds?
        ("integer", Decimal("12.00"), 12),
        ("integer", Decimal("12.50"), 12.5),
        ("number", Decimal("0.1"), 0.1),
        ("number", Decimal("NaN"), "NaN"),
        ("number", math.inf, "inf"),
        ("integer", "12", "12"),  # JSON has numbers of its own
        ("string", UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        ("string", b"caf\xc3\xa9", "café"),
        ("boolean", 1, 1),
    ],
)
def test_values_of_databases_and_json(kind: str, value: Any, becomes: Any) -> None:
    found = fit(contract(kind), value, text=False)
    assert (type(found), found) == (type(becomes), becomes)


@pytest.mark.parametrize(
    ("kind", "cell", "becomes"),
    [
        ("integer", "12", 12),
        ("integer", " -3 ", -3),
        ("integer", "1.5", 1.5),
        ("integer", "twelve", "twelve"),
        ("integer", "१२", "१२"),
        ("integer", "1_000", "1_000"),
        ("number", "1e3", 1000.0),
        ("number", "1e999", "1e999"),
        ("number", "nan", "nan"),
        ("boolean", "TRUE", True),
        ("boolean", "0", False),
        ("boolean", "maybe", "maybe"),
        ("timestamp", "2020-01-01 10:00:00Z", "2020-01-01T10:00:00Z"),
        ("timestamp", "2020-01-01 10:00:00", "2020-01-01 10:00:00"),
        ("timestamp", "2020-02-31T10:00:00+00:00", "2020-02-31T10:00:00+00:00"),
        ("string", "12", "12"),
        ("string", "", ""),
        ("integer", "", ""),
    ],
)
def test_cells_of_csv(kind: str, cell: str, becomes: Any) -> None:
    found = fit(contract(kind), cell, text=True)
    assert (type(found), found) == (type(becomes), becomes)


def test_an_empty_cell_is_null_where_null_is_allowed_and_empty_is_not() -> None:
    for kind in ("integer", "number", "boolean", "timestamp"):
        assert fit(contract(kind, nullable=True), "", text=True) is None
    assert fit(contract("string", nullable=True), "", text=True) == ""
    assert fit(contract("string", nullable=True, enum=["a"]), "", text=True) is None
    assert fit(contract("string", nullable=True, pattern="[0-9]+"), "", text=True) is None


def test_not_a_number_is_null_as_in_the_replay() -> None:
    assert fit(contract("number", nullable=True), math.nan, text=False) is None
    assert fit(contract("number"), math.nan, text=False) == "nan"


def test_fields_are_renamed_found_by_path_and_set() -> None:
    made = mapper(fields={"event_id": "meta.ids.0", "city": "a.b"}, constants={"pieces": 4, "gift": False})
    record = {"meta": {"ids": ["placed-9"]}, "a.b": "Paris", "order_id": "o9", "amount": 1, "secret": "x"}
    found = made.event(record | {"placed_at": "2020-01-01T00:00:00Z", "pieces": 99})
    assert found == {
        "event_id": "placed-9", "city": "Paris", "order_id": "o9", "amount": 1,
        "placed_at": "2020-01-01T00:00:00Z", "pieces": 4, "gift": False,
    }  # fmt: skip


def test_what_lacks_a_field_is_the_drains_to_refuse() -> None:
    document = event()
    del document["amount"]
    with pytest.raises(Rejected, match="missing field"):
        checked(mapper().message(Record("f:1", document)))


def test_bytes_that_can_not_be_read_are_sent_as_they_are() -> None:
    found = mapper().message(Record("f:1", None, b"{broken\xff"))
    assert (found.value, found.key) == (b"{broken\xff", None)
    with pytest.raises(Rejected):
        checked(found)


def test_a_tombstone_stays_one_and_is_told_as_empty() -> None:
    found = mapper().message(Record("f:1", None, None, b"o1"))
    assert (found.value, found.key) == (None, b"o1")
    with pytest.raises(Rejected) as told:
        checked(found)
    assert told.value.rejection.reason == "empty"


@pytest.mark.parametrize("key", [b"o1", None])
def test_events_that_pass_through_are_not_unparsable_whether_they_have_a_key_or_not(key: bytes | None) -> None:
    given = {"kind": "stream", "stream": "placed", "connection_env": "OTHERS", "topic": "t"}
    passing = Record("t/0/1", None, b"\0\0\0\0\7{}", key)
    for value, unparsable in (("event", False), ("json", True)):
        made = Mapper("others", StreamSource.model_validate({**given, "value": value}), STREAM, 7)
        assert made.unparsable(passing) is unparsable
        assert not made.unparsable(Record("t/0/1", {}))


@pytest.mark.parametrize("value", [2**70, "half a pair \ud800", [datetime(2020, 1, 1), {"a": Decimal("1.5")}], b"\xff"])
def test_whatever_a_record_holds_becomes_a_message(value: Any) -> None:
    found = mapper().message(Record("f:1", event(code=value)))
    with pytest.raises(Rejected):
        checked(found)
    assert b"placed-1" in found.value


@given(
    number=st.integers(-(2**63), 2**63 - 1), amount=st.floats(-10.5, 1000), moment=st.datetimes(timezones=st.just(UTC))
)
def test_a_row_of_text_says_what_the_event_says(number: int, amount: float, moment: datetime) -> None:
    document = event(serial=number, amount=amount, placed_at=moment.replace(tzinfo=None).isoformat() + "Z")
    cells = {name: "" if value is None else str(value) for name, value in document.items()}
    cells["placed_at"] = moment.isoformat(sep=" ")
    text, plain = (m.message(Record("f:1", record)) for m, record in ((mapper("csv"), cells), (mapper(), document)))
    assert checked(text) == checked(plain)
    assert (text.key, text.partition) == (plain.key, plain.partition)


@given(st.text(max_size=12))
def test_keys_go_where_the_replay_sends_them(key: str) -> None:
    found = mapper().message(Record("f:1", event(order_id=key)))
    raw = key.encode("utf-8", "surrogateescape")
    assert found.key == raw
    assert found.partition == int(partitions(pa.array([raw], pa.binary()), STREAM.partitions)[0]) == zlib.crc32(raw) % 3


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_headers_are_short_and_name_the_source(identity: str) -> None:
    found = source_header("orders", identity)
    assert found.startswith(b"orders:") and len(found) <= 100
    assert found == source_header("orders", identity) != source_header("orders", identity + "x")
    # What was not shortened can be had back.
    assert identity_of(found) == (None if found.startswith(b"orders:sha256:") else identity)


def test_the_event_is_readable_json() -> None:
    assert orjson.loads(mapper().message(Record("f:1", event())).value[5:]) == event()
