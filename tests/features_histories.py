"""A use case with every kind of feature, and random histories for it, full of ties, nulls and border cases."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from fasttrack.lake.schemas import raw_schema
from fasttrack.lake.tables import raw_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, parse
from tests.features_reference import Event, Histories, Row, minutes

TEXT = """
api_version: fasttrack.ai/v1
name: shop
streams:
  orders:
    key: order_id
    event_id: event_id
    event_time: placed_at
    fields:
      event_id: {type: string}
      order_id: {type: string}
      placed_at: {type: timestamp}
      due_at: {type: timestamp, nullable: true}
      customer: {type: string, nullable: true}
      store: {type: integer, nullable: true}
      channel: {type: string, nullable: true}
      express: {type: boolean, nullable: true}
      price: {type: number, nullable: true}
  visits:
    key: event_id
    event_id: event_id
    event_time: seen_at
    fields:
      event_id: {type: string}
      customer: {type: string, nullable: true}
      store: {type: integer, nullable: true}
      seen_at: {type: timestamp}
      spent: {type: number, nullable: true}
      returned: {type: boolean, nullable: true}
  parcels:
    key: order_id
    event_id: number
    event_time: scanned_at
    fields:
      number: {type: integer}
      order_id: {type: string}
      customer: {type: string, nullable: true}
      store: {type: integer, nullable: true}
      scanned_at: {type: timestamp}
      late_minutes: {type: number, nullable: true}
entities:
  order: {keys: [order_id]}
  customer: {keys: [customer]}
  place: {keys: [customer, store]}
prediction: {stream: orders, entity: order, time_field: due_at, lead: 30m}
label: {stream: parcels, field: late_minutes, unit: minutes, late_above: 5}
features:
  channel: {kind: field, field: channel}
  express: {kind: field, field: express}
  price: {kind: field, field: price}
  store: {kind: field, field: store, categorical: true}
  price_class: {kind: field, field: price, categorical: true}
  due_hour: {kind: field, field: due_at, transform: hour, timezone: America/New_York}
  due_day: {kind: field, field: due_at, transform: weekday, timezone: Asia/Kathmandu, categorical: true}
  order_scans: {kind: window, stream: parcels, entity: order, aggregates: [count], windows: [1h, 7d]}
  spending: {kind: window, stream: visits, entity: customer, field: spent, aggregates: [count, mean, max, std],
    windows: [30m, 4h, 7d]}
  visits: {kind: window, stream: visits, entity: customer, aggregates: [count], windows: [1h]}
  lateness: {kind: window, stream: parcels, entity: place, field: late_minutes, aggregates: [mean, std, count],
    windows: [2h]}
  last_visit: {kind: last, stream: visits, entity: customer, fields: [spent, returned], max_age: 3h, age: true}
  last_here: {kind: last, stream: visits, entity: place, fields: [spent], max_age: 2h}
  recent: {kind: sequence, stream: visits, entity: customer, fields: [spent, returned], length: 3, max_age: 5h}
split: {train_until: 2024-01-01T06:00:00Z, validate_until: 2024-01-01T08:00:00Z, test_until: 2025-01-01T00:00:00Z}
models: [{architecture: mlp}]
gate: {thresholds: [{metric: auc, at_least: 0.5}]}
quality: {max_missing: 1.0, min_rows: 1, max_label_missing: 1.0}
serving: {online_freshness: 2h}
roles: {buyer: {may: [predict]}}
"""


def shop(**replaced: str) -> UseCase:
    """The use case, with parts of its text replaced: ``shop(**{"old text": "new text"})``."""
    text = TEXT
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    return parse(text)


def random_histories(seed: int, orders: int = 8, events: int = 25, prefix: str = "") -> Histories:
    """Events of a few customers in a few hours, at whole half hours as often as not, so that times collide.

    Args:
        seed: of the history.
        orders: number of prediction events.
        events: number of events of each other stream.
        prefix: put before ids and customers, so that several histories can lie in one lake.
    """
    draw = random.Random(seed)

    def time(latest: int = 600) -> Any:
        return minutes(30 * draw.randrange(latest // 30) if draw.random() < 0.6 else draw.randrange(60 * latest) / 60)

    def maybe(value: Any) -> Any:
        return None if draw.random() < 0.15 else value

    def who() -> dict[str, Any]:
        return {"customer": maybe(prefix + draw.choice("abc")), "store": maybe(draw.randrange(2))}

    def money() -> float | None:
        return maybe(draw.choice([round(draw.gauss(20, 50), 2), 0.1, 1e7 + draw.random(), -3.0]))

    placed = [
        {
            "event_id": f"{prefix}o{i}", "order_id": f"{prefix}{draw.randrange(orders)}", "placed_at": time(300),
            "due_at": maybe(time()), "channel": maybe(draw.choice(["web", "shop"])),
            "express": maybe(draw.random() < 0.5), "price": money(), **who(),
        }
        for i in range(orders)
    ]  # fmt: skip
    seen = [
        {
            "event_id": f"{prefix}v{draw.random()}",
            "seen_at": time(),
            "spent": money(),
            "returned": maybe(draw.random() < 0.5),
            **who(),
        }
        for _ in range(events)
    ]
    scanned = [
        {
            "number": hash((seed, i)) % 10**9,
            "order_id": f"{prefix}{draw.randrange(max(orders, 1))}",
            "scanned_at": time(),
            "late_minutes": money(),
            **who(),
        }
        for i in range(events)
    ]
    return {"orders": placed, "visits": seen, "parcels": scanned}


def merged(parts: list[Histories]) -> Histories:
    """Several histories as one."""
    return {stream: [event for part in parts for event in part[stream]] for stream in parts[0]}


def write_lake(usecase: UseCase, folder: Path, histories: Histories, mode: str = "append") -> Settings:
    """Append the events to raw tables as the drain lays them out; gives settings with that lake."""
    settings = Settings(lake=str(folder))
    for stream, events in histories.items():
        schema = raw_schema(usecase.streams[stream])
        if events:
            write_deltalake(
                raw_path(settings, usecase, stream), pa.Table.from_pylist(_provenance(events), schema), mode=mode
            )
    return settings


def _provenance(events: list[Event]) -> list[Event]:
    place = {"_topic_id": "t", "_partition": 0, "_ingested_at": minutes(0)}
    return [event | place | {"_offset": offset} for offset, event in enumerate(events)]


def assert_same(found: Row, expected: Row, scale: float = 1e7) -> None:
    """Equal values; numbers to 1e-9 of themselves, or of the largest number in the history for differences of such."""
    for name, value in expected.items():
        got = found[name]
        if isinstance(value, list):
            assert len(got) == len(value), name
            for one, other in zip(got, value, strict=True):
                assert_number(name, one, other, scale)
        elif isinstance(value, float):
            assert_number(name, got, value, scale)
        else:
            assert got == value, (name, got, value)


def assert_number(name: str, found: float | None, expected: float | None, scale: float) -> None:
    """Both missing, or equal but for rounding."""
    if expected is None or found is None:
        assert found is None, (name, found, expected)
        assert expected is None, (name, found, expected)
        return
    assert abs(found - expected) <= 1e-9 * abs(expected) + 1e-15 * scale, (name, found, expected)
