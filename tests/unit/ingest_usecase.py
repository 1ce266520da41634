"""A small use case with a field of every kind, and messages of it."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from fasttrack.ingest.encode import header
from fasttrack.usecase import UseCase, parse

YAML = """
api_version: fasttrack.ai/v1
name: {name}
streams:
  placed:
    key: order_id
    event_id: event_id
    event_time: placed_at
    partitions: {partitions}
    max_bytes: 2000
    fields:
      event_id: {{type: string, pattern: "[a-z]+-[0-9]+"}}
      order_id: {{type: string, max_length: 12}}
      placed_at: {{type: timestamp}}
      amount: {{type: number, minimum: -10.5, maximum: 1000}}
      rating: {{type: number, nullable: true}}
      pieces: {{type: integer, minimum: 1, maximum: 99}}
      serial: {{type: integer, nullable: true}}
      gift: {{type: boolean}}
      city: {{type: string, nullable: true, enum: [Paris, Łódź]}}
      code: {{type: string, nullable: true, pattern: "\\\\d{{3}}|none"}}
      shipped_at: {{type: timestamp, nullable: true}}
  paid:
    key: order_id
    event_id: event_id
    event_time: paid_at
    partitions: 2
    fields:
      event_id: {{type: string}}
      order_id: {{type: string}}
      paid_at: {{type: timestamp}}
      delay: {{type: number}}
entities:
  order: {{keys: [order_id]}}
prediction: {{stream: placed, entity: order, time_field: placed_at, lead: 1h}}
label: {{stream: paid, field: delay, late_above: 5}}
features:
  amount: {{kind: field, field: amount}}
split: {{train_until: 2020-01-01T00:00:00Z, validate_until: 2020-02-01T00:00:00Z, test_until: 2020-03-01T00:00:00Z}}
models: [{{architecture: mlp}}]
gate: {{thresholds: [{{metric: auc, at_least: 0.5}}]}}
roles: {{user: {{may: [predict]}}}}
replay: {{source: "{source}", seed: 7, duplicates: 0.05, malformed: 0.03, disorder: 10m}}
"""


def usecase(name: str = "shop", partitions: int = 3, source: str = "tests.unit.ingest_usecase:events") -> UseCase:
    """The use case; `source` as in ``replay.source``."""
    return parse(YAML.format(name=name, partitions=partitions, source=source))


def event(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A good event of stream ``placed``."""
    return {
        "event_id": f"placed-{number}",
        "order_id": f"o{number}",
        "placed_at": "2020-01-01T10:00:00Z",
        "amount": 12.25,
        "rating": None,
        "pieces": 3,
        "serial": 2**60,
        "gift": True,
        "city": "Łódź",
        "code": "123",
        "shipped_at": "2020-01-02T10:00:00.25Z",
    } | changes


def message(document: Any, schema_id: int = 1) -> bytes:
    """A message value."""
    return header(schema_id) + json.dumps(document).encode()


#: How many orders `events` gives.
ORDERS = 4000


def fingerprint() -> str:
    """The number of orders is not in the file's text once a test changes it."""
    return str(ORDERS)


def events() -> dict[str, pa.Table]:
    """A history: each order is placed, every second one paid."""
    start = 1_577_836_800
    moment = pa.timestamp("us", "UTC")
    placed = {
        "event_id": [f"placed-{n}" for n in range(ORDERS)],
        "order_id": [f"o{n}" for n in range(ORDERS)],
        "placed_at": pa.array([(start + 60 * n) * 1_000_000 for n in range(ORDERS)], moment),
        "amount": [n % 997 / 2 for n in range(ORDERS)],
        "rating": [None if n % 3 else float("nan") for n in range(ORDERS)],
        "pieces": [n % 99 + 1 for n in range(ORDERS)],
        "gift": [n % 2 == 0 for n in range(ORDERS)],
        "city": [("Paris", "Łódź", None)[n % 3] for n in range(ORDERS)],
    }
    paid = {
        "event_id": [f"paid-{n}" for n in range(0, ORDERS, 2)],
        "order_id": [f"o{n}" for n in range(0, ORDERS, 2)],
        "paid_at": pa.array([(start + 60 * n + 30) * 1_000_000 + 5 for n in range(0, ORDERS, 2)], moment),
        "delay": [float(n % 13) for n in range(0, ORDERS, 2)],
    }
    return {"placed": pa.table(placed), "paid": pa.table(paid)}
