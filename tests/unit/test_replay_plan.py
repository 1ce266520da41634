"""A replay is a deterministic plan: order, disorder, duplicates, damage, partitions, and what is left of it."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.errors import DataQualityError, UnavailableError, UseCaseError
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.columncheck import ColumnChecker
from fasttrack.ingest.damage import KINDS, damage
from fasttrack.ingest.encode import conform, encode, keys
from fasttrack.ingest.plan import blocks, partitions, plan
from fasttrack.ingest.rowcheck import Rejected, RowChecker
from fasttrack.ingest.source import Source
from fasttrack.usecase import load
from fasttrack.usecase.streams import Stream
from tests.unit.ingest_usecase import ORDERS, usecase

SHOP = usecase()
EVENTS = Source(SHOP).events(1.0)
FLIGHTS = load(Path(__file__).parents[2] / "examples" / "flights" / "usecase.yaml")


def test_the_same_seed_gives_the_same_plan() -> None:
    one, same, other = (plan(SHOP, "placed", EVENTS["placed"], seed) for seed in (1, 1, 2))
    assert one.messages(0, 500, 1) == same.messages(0, 500, 1)
    assert one.messages(0, 500, 1) != other.messages(0, 500, 1)


def test_a_plan_holds_what_was_declared() -> None:
    found = plan(SHOP, "placed", EVENTS["placed"], 7)
    whole = found.row[found.kind == 0]
    assert np.unique(whole).tolist() == list(range(ORDERS))
    assert len(whole) - ORDERS == found.duplicates == ORDERS * 0.05
    assert (found.kind > 0).sum() == ORDERS * 0.03
    assert set(found.kind.tolist()) == set(range(len(KINDS) + 1))
    assert sum(found.planned()) == len(found.row)


def test_disorder_is_there_and_bounded() -> None:
    found = plan(SHOP, "placed", EVENTS["placed"], 7)
    moment = EVENTS["placed"]["placed_at"].combine_chunks().cast(pa.int64()).to_numpy()[found.row]
    late = np.maximum.accumulate(moment) - moment
    assert 0 < late.max() <= timedelta(minutes=10) / timedelta(microseconds=1)


def test_all_copies_of_a_key_go_to_one_partition() -> None:
    found = plan(SHOP, "placed", EVENTS["placed"], 7)
    for partition in range(3):
        rows = found.row[found.partition == partition]
        others = found.row[found.partition != partition]
        assert not set(rows.tolist()) & set(others.tolist())
    assert partitions(pa.array([b"a", None, b"a"][::2], pa.binary()), 7).tolist() == [0xE8B7BE43 % 7] * 2


def test_streams_are_merged_by_time() -> None:
    plans = {name: plan(SHOP, name, table, 7) for name, table in EVENTS.items()}
    latest, sent = -math.inf, dict.fromkeys(plans, 0)
    for block in blocks(plans, 100):
        moments = [plans[n].when[low:high] for n, (low, high) in block.items()]
        assert min(m.min() for m in moments) >= latest
        latest = max(m.max() for m in moments)
        for name, (low, high) in block.items():
            assert low == sent[name]
            sent[name] = high
    assert sent == {name: len(p.row) for name, p in plans.items()}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 1600), min_size=3, max_size=3))
def test_what_is_left_follows_what_was_sent(sent: list[int]) -> None:
    found = plan(SHOP, "placed", EVENTS["placed"], 7)
    sent = [min(s, p) for s, p in zip(sent, found.planned(), strict=True)]
    left = found.without(sent)
    for partition, count in enumerate(sent):
        everything = np.flatnonzero(found.partition == partition)
        assert left.row[left.partition == partition].tolist() == found.row[everything[count:]].tolist()
        if count:
            at = everything[count - 1]
            assert found.last(partition, count, 1) == found.messages(at, at + 1, 1)[0][0]


def example_rows(stream: Stream) -> pa.Table:
    """One good event of a stream whose nullable fields are null."""
    texts = {"event_id": "x-1", "carrier": "UA", "origin": "EWR", "destination": "IAH"}
    columns: dict[str, pa.Array] = {}
    for name, field in stream.fields.items():
        if field.nullable:
            continue
        if field.type == "timestamp":
            columns[name] = pa.array([0], pa.timestamp("us", "UTC"))
        elif field.type == "string":
            columns[name] = pa.array([texts.get(name, "a")])
        else:
            columns[name] = pa.array([field.type != "boolean" and (field.minimum or 0)])
    return conform(stream, pa.table(columns), "example")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", [*SHOP.streams.values(), *FLIGHTS.streams.values()], ids=lambda s: s.event_time)
def test_every_kind_of_damage_is_refused_by_every_contract(stream: Stream, kind: str) -> None:
    table = example_rows(stream)
    value, key = encode(table, 1)[0].as_py(), keys(stream, table)[0].as_py()
    checker = RowChecker(stream)
    assert checker.check(value, key, {1})
    with pytest.raises(Rejected):
        checker.check(damage(stream, value, kind), key, {1})


def test_encoded_events_come_back_as_they_were() -> None:
    stream = SHOP.streams["placed"]
    nasty = ['"', "\\", "\n", "\x00", "é", "\U0001f600", "", "a b", "\x7f", "{}"]
    count = len(nasty)
    table = conform(
        stream,
        pa.table(
            {
                "event_id": [f"e-{n}" for n in range(count)],
                "order_id": nasty,
                "placed_at": pa.array([n * 1_000_001 for n in range(count)], pa.timestamp("us", "UTC")),
                "amount": [n / 3 for n in range(count)],
                "rating": [1e300, -1e-300, 5e-324, 0.1, None, 2**53 + 1.0, -0.0, 1e22, 1.0, 3.5],
                "pieces": list(range(1, count + 1)),
                "serial": [2**63 - 1, -(2**63), None, *range(count - 3)],
                "gift": [True, False] * 5,
            }
        ),
        "test",
    )
    checked = ColumnChecker(stream).check(encode(table, 1).to_pylist(), keys(stream, table).to_pylist(), {1})
    assert checked.rejected == []
    assert checked.rows.equals(table.combine_chunks())


def test_a_nan_is_sent_as_null() -> None:
    table = conform(SHOP.streams["placed"], EVENTS["placed"].slice(0, 1), "test")
    assert math.isnan(table["rating"][0].as_py())
    assert orjson.loads(encode(table, 1)[0].as_py()[5:])["rating"] is None


@pytest.mark.parametrize("source", ["nowhere:events", "missing.py:events", "tests.unit.ingest_usecase:nothing"])
def test_a_source_that_is_not_there_is_a_use_case_error(source: str) -> None:
    with pytest.raises(UseCaseError, match=r"replay\.source"):
        Source(usecase(source=source))


def test_a_source_that_does_not_fit_the_contract_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import pyarrow as pa\ndef events(): return {'placed': pa.table({'event_id': ['a']})}\n"
    )
    found = usecase(source=f"{tmp_path}/bad.py:events")
    with pytest.raises(DataQualityError, match="lacks column 'order_id'"):
        Source(found).events(1.0)


def test_a_broker_that_does_not_answer_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9: the Kafka broker does not answer"):
        Broker("127.0.0.1:9", patience=0.5).cluster_id()
