"""Avro's row check and column check are one contract, and both read what Avro's own library writes."""

from __future__ import annotations

import io
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fasttrack.errors import DataQualityError
from fasttrack.ingest.avro import AvroRowChecker, avro_schema
from fasttrack.ingest.avrocolumns import AvroColumnChecker
from fasttrack.ingest.contracts import contract_version
from fasttrack.ingest.damage import AVRO_KINDS, damage
from fasttrack.ingest.encode import conform, header, keys, values
from fasttrack.ingest.rowcheck import Rejected, RowChecker
from fasttrack.ingest.sources.message import encode
from fasttrack.usecase.streams import Stream
from tests.unit.ingest_usecase import event as json_event
from tests.unit.ingest_usecase import usecase
from tests.unit.typed_events import LONGS, MOMENTS, STRINGS, borders, event

JSON_STREAM = usecase().streams["placed"]
STREAM = JSON_STREAM.model_copy(update={"encoding": "avro"})
ROWS = AvroRowChecker(STREAM)
COLUMNS = AvroColumnChecker(STREAM)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENT = {"type": "long", "logicalType": "timestamp-micros"}


def record(**types: Any) -> dict[str, Any]:
    """The contract's schema with other types; a field whose type is ... is left out."""
    fields = {field["name"]: field["type"] for field in avro_schema(STREAM)["fields"]} | types
    listed = [{"name": name, "type": kind} for name, kind in fields.items() if kind is not ...]
    return {"type": "record", "name": "event", "fields": listed}


SCHEMAS: dict[int, dict[str, Any]] = {
    1: avro_schema(STREAM),
    # Older versions: fields that were not there, not nullable, or narrower; null may be the second branch.
    2: record(serial=..., shipped_at=..., city="string", pieces="int", amount="float", rating=["double", "null"]),
    # A looser one: what the contract requires may be null here.
    3: record(**{name: ["null", kind] for name, kind in {"event_id": "string", "placed_at": MOMENT, "gift": "boolean",
                                                        "amount": "double", "pieces": "long"}.items()}),
    4: record(rating="long", amount="int"),
    # What the contract can't read.
    5: record(pieces="string"),
    6: record(zip="string"),
    7: record(placed_at="long"),
    8: record(gift=...),
}  # fmt: skip
TEXTS = {number: json.dumps(schema) for number, schema in SCHEMAS.items()}
PARSED = {number: fastavro.parse_schema(schema) for number, schema in SCHEMAS.items()}


def written(document: dict[str, Any], schema: int = 1) -> bytes:
    """A message as Avro's library writes it."""
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, PARSED[schema], document)
    return header(schema) + stream.getvalue()


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A good event by any of the schemas, with some fields of other values."""
    number = draw(st.sampled_from([1] * 6 + [2, 2, 3, 3, 4, 5, 6, 7, 8]))
    fields = {field["name"]: field["type"] for field in SCHEMAS[number]["fields"]}
    fitting = {"rating": 1.5, "pieces": 3, "amount": 7, "city": "Paris"} if number in (2, 4) else {}
    made = event(**fitting) | {"zip": "", "pieces": "3" if number == 5 else 3}
    if number == 4:
        made["rating"] = 5
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2)):
        made[name] = draw(st.sampled_from(borders(fields[name])))
    return written({name: made[name] for name in fields}, number)


@st.composite
def messages(draw: st.DrawFn) -> bytes | None:
    """Whole messages, and messages with bytes changed, cut off, put in or added."""
    whole = draw(records())
    at = draw(st.integers(5, len(whole) - 1))
    match draw(st.sampled_from(["whole"] * 5 + ["flip", "flip", "cut", "insert", "tail", "twice", "head", "odd"])):
        case "flip":
            return whole[:at] + bytes([draw(st.integers(0, 255))]) + whole[at + 1 :]
        case "cut":
            return whole[:at]
        case "insert":
            return whole[:at] + draw(st.binary(min_size=1, max_size=12)) + whole[at:]
        case "tail":
            return whole + draw(st.sampled_from([b"\x00", b"\x02", b"\x80", b"\xff" * 9]))
        case "twice":
            return whole + draw(records())[5:]
        case "head":
            return draw(st.sampled_from([None, b"", b"\x00", whole[:4], b"\x01" + whole[1:], header(9) + whole[5:]]))
        case "odd":
            odd = [b"", b"\x00", b"\xff" * 40, b"\x80" * 40, bytes(60), b"\x02" * 60, b"x" * 3000, b"{}"]
            return whole[:5] + draw(st.sampled_from(odd))
    return whole


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(messages(), st.sampled_from([b"o1"] * 6 + [b"o2", b"", None])), max_size=40))
@example([(header(1) + b"\x10placed-1\x04o1" + b"\xff" * 9 + b"\x01", b"o1")])
@example([(header(1) + b"\x10placed-1\x04o1" + b"\xff" * 10 + b"\x00", b"o1"), (written(event()), b"o1")])
@example([(written(event(city=None)).replace(b"123", b"\xed\xa0\x80"), b"o1"), (written(event()), b"o1")])
@example([(written(event(amount=math.nan)), b"o1"), (written(event(city="Rome")), b"o1")])
def test_row_and_column_checks_agree(batch: list[tuple[bytes | None, bytes | None]]) -> None:
    assert_agreed(batch)


def assert_agreed(batch: list[tuple[bytes | None, bytes | None]]) -> list[Any]:
    """The outcome of each message, by both checks."""
    expected: list[Any] = []
    for value, key in batch:
        try:
            expected.append(ROWS.check(value, key, TEXTS))
        except Rejected as error:
            expected.append(error.rejection)
    checked = COLUMNS.check([value for value, _ in batch], [key for _, key in batch], TEXTS)
    got: list[Any] = [None] * len(batch)
    for at, row in zip(checked.index.tolist(), checked.rows.to_pylist(), strict=True):
        got[at] = row
    for at, rejection in checked.rejected:
        assert got[at] is None
        got[at] = rejection
    assert got == expected
    assert np.all(np.diff(checked.index) > 0)
    return got


def test_every_byte_of_a_message_changed_into_every_other() -> None:
    whole = written(event(rating=2.5, order_id="Ł"), 1)
    changed = [whole[:at] + bytes([byte]) + whole[at + 1 :] for at in range(5, len(whole)) for byte in range(256)]
    got = assert_agreed([(value, "Ł".encode()) for value in changed])
    assert 0 < sum(isinstance(outcome, dict) for outcome in got) < len(got)
    cut = [whole[:at] for at in range(5, len(whole))]
    reasons = [outcome.reason for outcome in assert_agreed([(value, "Ł".encode()) for value in cut])]
    assert set(reasons) == {"truncated Avro"}


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_odd_numbers_anywhere_in_a_message(number: int) -> None:
    names = [field["name"] for field in SCHEMAS[number]["fields"]]
    fitting = {"rating": 5, "pieces": 3, "amount": 7, "city": "Paris"} if number in (2, 4) else {}
    whole = written({name: (event() | fitting)[name] for name in names}, number)
    last = [b"\x00", b"\x01", b"\x02", b"\x7f", b"\x80", b"\x81\x00"]
    odd = [first * count + end for first in (b"\xff", b"\x80") for count in (1, 4, 7, 8, 9, 10) for end in last]
    spliced = [
        whole[:at] + put + whole[at + gone :] for at in range(5, len(whole)) for gone in (0, 1, 9) for put in odd
    ]
    assert_agreed([(value, b"o1") for value in spliced])


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_every_value_at_its_border(number: int) -> None:
    fields = {field["name"]: field["type"] for field in SCHEMAS[number]["fields"]}
    fitting = {"rating": 5, "pieces": 3, "amount": 7, "city": "Paris"} if number in (2, 4) else {}
    good = {name: (event() | fitting)[name] for name in fields}
    values = [(name, value) for name, kind in fields.items() for value in borders(kind)]
    got = assert_agreed([(written(good | {name: value}, number), b"o1") for name, value in values])
    assert {outcome.reason for outcome in got if not isinstance(outcome, dict)} >= {"out of range", "key mismatch"}


def test_columns_alone_judge_what_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """No good message costs a row check, whatever its writer: the agreement isn't that of one check with itself."""
    older = written(event(rating=2.5), 2)
    some = [event(), event(serial=-(2**63)), event(serial=None, shipped_at=None), event(city=None, code=None)]
    batch = [written(one) for one in some] * 9000 + [older] * 20
    batch[20_000] = b"\x00\x00"

    def count(*_: Any) -> Any:
        asked.append(1)
        raise Rejected("asked", "")

    asked: list[int] = []
    monkeypatch.setattr(AvroRowChecker, "check", count)
    checked = COLUMNS.check(batch, [b"o1"] * len(batch), TEXTS)
    assert len(asked) == 1
    assert len(checked.index) == len(batch) - 1
    assert checked.rows.slice(len(checked.index) - 1)["serial"].to_pylist() == [None]


@settings(max_examples=200, deadline=None)
@given(records())
def test_what_is_accepted_is_what_avros_library_reads(message: bytes) -> None:
    try:
        found = ROWS.check(message, b"o1", TEXTS)
    except Rejected:
        return
    number = int.from_bytes(message[1:5], "big")
    read = fastavro.schemaless_reader(io.BytesIO(message[5:]), PARSED[number], None)
    assert found == dict.fromkeys(STREAM.fields) | read


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (None, b"o1", "empty"),
        (b"{}", b"o1", "no schema header"),
        (header(9) + written(event())[5:], b"o1", "unknown schema id"),
        (header(1) + bytes(3000), b"o1", "too large"),
        (written(event())[:-1], b"o1", "truncated Avro"),
        (written(event()).replace(b"\x01\x02\x0e", b"\x02\x02\x0e"), b"o1", "not Avro"),
        (header(1) + b"\x10placed-1\x04o1" + b"\xff" * 9 + b"\x02" + bytes(20), b"o1", "not Avro"),
        (header(1), b"o1", "truncated Avro"),
        (written(event()) + b"\x00", b"o1", "trailing bytes"),
        (header(1) + b"\x01", b"o1", "not Avro"),
        (header(1) + b"\xff" * 30, b"o1", "not Avro"),
        (header(1) + b"\x10placed-1\x04o1\x00" + bytes(8) + b"\x04", b"o1", "wrong union index"),
        (written(event()).replace(b"123", b"\xff23"), b"o1", "invalid UTF-8"),
        (written(event(placed_at=2**62)), b"o1", "out of range"),
        (written(event(amount=math.inf)), b"o1", "out of range"),
        (written(event(pieces=100)), b"o1", "out of range"),
        (written(event(city="Rome")), b"o1", "out of range"),
        (written(event(code="12")), b"o1", "out of range"),
        (written(event(order_id="x" * 13)), b"x" * 13, "out of range"),
        (written(event(gift=None), 3), b"o1", "wrong type"),
        (written(event(), 8), b"o1", "missing field"),
        (written(event(zip=""), 6), b"o1", "unknown field"),
        (written(event(pieces="3"), 5), b"o1", "unreadable schema"),
        (written(event(), 7), b"o1", "unreadable schema"),
        (written(event()), b"o2", "key mismatch"),
    ],
)
def test_each_fault_has_its_reason(value: bytes | None, key: bytes, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        ROWS.check(value, key, TEXTS)
    assert caught.value.rejection.reason == reason
    assert caught.value.rejection.detail.isprintable()


JSON_ROWS = RowChecker(JSON_STREAM)
JSON_VALUES = st.sampled_from(
    ["", "o2", "Paris", "Łódź", "12", "123", "2020-01-01T10:00:00Z", "2020-01-01T10:00:00", "2020-02-30T10:00:00Z",
     0, 1, 99, 100, 3.0, 3.5, 2**63, 2**53 + 1, 10**400, -10.5, 1e308, True, False, [], {}]
)  # fmt: skip
CHANGES = st.fixed_dictionaries(
    {
        "serial": st.none() | st.sampled_from(LONGS),
        "rating": st.none() | st.floats(width=64),
        "code": st.none() | st.sampled_from(STRINGS),
        "gift": st.booleans(),
        "pieces": st.sampled_from(LONGS),
        "amount": st.floats(allow_nan=False),
        "placed_at": st.sampled_from(MOMENTS),
    }
)


@settings(max_examples=100, deadline=None)
@given(st.lists(CHANGES, max_size=30))
def test_encoded_columns_are_what_avros_library_writes(changes: list[dict[str, Any]]) -> None:
    events = [event(**change) for change in changes]
    arrays = {name: pa.array([one[name] for one in events], None if events else pa.null()) for name in STREAM.fields}
    got = values(STREAM, conform(STREAM, pa.table(arrays), "test"), 1).to_pylist()
    for one in events:
        if one["rating"] is not None and not math.isfinite(one["rating"]):
            one["rating"] = None
    assert got == [written(one) for one in events]


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*STREAM.fields, "zip"]), st.none() | JSON_VALUES, max_size=2),
    st.sampled_from([*STREAM.fields, None]),
)
def test_a_source_s_event_is_taken_in_avro_just_if_it_is_in_json(changes: dict[str, Any], left_out: str | None) -> None:
    document = {name: value for name, value in (json_event() | changes).items() if name != left_out}
    key = str(document.get("order_id")).encode()
    outcomes: list[dict[str, Any] | None] = []
    for stream, check in ((JSON_STREAM, JSON_ROWS.check), (STREAM, ROWS.check)):
        try:
            outcomes.append(check(encode(stream, 1, document), key, TEXTS))
        except Rejected:
            outcomes.append(None)
    assert outcomes[0] == outcomes[1]


def test_a_required_value_that_is_null_is_named() -> None:
    table = conform(STREAM, pa.table({name: pa.array([value]) for name, value in event(gift=None).items()}), "test")
    with pytest.raises(DataQualityError, match="gift"):
        values(STREAM, table, 1)


@pytest.mark.parametrize("kind", AVRO_KINDS)
@pytest.mark.parametrize("stream", [STREAM, Stream.model_validate({
    "key": "n", "event_id": "n", "event_time": "t", "encoding": "avro",
    "fields": {"n": {"type": "integer", "maximum": 2**63 - 1}, "t": {"type": "timestamp"}}})],
    ids=["shop", "numbers"])  # fmt: skip
def test_every_kind_of_damage_is_refused(stream: Stream, kind: str) -> None:
    good = {"n": [7], "t": [EPOCH]} if "n" in stream.fields else {n: [v] for n, v in event().items()}
    table = conform(stream, pa.table(good), "test")
    value, key = values(stream, table, 1)[0].as_py(), keys(stream, table)[0].as_py()
    texts = {1: json.dumps(avro_schema(stream))}
    assert AvroRowChecker(stream).check(value, key, texts)
    with pytest.raises(Rejected) as caught:
        AvroRowChecker(stream).check(damage(stream, value, kind), key, texts)
    reasons = {"truncated": "truncated Avro", "wrong schema id": "unknown schema id"}
    if stream is STREAM:
        assert caught.value.rejection.reason == reasons.get(kind, kind)


def test_the_encoding_is_part_of_the_version_and_names_must_fit() -> None:
    assert contract_version(STREAM) != contract_version(JSON_STREAM)
    assert contract_version(JSON_STREAM) == "d1bd3aab9ac7"
    with pytest.raises(ValueError, match="Avro allows only letters"):
        Stream.model_validate(STREAM.model_dump() | {"fields": {"order-id": {"type": "string"}}})
    assert datetime.max.replace(tzinfo=UTC) - EPOCH == timedelta(microseconds=253_402_300_799_999_999)
