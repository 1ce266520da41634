"""The Arrow layer against the slow reference, and the future's lack of influence, on random histories."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.errors import UseCaseError
from fasttrack.features.carry import Slot, pack, unpack
from fasttrack.features.clock import calendar_part, microseconds, to_microseconds
from fasttrack.features.compute import entity_columns, field_columns, key_codes
from fasttrack.features.plan import entity_plans, field_definitions, table_schema
from fasttrack.lake.schemas import event_schema
from fasttrack.usecase import UseCase
from tests.features_histories import assert_same, random_histories, shop
from tests.features_reference import Histories, Row, minutes, reference_rows

SHOP = shop()


def computed(usecase: UseCase, histories: Histories) -> dict[str, Row]:
    """The feature rows by event id, made by the kernel's Arrow layer."""
    point = usecase.prediction
    known = [
        e for e in histories[point.stream]
        if e[point.time_field] is not None and e["placed_at"] <= e[point.time_field] - point.lead
    ]  # fmt: skip
    times = pa.array([to_microseconds(e[point.time_field] - point.lead) for e in known], pa.int64())
    asked = pa.Table.from_pylist(known, event_schema(usecase.streams[point.stream]))
    columns = dict(field_columns(field_definitions(usecase), asked))
    for plan in entity_plans(usecase):
        spine = pa.table({**{f"k{i}": _text([e[k] for e in known]) for i, k in enumerate(plan.keys)}, "t": times})
        events = {}
        for feed in plan.feeds:
            rows = histories[feed.stream]
            layout = {f"k{i}": _text([e[k] for e in rows]) for i, k in enumerate(plan.keys)}
            layout["t"] = pa.array([to_microseconds(e[feed.time_field]) for e in rows], pa.int64())
            layout["id"] = _text([e[feed.id_field] for e in rows])
            numbers = {f: [None if e[f] is None else float(e[f]) for e in rows] for f in feed.fields}
            events[feed.stream] = pa.table(layout | {f: pa.array(n, pa.float64()) for f, n in numbers.items()})
        found = entity_columns(plan, spine, events)
        columns |= dict(zip(found.column_names, found.columns, strict=True))
    table = pa.table(columns).append_column("_prediction_time", times.cast(pa.timestamp("us", "UTC")))
    return {event["event_id"]: row for event, row in zip(known, table.to_pylist(), strict=True)}


def _text(values: list[object]) -> pa.Array:
    return pa.array([None if v is None else str(v) for v in values], pa.string())


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), orders=st.integers(0, 12), events=st.integers(0, 40))
def test_features_and_labels_equal_the_reference(seed: int, orders: int, events: int) -> None:
    histories = random_histories(seed, orders, events)
    expected = reference_rows(SHOP, histories)
    found = computed(SHOP, histories)
    assert found.keys() == expected.keys()
    for event_id, row in expected.items():
        assert_same(found[event_id], row)
        assert set(row) == set(table_schema(SHOP).names) - {"order_id", "_event_id"}


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nothing_at_or_after_the_prediction_time_changes_a_feature(seed: int) -> None:
    histories = random_histories(seed)
    before = computed(SHOP, histories)
    draw = random.Random(seed)
    for event_id, row in list(before.items())[:2]:
        now = row["_prediction_time"]
        changed = {"orders": histories["orders"]}
        for stream, field in (("visits", "seen_at"), ("parcels", "scanned_at")):
            past = [e for e in histories[stream] if e[field] < now]
            future = [e for e in histories[stream] if e[field] >= now and draw.random() < 0.7]
            moved = [e | {field: now + timedelta(minutes=draw.choice([0, 0, 1, 77]))} for e in future]
            added = [e | {field: now} for e in random_histories(seed + 1)[stream]]
            changed[stream] = draw.sample([*past, *moved, *added], len(past) + len(moved) + len(added))
        after = computed(SHOP, changed)[event_id]
        features = [name for name in row if not name.startswith("_label")]
        # Bit for bit, not about equal: a trace of the future in the last bit would be a leak too.
        assert repr([after[name] for name in features]) == repr([row[name] for name in features])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_the_input_does_not_matter(seed: int) -> None:
    histories = random_histories(seed)
    shuffled = {stream: random.Random(1).sample(events, len(events)) for stream, events in histories.items()}
    assert repr(sorted(computed(SHOP, histories).items())) == repr(sorted(computed(SHOP, shuffled).items()))


def test_an_event_of_the_very_moment_is_the_future_and_one_before_it_is_not() -> None:
    order = {
        "event_id": "o", "order_id": "1", "placed_at": minutes(0), "due_at": minutes(90), "customer": "a", "store": 1,
        "channel": "web", "express": True, "price": 3.0,
    }  # fmt: skip
    visit = {"event_id": "v", "customer": "a", "store": 1, "spent": 5.0, "returned": None}
    at = minutes(60)
    late, early = visit | {"seen_at": at}, visit | {"seen_at": at - timedelta(microseconds=1)}
    none = computed(SHOP, {"orders": [order], "visits": [late], "parcels": []})["o"]
    one = computed(SHOP, {"orders": [order], "visits": [early], "parcels": []})["o"]
    assert (none["visits_count_1h"], none["last_visit_spent"], none["recent_length"]) == (0.0, None, 0)
    assert (one["visits_count_1h"], one["last_visit_spent"], one["recent_length"]) == (1.0, 5.0, 1)
    assert one["last_visit_returned"] is None
    assert (one["express"], one["store"], one["price_class"]) == (1.0, "1", "3")


def test_the_label_is_the_first_known_one_from_the_prediction_time_on() -> None:
    order = dict.fromkeys(SHOP.streams["orders"].fields) | {
        "event_id": "o", "order_id": "1", "placed_at": minutes(0), "due_at": minutes(90),
    }  # fmt: skip
    scan = {"order_id": "1", "customer": None, "store": None}
    parcels = [
        scan | {"number": 1, "scanned_at": minutes(59), "late_minutes": 1.0},
        scan | {"number": 2, "scanned_at": minutes(60), "late_minutes": None},
        scan | {"number": 3, "scanned_at": minutes(61), "late_minutes": 3.0},
        scan | {"number": 4, "scanned_at": minutes(62), "late_minutes": 4.0},
    ]
    row = computed(SHOP, {"orders": [order], "visits": [], "parcels": parcels})["o"]
    assert (row["_label"], row["_label_time"]) == (3.0, minutes(61))
    assert row["spending_count_7d"] is None  # no customer, so not even a count
    assert row["order_scans_count_7d"] == 1.0


@settings(deadline=None)
@given(
    st.lists(st.datetimes(datetime(1971, 1, 1), datetime(2090, 1, 1)), max_size=20),
    st.sampled_from(["UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]),
)
def test_calendar_parts_are_those_of_the_wall_clock(moments: list[datetime], zone: str) -> None:
    times = np.array([to_microseconds(m.replace(tzinfo=UTC)) for m in moments], dtype=np.int64)
    local = [m.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)) for m in moments]
    assert calendar_part(times, "hour", zone).tolist() == [m.hour for m in local]
    assert calendar_part(times, "weekday", zone).tolist() == [m.weekday() for m in local]
    assert calendar_part(times, "month", zone).tolist() == [m.month for m in local]
    assert calendar_part(times, "day_of_year", zone).tolist() == [m.timetuple().tm_yday for m in local]


def test_an_unknown_time_zone_is_refused() -> None:
    with pytest.raises(UseCaseError, match="Mars/Olympus"):
        calendar_part(np.zeros(1, np.int64), "hour", "Mars/Olympus")


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.none() | st.sampled_from("ab")] * 2), max_size=12))
def test_key_codes_tell_keys_apart(keys: list[tuple[str | None, str | None]]) -> None:
    parts = [pa.chunked_array([pa.array([k[i] for k in keys], pa.string())]) for i in range(2)]
    first, second = key_codes([parts, parts])
    assert first.tolist() == second.tolist()
    for a, b in zip(keys, first, strict=True):
        assert (b < 0) == (None in a)
        for c, d in zip(keys, second, strict=True):
            if None not in a and None not in c:
                assert (a == c) == (b == d)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(allow_nan=False),
            st.none() | st.integers(-(2**31), 2**31 - 1),
            st.none() | st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
            st.lists(st.none() | st.floats(allow_nan=False), min_size=6, max_size=6),
        )
    )
)
def test_packed_columns_come_back_as_they_were(rows: list[tuple[object, ...]]) -> None:
    kinds = [pa.float64(), pa.int32(), pa.timestamp("us", "UTC"), pa.list_(pa.float64())]
    slots = [Slot(pa.field(f"c{i}", kind), 6 if i == 3 else 1) for i, kind in enumerate(kinds)]
    table = pa.table({f"c{i}": pa.array([row[i] for row in rows], kind) for i, kind in enumerate(kinds)})
    half = pack(None, table, slots[:2])
    payload = pa.chunked_array([pack(pa.chunked_array([half]), table, slots[2:])])
    for name, column in unpack(payload, slots).items():
        assert column.to_pylist() == table[name].to_pylist()


def test_durations_are_exact() -> None:
    assert microseconds(timedelta(days=3650, microseconds=1)) == 3650 * 86_400_000_000 + 1


def test_a_feature_may_not_take_the_name_of_a_key() -> None:
    with pytest.raises(UseCaseError, match="order_id"):
        table_schema(shop(**{"  price: {kind: field, field: price}": "  order_id: {kind: field, field: price}"}))


def test_a_key_that_is_a_feature_too_is_one_column() -> None:
    schema = table_schema(
        shop(**{"  price: {kind: field, field: price}": "  order_id: {kind: field, field: order_id}"})
    )
    assert schema.names.count("order_id") == 1
