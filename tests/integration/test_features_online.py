"""The online store on a real Redis: what is served equals what the offline path computes for the same moment."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fasttrack.errors import ConfigurationError, InvalidRequestError, NotFoundError, UnavailableError
from fasttrack.features.online import OnlineStore, materialize
from fasttrack.features.online.definitions import AS_OF, View, feature_store, marker, project, views
from fasttrack.features.online.reader import Reader
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.features_histories import assert_number, assert_same, merged, random_histories, shop, write_lake
from tests.features_reference import Event, Histories, Row, minutes, reference_row, reference_rows
from tests.integration.gateway_redis import RedisServer, redis_server

SHOP = shop()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def history() -> Histories:
    return merged([random_histories(seed, orders=10, events=30, prefix=f"{seed}-") for seed in range(8)])


@pytest.fixture
def settings(tmp_path: Path, redis: RedisServer, history: Histories) -> Settings:
    write_lake(SHOP, tmp_path / "lake", history)
    return Settings(lake=str(tmp_path / "lake"), redis=redis.url)


def newest_orders(usecase: UseCase, history: Histories, moment: datetime) -> dict[str, Event]:
    """By order id the last order known at the moment that could still be asked about in time."""
    found: dict[str, Event] = {}
    for event in sorted(history["orders"], key=lambda e: (e["placed_at"], e["event_id"])):
        asked = None if event["due_at"] is None else event["due_at"] - usecase.prediction.lead
        if asked is not None and event["placed_at"] <= min(moment, asked) and asked >= moment - timedelta(hours=24):
            found[event["order_id"]] = event
    return found


def as_table(row: Row) -> Row:
    """A served row in the form of the feature table: flat sequence, None for NaN."""
    flat = [None if math.isnan(value) else value for step in row["recent"] for value in step]
    return row | {"recent": flat}


def features_only(row: Row) -> Row:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def keys_to_ask(view: View, history: Histories) -> list[dict[str, str]]:
    """Every combination of values that keys have in the history, which are stored and which are not."""
    values = {"order_id": [], "customer": [], "store": [], "fasttrack_usecase": [SHOP.name]}
    for event in [event for events in history.values() for event in events]:
        for name in set(values) & {name for name in event if event[name] is not None}:
            values[name].append(str(event[name]))
    found = product(*(dict.fromkeys([*values[name], "", "nobody", "\N{SNOWMAN}"]) for name in view.keys))
    return [dict(zip(view.keys, key, strict=True)) for key in found]


def test_the_reader_gives_what_feast_gives(tmp_path: Path, redis: RedisServer) -> None:
    """Also when Feast changes its layout: then what it writes and reads no longer is what we read."""
    usecase = shop(**{"place: {keys: [customer, store]}": "place: {keys: [store, customer]}"})
    history = merged([random_histories(seed, prefix=prefix) for seed, prefix in enumerate(["", "", "ключ ", "鍵\x00"])])
    for event in [event for events in history.values() for event in events]:
        event["customer"] = "" if event["customer"] == "a" else event["customer"]
    settings = Settings(lake=str(tmp_path / "lake"), redis=redis.url)
    write_lake(usecase, tmp_path / "lake", history)
    materialize(usecase, settings, as_of=minutes(300))
    feast = feature_store(usecase, settings, tmp_path / "registry.db")
    every = [*views(usecase), marker(usecase)]
    reader = Reader(settings, project(usecase), every)
    kinds, customers = set(), set()
    for view in every:
        keys, references = keys_to_ask(view, history), [f"{view.name}:{name}" for name in view.schema.names]
        (ours,) = reader.fetch([(view, keys)])
        theirs = feast.get_online_features(references, keys, full_feature_names=True).to_dict()
        for name in view.schema.names:
            column = [row[name] for row in ours]
            found = [value.tolist() if isinstance(value, np.ndarray) else value for value in column]
            assert repr(found) == repr(theirs[f"{view.name}__{name}"])
            assert {None} < {None if value is None else type(value) for value in found}, f"{view.name}:{name} is empty"
            kinds |= {type(value) for value in found}
        customers |= {key.get("customer") for key, row in zip(keys, ours, strict=True) if row[AS_OF] is not None}
    assert kinds == {str, int, float, list, type(None)}
    assert {"", "b", "ключ b", "鍵\x00b"} <= customers


@pytest.mark.parametrize("at", [90, 240, 333.5, 569, 570])
def test_served_values_are_those_of_the_moment(settings: Settings, history: Histories, at: float) -> None:
    moment = minutes(at)
    done = materialize(SHOP, settings, as_of=moment)
    store = OnlineStore(SHOP, settings)
    orders = newest_orders(SHOP, history, moment)
    assert done.as_of == moment
    assert done.rows["order"] == len(orders) > 5
    found = store.read([{"order_id": key} for key in orders], now=moment)
    for event, row in zip(orders.values(), found, strict=True):
        assert_same(as_table(row), features_only(reference_row(SHOP, history, event, moment)))
        assert (row["order_id"], row["_as_of"]) == (event["order_id"], moment)
        described = {name: event[name] for name in SHOP.streams["orders"].fields}
        assert repr(store.complete(described, now=moment)) == repr(row)


def test_parity_with_the_feature_table_at_each_rows_own_time(settings: Settings, history: Histories) -> None:
    """Materialized for a row's prediction time, the store serves that row of the feature table."""
    table = reference_rows(SHOP, history)
    events = {event["event_id"]: event for event in history["orders"]}
    store = OnlineStore(SHOP, settings)
    for event_id in sorted(table)[::12]:
        event, moment = events[event_id], table[event_id]["_prediction_time"]
        materialize(SHOP, settings, as_of=moment)
        described = {name: event[name] for name in SHOP.streams["orders"].fields}
        assert_same(as_table(store.complete(described)), features_only(table[event_id]))


def test_the_default_moment_is_the_last_prediction_time(settings: Settings, history: Histories) -> None:
    expected = max(row["_prediction_time"] for row in reference_rows(SHOP, history).values())
    assert materialize(SHOP, settings).as_of == expected


def test_events_that_came_late_are_served_after_the_next_run_for_the_same_moment(settings: Settings) -> None:
    moment = minutes(300)
    materialize(SHOP, settings, as_of=moment)
    store = OnlineStore(SHOP, settings)
    asked = {"customer": "late", "due_at": moment}
    assert store.complete(asked)["visits_count_1h"] == 0.0
    visit = {
        "event_id": "x",
        "customer": "late",
        "store": None,
        "seen_at": minutes(299),
        "spent": 7.0,
        "returned": True,
    }
    write_lake(SHOP, Path(settings.lake), {"visits": [visit]})
    materialize(SHOP, settings, as_of=moment)
    row = store.complete(asked)
    assert (row["visits_count_1h"], row["last_visit_spent"], row["last_visit_returned"]) == (1.0, 7.0, 1.0)
    assert row["recent_length"] == 1


def test_a_key_whose_events_went_out_of_reach_is_empty_again(settings: Settings) -> None:
    materialize(SHOP, settings, as_of=minutes(300))
    store = OnlineStore(SHOP, settings)
    asked = {"customer": "3-a", "store": 1}
    assert store.complete(asked)["spending_count_7d"] > 0
    materialize(SHOP, settings, as_of=minutes(60 * 24 * 30))
    row = store.complete(asked)
    assert (row["spending_count_7d"], row["spending_mean_7d"], row["recent_length"]) == (0.0, None, 0)


def test_missing_keys_and_fields_are_missing_values(settings: Settings) -> None:
    materialize(SHOP, settings, as_of=minutes(300))
    row = OnlineStore(SHOP, settings).complete({"price": 3})
    assert row["price"] == 3.0
    assert row["spending_count_7d"] is None
    assert row["channel"] is None
    assert row["due_hour"] is None
    assert [math.isnan(value) for step in row["recent"] for value in step] == [True] * 9


def test_what_cannot_be_answered_is_refused(settings: Settings) -> None:
    store = OnlineStore(SHOP, settings)
    with pytest.raises(NotFoundError, match="holds no features"):
        store.complete({"customer": "a"})
    materialize(SHOP, settings, as_of=minutes(300))
    assert store.read([]) == []
    with pytest.raises(NotFoundError, match="'nowhere' is not in the online store"):
        store.read([{"order_id": "nowhere"}])
    with pytest.raises(InvalidRequestError, match="order_id"):
        store.read([{"order": "1"}])
    with pytest.raises(InvalidRequestError, match="no field 'colour'"):
        store.complete({"colour": "red"})
    for wrong in ({"price": "much"}, {"due_at": "soon"}, {"due_at": "2024-01-01T00:00:00"}, {"customer": 3}):
        with pytest.raises(InvalidRequestError, match="can't be"):
            store.complete(wrong)


def test_stale_features_are_refused(settings: Settings) -> None:
    materialize(SHOP, settings, as_of=minutes(300))
    store = OnlineStore(SHOP, settings)
    asked = {"due_at": "2024-01-01T07:30:00Z"}  # predicted two hours after the moment, which is just allowed
    assert store.complete(asked)["_as_of"] == minutes(300)
    with pytest.raises(UnavailableError, match="too old"):
        store.complete({"due_at": "2024-01-01T07:30:01Z"})
    with pytest.raises(UnavailableError, match="too old"):
        store.complete(asked, now=minutes(421))


def test_a_redis_that_is_gone_is_told_and_its_return_is_enough(settings: Settings, redis: RedisServer) -> None:
    materialize(SHOP, settings, as_of=minutes(300))
    store = OnlineStore(SHOP, settings)
    redis.kill()
    with pytest.raises(UnavailableError, match="doesn't answer"):
        store.complete({"customer": "a"})
    with pytest.raises(UnavailableError, match="doesn't answer"):
        materialize(SHOP, settings)
    redis.start()
    materialize(SHOP, settings, as_of=minutes(300))
    assert store.complete({"customer": "3-a"})["spending_count_7d"] > 0


def test_a_wrong_url_is_refused(settings: Settings) -> None:
    for url in ("http://127.0.0.1:1", "redis://", "redis://u:a%2Cb@127.0.0.1:1/0"):
        with pytest.raises(ConfigurationError):
            OnlineStore(SHOP, Settings(lake=settings.lake, redis=url))


def test_threads_share_a_store(settings: Settings, history: Histories) -> None:
    moment = minutes(240)
    materialize(SHOP, settings, as_of=moment)
    store = OnlineStore(SHOP, settings)
    keys = [{"order_id": key} for key in newest_orders(SHOP, history, moment)]
    alone = [repr(store.read([key], now=moment)) for key in keys]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda key: repr(store.read([key], now=moment)), keys * 5))
    assert together == alone * 5


def test_nothing_but_redis_is_called(settings: Settings, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    connect = socket.socket.connect

    def watch(self: socket.socket, address: Any) -> None:
        called.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watch)
    materialize(SHOP, settings, as_of=minutes(300))
    OnlineStore(SHOP, settings).complete({"customer": "a"})
    assert {address[1] for address in called} == {redis.port}


def test_two_use_cases_in_one_redis_do_not_meet(settings: Settings, tmp_path: Path, redis: RedisServer) -> None:
    other = shop(**{"name: shop": "name: shop-2"})
    write_lake(other, tmp_path / "lake", random_histories(50))
    apart = Settings(lake=settings.lake, redis=redis.url)
    materialize(SHOP, settings, as_of=minutes(300))
    with pytest.raises(NotFoundError):
        OnlineStore(other, apart).complete({"customer": "3-a"})
    materialize(other, apart, as_of=minutes(310))
    assert OnlineStore(other, apart).complete({"customer": "3-a"})["_as_of"] == minutes(310)
    row = OnlineStore(SHOP, settings).complete({"customer": "3-a"})
    assert row["_as_of"] == minutes(300)
    assert_number("count", min(row["spending_count_7d"], 1.0), 1.0, 1.0)
