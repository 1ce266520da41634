"""Messages of one layout give in columns what a JSON parser gives one by one, and any other message is left alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.ingest import columncheck
from fasttrack.ingest.columncheck import ColumnChecker
from fasttrack.ingest.contracts import header
from fasttrack.ingest.joined import Joined
from fasttrack.ingest.layout import learned, read
from tests.unit.ingest_usecase import event, usecase

HEAD = header(1)
SCHEMA = pa.schema(
    [
        pa.field("text", pa.string()),
        pa.field("whole", pa.int64()),
        pa.field("real", pa.float64()),
        pa.field("flag", pa.bool_()),
        pa.field("moment", pa.timestamp("us", "UTC")),
    ]
)
TEXTS = st.text(st.characters(exclude_characters='"\\', exclude_categories=["Cs", "Cc"]), max_size=200)
MOMENTS = st.datetimes(datetime(1000, 1, 1), datetime(2999, 12, 31, 23, 59, 59))
PLAIN = st.fixed_dictionaries(
    {
        "text": st.none() | TEXTS,
        "whole": st.none() | st.integers(-(10**18) + 1, 10**18 - 1),
        "real": st.none() | st.floats(-1e15, 1e15, allow_nan=False).filter(lambda x: "e" not in repr(x)),
        "flag": st.none() | st.booleans(),
        "moment": st.none() | MOMENTS,
    }
)


def written(values: dict[str, Any], order: list[str], space: str) -> bytes:
    """A message as a producer with this order and spacing writes it."""
    shown = {name: f"{value.isoformat()}Z" if isinstance(value, datetime) else value for name, value in values.items()}
    text = json.dumps({name: shown[name] for name in order}, ensure_ascii=False, separators=("," + space, ":" + space))
    return HEAD + text.encode()


def joined(messages: list[bytes]) -> Joined:
    return Joined(messages, np.array([len(one) for one in messages]), frozenset({1}), 2**20)


@given(st.lists(PLAIN, min_size=1, max_size=20), st.permutations(SCHEMA.names), st.sampled_from(["", " "]), st.data())
def test_plain_values_are_read_as_they_were_written(
    events: list[dict[str, Any]], order: list[str], space: str, data: st.DataObject
) -> None:
    left_out = data.draw(st.sets(st.sampled_from(order), max_size=4))
    order = [name for name in order if name not in left_out]
    messages = [written(one, order, space) for one in events]
    layout = learned(messages[0][len(HEAD) :], SCHEMA.names)
    assert layout is not None
    found = read(layout, joined(messages), np.arange(len(messages)), SCHEMA)
    assert found is not None
    rows, table = found
    assert rows.tolist() == list(range(len(events)))
    wanted = [{name: one[name] if name in order else None for name in SCHEMA.names} for one in events]
    assert [
        row | {"moment": row["moment"] and row["moment"].replace(tzinfo=None)} for row in table.to_pylist()
    ] == wanted


# What JSON does not allow, what another type is, and what a real parser has to look at.
ODD = {
    "text": ['"a\\nb"', '"', "'a'", "nul", "nullx", "5", '"a"b"', '"a" ', ""],
    "whole": ["01", "-", "1.0", "1e3", "+1", "1_0", '"1"', "0x10", "1" * 19, "-01", " 1", "", "null0", "١"],
    "real": ["01.5", "1.", ".5", "1e5", "NaN", "Infinity", "-", "1.2.3", '"1.5"', "1,5", "0x1p3", "-.5", "1" * 30, ""],
    "flag": ["True", "1", "tru", "truee", "falsee", "fals", '"true"', ""],
    "moment": [f'"{text}"' for text in (
        "", "2020-01-01", "2020-01-01 00:00:00Z", "2020-01-01T00:00Z", "2020-01-01T00:00:00", "2020-01-01T00:00:00.Z",
        "2020-01-01T00:00:00+0Z", "2020-01-01T00:00:00z", "2020-01-01t00:00:00Z", "2020-01-01T00:0:000Z",
        "2020-01-01T00:00:00.1234567Z", "0020-01-01T00:00:00Z", "3020-01-01T00:00:00Z", "202o-01-01T00:00:00Z",
        "2020-00-01T00:00:00Z", "2020-13-01T00:00:00Z", "2020-21-01T00:00:00Z", "2020-01-00T00:00:00Z",
        "2020-01-41T00:00:00Z", "2020-02-30T00:00:00Z", "2019-02-29T00:00:00Z", "2020-01-01T24:00:00Z",
        "2020-01-01T30:00:00Z", "2020-01-01T00:60:00Z", "2020-01-01T00:00:60Z",
    )],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD.items() for value in values])
def test_what_is_not_in_its_plainest_form_is_left_alone_and_its_neighbours_are_read(name: str, value: str) -> None:
    plain = {"text": '"a"', "whole": "1", "real": "1.5", "flag": "true", "moment": '"2020-01-01T00:00:00Z"'}
    texts = [
        "{" + ",".join(f'"{n}":{v}' for n, v in one.items()) + "}" for one in (plain, plain | {name: value}, plain)
    ]
    batch = joined([HEAD + text.encode() for text in texts])
    layout = learned(texts[0].encode(), SCHEMA.names)
    assert layout is not None
    found = read(layout, batch, np.flatnonzero(batch.open), SCHEMA)
    assert found is not None
    assert found[0].tolist() == [0, 2]
    assert found[1].column("whole").to_pylist() == [1, 1]


@pytest.mark.parametrize(
    "text", ["{}", "[]", "5", '{"text":"a","text":"b"}', '{"other":1}', '{"text":{"a":1}}', '{"text":"a"', '{"text":}']
)
def test_no_layout_is_learned_from_what_is_no_flat_event(text: str) -> None:
    assert learned(text.encode(), SCHEMA.names) is None


def test_texts_and_messages_of_any_length_are_read() -> None:
    texts = ["x" * length for length in (0, 7, 8, 63, 64, 65, 4000, 5000, 200_000)]
    messages = [HEAD + f'{{"text":"{text}","whole":1}}'.encode() for text in texts]
    layout = learned(messages[0][len(HEAD) :], SCHEMA.names)
    assert layout is not None
    found = read(layout, joined(messages), np.arange(len(messages)), SCHEMA)
    assert found is not None
    # What is longer than a few KiB is left to the parser.
    assert found[1].column("text").to_pylist() == texts[:7]


def test_several_producers_layouts_are_learned_in_turn_and_order_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columncheck, "_CHUNK", 10)
    stream = usecase().streams["placed"]
    checker = ColumnChecker(stream)
    start = datetime(2020, 1, 1, tzinfo=UTC)
    messages = []
    for number in range(200):
        moment = (start + timedelta(seconds=number)).isoformat()[:19] + "Z"
        one = event(number, placed_at=moment, serial=number)
        order = list(one) if number % 3 else list(reversed(one))
        space = "" if number % 2 else " "
        text = json.dumps({name: one[name] for name in order}, separators=("," + space, ":" + space))
        messages.append(HEAD + text.encode())
    checked = checker.check(messages, [f"o{number}".encode() for number in range(200)], {1})
    assert not checked.rejected
    assert checked.rows.column("event_id").to_pylist() == [f"placed-{number}" for number in range(200)]
    assert checked.index.tolist() == list(range(200))


def test_a_batch_is_looked_at_in_pieces_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columncheck, "_CHUNK_BYTES", 1000)
    messages = [HEAD + json.dumps(event(number, serial=number)).encode() for number in range(50)]
    messages.insert(20, HEAD + b'{"event_id":"' + b"x" * 3000 + b'"}')
    checker = ColumnChecker(usecase().streams["placed"])
    keys = [f"o{number}".encode() for number in range(50)]
    checked = checker.check([*messages, None], [*keys[:20], b"", *keys[20:], b""], {1})
    assert checked.rows.column("serial").to_pylist() == list(range(50))
    assert [at for at, _ in checked.rejected] == [20, 51]


@given(st.datetimes(datetime(1000, 1, 1), datetime(2999, 12, 31, 23, 59, 59)), st.integers(0, 6))
def test_moments_of_any_precision_are_what_arrow_makes_of_them(moment: datetime, digits: int) -> None:
    text = moment.strftime("%Y-%m-%dT%H:%M:%S") + (f".{moment.microsecond:06}"[: digits + 1] if digits else "") + "Z"
    message = f'{{"moment":"{text}"}}'.encode()
    layout = learned(message, SCHEMA.names)
    assert layout is not None
    found = read(layout, joined([HEAD + message]), np.arange(1), SCHEMA)
    assert found is not None
    assert found[1].column("moment").combine_chunks() == pa.array([text]).cast(pa.timestamp("us", "UTC"))
