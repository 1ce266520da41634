"""What befalls a replicated table, its publication and its server: what can be told is told, what is lost is named."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from fasttrack.errors import ConfigurationError, DataLossError, FastTrackError
from fasttrack.ingest.sources import changestream, snapshot
from fasttrack.ingest.sources.replication import ReplicationReader
from fasttrack.ingest.sources.source import Position, Record
from fasttrack.local.platform import Platform
from tests.integration.replicated_orders import begun, drop_slots, reopened, replicated_orders, upto
from tests.integration.source_tables import ORDERS, place, run, session, take
from tests.local_homes import running_platform
from tests.unit.gateway_harness import until

SWAP = "ALTER TABLE orders RENAME TO orders_old; CREATE TABLE orders (LIKE orders_old INCLUDING ALL)"

PLAIN = "LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"


@pytest.fixture
def slot() -> str:
    return f"test_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def dsn(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(changestream, "_LOOK_SECONDS", 0.1)
    with replicated_orders(platform.settings().postgres) as url:
        yield url


def told(records: list[Record]) -> list[tuple[Any, ...]]:
    """The kind of change, and the row's id."""
    return [(record.fields["_change"], record.fields["id"]) for record in records if record.fields]


def until_it_stops(source: ReplicationReader, kind: type[FastTrackError], words: str) -> tuple[list[Record], str]:
    """What is told before the error, and what that says is to be done."""
    found: list[Record] = []
    with pytest.raises(kind, match=words) as stop:
        take(source, lambda got: bool(found.extend(got[len(found) :])), 30)
    source.close()
    return found, str(stop.value.fix)


def test_changes_that_were_not_read_when_a_column_s_type_changed_keep_their_values(dsn: str, slot: str) -> None:
    with session(dsn) as shop:
        run(shop, "CREATE DOMAIN short AS text; ALTER TABLE orders ADD code short")
        source = begun(dsn, slot)
        _, position = upto(source, 0)
        source.close()
        place(shop, 0, 1)
        run(shop, "UPDATE orders SET note = 'abc', code = 'x'")
        run(shop, "UPDATE orders SET note = '5', code = '6'")
        run(
            shop,
            "ALTER TABLE orders ALTER note TYPE int USING note::int, ALTER code TYPE jsonb USING code::text::jsonb",
        )
        run(shop, "DROP DOMAIN short")
        place_one = "INSERT INTO orders (id, amount, placed_at, gift, note) VALUES (1, 2, now(), true, 7)"
        run(shop, place_one)
        again = reopened(dsn, slot, position)
        found = take(again, lambda got: len(got) == 4)
        assert [r.fields["note"] for r in found if r.fields] == ["order 0", "abc", "5", 7]
        assert [r.fields["code"] for r in found if r.fields] == [None, "x", "6", None]
        again.close()


@pytest.mark.parametrize("then", ["nothing", "writes to the new one", "writes to the old one"])
def test_another_table_in_the_place_of_the_one_that_is_read_is_told(dsn: str, slot: str, then: str) -> None:
    source = begun(dsn, slot, snapshot=False)
    with session(dsn) as shop:
        place(shop, 0, 2)
        assert told(upto(source, 2)[0]) == [("insert", 0), ("insert", 1)]
        run(shop, SWAP)
        if then != "nothing":
            run(shop, f"ALTER PUBLICATION {slot} ADD TABLE orders")
            table = "orders" if "new" in then else "orders_old"
            run(shop, f"INSERT INTO {table} (id, amount, placed_at, gift) VALUES (9, 1, now(), true)")
        found, fix = until_it_stops(source, DataLossError, "another one.*which is called public.orders_old now")
        assert found == [] and "another name" in fix


def read_one(dsn: str, slot: str, **options: Any) -> Position:
    """The position behind one order, that a reader read by the stream before it was closed."""
    source = begun(dsn, slot, snapshot=False, **options)
    with session(dsn) as shop:
        place(shop, 0, 1)
    _, position = upto(source, 1)
    source.close()
    return position


def test_what_was_not_read_before_another_table_took_the_place_is_told_first(dsn: str, slot: str) -> None:
    position = read_one(dsn, slot)
    with session(dsn) as shop:
        run(shop, "UPDATE orders SET amount = 7")
        run(shop, "DELETE FROM orders")
        run(shop, SWAP)
        place(shop, 5, 6)
        # However often it is started.
        for _ in range(2):
            found, _ = until_it_stops(reopened(dsn, slot, position), DataLossError, "another one")
            assert told(found) == [("update", 0), ("delete", 0)]


def test_a_snapshot_does_not_go_on_in_another_table(dsn: str, slot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_PAGE", 2)
    with session(dsn) as shop:
        place(shop, 0, 3)
        source = begun(dsn, slot)
        _, position = upto(source, 2)
        assert position["phase"] == "snapshot"
        source.close()
        run(shop, SWAP)
        with pytest.raises(DataLossError, match="another one"):
            reopened(dsn, slot, position)


def test_a_renamed_table_is_read_on_under_its_new_name(dsn: str, slot: str) -> None:
    source = begun(dsn, slot, snapshot=False)
    with session(dsn) as shop:
        place(shop, 0, 1)
        _, position = upto(source, 1)
        run(shop, "UPDATE orders SET amount = 7")
        run(shop, "ALTER TABLE orders RENAME TO purchases")
        found, fix = until_it_stops(source, ConfigurationError, "is called public.purchases now")
        assert told(found) == [("update", 0)] and "`table: public.purchases`" in fix
        run(shop, "DELETE FROM purchases")
        with pytest.raises(ConfigurationError, match="is called"):
            reopened(dsn, slot, position)
        again = reopened(dsn, slot, position, table="public.purchases")
        assert told(take(again, lambda got: len(got) == 2)) == [("update", 0), ("delete", 0)]
        assert again.read(0.3) is None
        again.close()


DROPPED = ("DROP PUBLICATION {slot}; DELETE FROM orders", "was dropped")
MADE_AGAIN = (
    "DROP PUBLICATION {slot}; DELETE FROM orders; CREATE PUBLICATION {slot} FOR TABLE orders",
    "was dropped and made again",
)
EMPTIED = (
    "CREATE TABLE o2 (id int); ALTER PUBLICATION {slot} SET TABLE o2; DELETE FROM orders",
    "no longer holds table orders",
)
HELD_AGAIN = (
    "CREATE TABLE o2 (id int); ALTER PUBLICATION {slot} SET TABLE o2; DELETE FROM orders; "
    "ALTER PUBLICATION {slot} ADD TABLE orders",
    "did not hold table orders all the time",
)
NARROWED = (
    "ALTER PUBLICATION {slot} SET (publish = 'insert'); DELETE FROM orders", "no longer publishes update, delete"
)  # fmt: skip
TABLE_DROPPED = ("DROP TABLE orders", "table orders was dropped")


@pytest.mark.parametrize(("harm", "words"), [DROPPED, MADE_AGAIN, EMPTIED, HELD_AGAIN, NARROWED, TABLE_DROPPED])
def test_changes_that_are_not_published_while_it_runs_are_told_as_lost(
    dsn: str, slot: str, harm: str, words: str
) -> None:
    source = begun(dsn, slot, snapshot=False)
    with session(dsn) as shop:
        place(shop, 0, 1)
        upto(source, 1)
        run(shop, "UPDATE orders SET amount = 7")
        for statement in harm.format(slot=slot).split("; "):
            run(shop, statement)
        found, fix = until_it_stops(source, DataLossError, words)
        assert told(found) == [("update", 0)] and "another name" in fix


@pytest.mark.parametrize(("harm", "words"), [DROPPED, MADE_AGAIN, EMPTIED, HELD_AGAIN])
def test_changes_that_were_not_published_while_it_was_away_are_told_as_lost(
    dsn: str, slot: str, harm: str, words: str
) -> None:
    """Those that came before are told first, and what the error says makes a new beginning."""
    position = read_one(dsn, slot)
    with session(dsn) as shop:
        run(shop, "UPDATE orders SET amount = 7")
        for statement in harm.format(slot=slot).split("; "):
            run(shop, statement)
        # A publication that is gone is not made anew as if nothing had been lost, however often it is started.
        for _ in range(2):
            found, fix = until_it_stops(reopened(dsn, slot, position), DataLossError, words)
            assert told(found) == [("update", 0)] and f"pg_drop_replication_slot('{slot}')" in fix
        drop_slots(shop)
        run(shop, f"DROP PUBLICATION IF EXISTS {slot}")
        place(shop, 5, 6)
        another = begun(dsn, slot)
        assert told(take(another, lambda got: len(got) == 1)) == [("insert", 5)]
        another.close()


def test_more_kinds_of_changes_are_told_from_when_the_publication_has_them(dsn: str, slot: str) -> None:
    position = read_one(dsn, slot, changes=["insert"])
    with session(dsn) as shop:
        place(shop, 1, 2)
        with pytest.raises(ConfigurationError, match="doesn't publish update") as asked:
            reopened(dsn, slot, position, changes=["insert", "update"])
        run(shop, str(asked.value.fix).partition(":")[0])
        run(shop, "UPDATE orders SET amount = 7 WHERE id = 1")
        again = reopened(dsn, slot, position, changes=["insert", "update"])
        assert told(take(again, lambda got: len(got) == 2)) == [("insert", 1), ("update", 1)]
        again.close()


def test_the_partitions_changes_are_told_as_the_table_s_or_it_is_refused(dsn: str, slot: str) -> None:
    with session(dsn) as shop:
        run(shop, "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)")
        run(shop, "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)")
        run(shop, f"CREATE PUBLICATION {slot} FOR ALL TABLES")
        options = {"table": "parts", "snapshot": False, "fields": {}}
        with pytest.raises(ConfigurationError, match="doesn't hold table parts"):
            begun(dsn, slot, **options)
        run(shop, f"DROP PUBLICATION {slot}")
        source = begun(dsn, slot, **options)
        run(shop, "INSERT INTO parts VALUES (3)")
        assert told(take(source, lambda got: len(got) == 1)) == [("insert", 3)]
        source.close()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_texts_of_a_database_of_another_encoding_are_the_same_in_rows_and_changes(
    platform: Platform, slot: str, encoding: str
) -> None:
    with replicated_orders(platform.settings().postgres, f"ENCODING '{encoding}' {PLAIN}") as dsn, session(dsn) as shop:
        shop.set_client_encoding("UTF8")
        insert = "INSERT INTO orders (id, amount, placed_at, gift, note) VALUES (%s, 1, now(), true, 'café')"
        run(shop, insert, (1,))
        source = begun(dsn, slot)
        run(shop, insert, (2,))
        found = take(source, lambda got: len(got) == 2)
        assert [record.fields["note"] for record in found if record.fields] == ["café", "café"]
        source.close()


def test_bytes_that_are_no_text_do_not_hold_up_the_changes_after_them(platform: Platform, slot: str) -> None:
    """They are kept as half surrogates, which no contract takes: a dead letter."""
    with (
        replicated_orders(platform.settings().postgres, f"ENCODING 'SQL_ASCII' {PLAIN}") as dsn,
        session(dsn) as shop,
    ):
        source = begun(dsn, slot)
        run(shop, "INSERT INTO orders (id, amount, placed_at, gift, note) VALUES (1, 1, now(), true, E'caf\\xe9')")
        place(shop, 2, 3)
        found = take(source, lambda got: len(got) == 2)
        assert [record.fields["note"] for record in found if record.fields] == ["caf\udce9", "order 2"]
        source.close()


def test_a_slot_that_the_server_gave_up_is_told_with_the_cure(dsn: str, slot: str) -> None:
    position = read_one(dsn, slot)
    with session(dsn) as shop:
        run(shop, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        try:
            run(shop, "SELECT pg_reload_conf()")
            until(lambda: run(shop, "SHOW max_slot_wal_keep_size") == [("1MB",)])
            for _ in range(3):
                run(shop, "CREATE TABLE filler (); DROP TABLE filler; SELECT pg_switch_wal()")
            run(shop, "CHECKPOINT")
        finally:
            run(shop, "ALTER SYSTEM RESET max_slot_wal_keep_size")
            run(shop, "SELECT pg_reload_conf()")
        with pytest.raises(DataLossError, match=f"gave up what replication slot {slot} held") as lost:
            reopened(dsn, slot, position)
        assert "max_slot_wal_keep_size" in str(lost.value.fix) and "another name" in str(lost.value.fix)
        drop_slots(shop)
        another = begun(dsn, slot)
        assert told(take(another, lambda got: len(got) == 1)) == [("insert", 0)]
        another.close()


def test_a_server_that_does_not_log_what_replication_needs_is_told_with_the_cure(slot: str) -> None:
    with running_platform(("postgres",)) as own:
        server = own.settings().postgres
        with session(server) as shop:
            run(shop, "ALTER SYSTEM SET wal_level = replica")
            run(shop, ORDERS)
        own.stop()
        own.start(("postgres",))
        with pytest.raises(ConfigurationError, match="wal_level is replica") as wrong:
            begun(server, slot)
        assert "wal_level = logical" in str(wrong.value.fix)
