"""The flights example: real rows become events, every one of which keeps its contract."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fasttrack.ingest.columncheck import ColumnChecker
from fasttrack.ingest.encode import conform, encode, keys
from fasttrack.ingest.source import Source, chosen, sampled
from fasttrack.usecase import load

FLIGHTS = Path(__file__).parents[2] / "examples" / "flights"
USECASE = load(FLIGHTS / "usecase.yaml")
SCHEMA_ID = 7


@pytest.fixture(scope="module")
def tables() -> dict[str, pa.Table]:
    spec = importlib.util.spec_from_file_location("flights_events", FLIGHTS / "events.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, pa.Table] = module.events()
    return found


def test_there_are_as_many_events_as_the_data_has(tables: dict[str, pa.Table]) -> None:
    counts = {name: table.num_rows for name, table in tables.items()}
    assert counts == {"scheduled": 336776, "departed": 328521, "landed": 327346, "cancelled": 8255, "weather": 26115}


@pytest.mark.parametrize("name", list(USECASE.streams))
def test_every_event_keeps_its_contract_and_comes_back_as_it_was(name: str, tables: dict[str, pa.Table]) -> None:
    stream = USECASE.streams[name]
    table = conform(stream, tables[name], name).combine_chunks()
    values, key = encode(table, SCHEMA_ID).to_pylist(), keys(stream, table).to_pylist()
    checked = ColumnChecker(stream).check(values, key, {SCHEMA_ID})
    assert checked.rejected == []
    assert checked.rows.equals(table)


@pytest.mark.parametrize("name", list(USECASE.streams))
def test_event_ids_are_unique(name: str, tables: dict[str, pa.Table]) -> None:
    assert pc.count_distinct(tables[name].column("event_id")).as_py() == tables[name].num_rows


def test_flights_land_when_schedule_and_delay_say(tables: dict[str, pa.Table]) -> None:
    landed = tables["landed"].join(
        tables["scheduled"].select(["flight_id", "scheduled_departure", "scheduled_minutes"]), "flight_id"
    )
    minutes = pc.divide(pc.subtract(landed["landed_at"], landed["scheduled_departure"]).cast(pa.int64()), 60_000_000)
    assert pc.all(pc.equal(minutes, pc.add(landed["scheduled_minutes"], landed["arrival_delay"]))).as_py()


def test_flights_land_after_they_were_in_the_air(tables: dict[str, pa.Table]) -> None:
    both = tables["landed"].join(tables["departed"].select(["flight_id", "departed_at"]), "flight_id")
    minutes = pc.divide(pc.subtract(both["landed_at"], both["departed_at"]).cast(pa.int64()), 60_000_000)
    on_the_ground = pc.subtract(minutes, both["air_minutes"])
    assert pc.min(on_the_ground).as_py() > 0
    assert pc.max(on_the_ground).as_py() < 240


def test_a_sample_keeps_whole_flights_and_all_weather(tables: dict[str, pa.Table]) -> None:
    entities = chosen(USECASE, tables["scheduled"], 0.05)
    few = {name: sampled(USECASE, table, entities) for name, table in tables.items()}
    flights = set(few["scheduled"]["flight_id"].to_pylist())
    assert 0.045 < len(flights) / tables["scheduled"].num_rows < 0.055
    assert few["weather"].num_rows == tables["weather"].num_rows
    for name in ("departed", "landed", "cancelled"):
        everything = set(tables[name]["flight_id"].to_pylist())
        assert set(few[name]["flight_id"].to_pylist()) == flights & everything


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.9])
def test_every_part_of_the_split_gets_its_share(tables: dict[str, pa.Table], share: float) -> None:
    entities = chosen(USECASE, tables["scheduled"], share)
    few = sampled(USECASE, tables["scheduled"], entities)
    low = datetime(2013, 1, 1, tzinfo=UTC)
    for high in USECASE.split.bounds():
        counts = [
            pc.sum(
                pc.and_(
                    pc.greater_equal(table["scheduled_departure"], pa.scalar(low + USECASE.prediction.lead)),
                    pc.less(table["scheduled_departure"], pa.scalar(high + USECASE.prediction.lead)),
                )
            ).as_py()
            for table in (few, tables["scheduled"])
        ]
        assert 0.6 * share < counts[0] / counts[1] < 1.6 * share
        low = high


def test_the_digest_is_stable_and_knows_the_sample() -> None:
    source = Source(USECASE)
    assert source.digest(0.05, 1) == Source(USECASE).digest(0.05, 1)
    assert len({source.digest(0.05, 1), source.digest(0.06, 1), source.digest(0.05, 2)}) == 3
