"""Online features of one flight in a Redis of the test's own, through the real lake, kernel and Feast."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from fasttrack.features.online import materialize
from fasttrack.lake import tables
from fasttrack.lake.schemas import raw_schema
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

FLIGHT = "B6-100-JFK-1"
DEPARTURE = datetime(2013, 5, 2, 12, tzinfo=UTC)
AS_OF = DEPARTURE - timedelta(hours=2)


def events() -> dict[str, list[dict[str, Any]]]:
    """The flight, and what its aircraft did and its airport saw before."""
    same = {"carrier": "B6", "origin": "JFK", "destination": "LAX", "tail_number": "N1"}
    scheduled = {
        **same, "event_id": "s-1", "flight_id": FLIGHT, "published_at": DEPARTURE - timedelta(days=1), "number": 100,
        "scheduled_departure": DEPARTURE, "scheduled_minutes": 360, "distance": 2475, "seats": 150,
    }  # fmt: skip
    departed, landed = [], []
    for number in (1, 2, 3):
        at = AS_OF - timedelta(hours=8 * number)
        name = {**same, "flight_id": f"B6-{number}"}
        departed.append({**name, "event_id": f"d-{number}", "departed_at": at, "departure_delay": 10 * number})
        landed.append(
            {
                **name, "event_id": f"l-{number}", "landed_at": at + timedelta(hours=6), "departure_delay": 10 * number,
                "arrival_delay": 20 * number, "air_minutes": 330,
            }
        )  # fmt: skip
    weather = {"event_id": "w-1", "origin": "JFK", "observed_at": AS_OF - timedelta(hours=1), "wind_speed": 12.0}
    return {"scheduled": [scheduled], "departed": departed, "landed": landed, "cancelled": [], "weather": [weather]}


def fill(usecase: UseCase, settings: Settings) -> None:
    """Write a lake and materialize it into Redis as of two hours before departure."""
    for stream, given in events().items():
        schema = raw_schema(usecase.streams[stream])
        path = tables.raw_path(settings, usecase, stream)
        tables.ensure(path, schema)
        if given:
            write_deltalake(path, pa.Table.from_pylist(given, schema=schema), mode="append")
    materialize(usecase, settings, AS_OF)


def described() -> dict[str, Any]:
    """The flight's scheduling event as a client writes it."""
    (scheduled,) = events()["scheduled"]
    return {k: f"{v:%Y-%m-%dT%H:%M:%SZ}" if isinstance(v, datetime) else v for k, v in scheduled.items()}
