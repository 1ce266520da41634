"""A table whose changes are read from a replication slot, after a snapshot."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn, parse_dsn

from fasttrack.errors import ConfigurationError, DataLossError, UnavailableError
from fasttrack.ingest.sources import changestream, snapshot
from fasttrack.ingest.sources.source import Position, Record
from fasttrack.local.platform import Platform
from tests.integration.replicated_orders import begun, drop_slots, reader, reopened, replicated_orders, upto
from tests.integration.source_tables import place, run, session, take, working


@pytest.fixture
def slot() -> str:
    return f"test_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def dsn(platform: Platform) -> Iterator[str]:
    with replicated_orders(platform.settings().postgres) as url:
        yield url


def versions(records: list[Record]) -> Counter[tuple[Any, ...]]:
    """What was told: the kind of change, the row's id and its amount."""
    rows = [record.fields for record in records]
    return Counter((row["_change"], row["id"], row.get("amount")) for row in rows if row is not None)


def test_rows_then_changes_without_gap_or_overlap_as_plain_values(dsn: str, slot: str) -> None:
    with session(dsn) as shop:
        place(shop, 0, 3)
        source = begun(dsn, slot)
        run(shop, "UPDATE orders SET amount = 7, note = NULL WHERE id = 1")
        run(shop, "DELETE FROM orders WHERE id = 2")
        place(shop, 3, 4)
        found = take(source, lambda got: len(got) == 6)
        told = [(r.fields["_change"], r.fields["id"], r.fields.get("amount")) for r in found]
        assert told == [
            ("insert", 0, Decimal(0)), ("insert", 1, Decimal("0.25")), ("insert", 2, Decimal("0.50")),
            ("update", 1, Decimal(7)), ("delete", 2, None), ("insert", 3, Decimal("0.75")),
        ]  # fmt: skip
        fields = found[3].fields
        assert fields["placed_at"] == datetime(2024, 5, 1, 10, 0, 1, tzinfo=UTC)
        assert (fields["gift"], fields["note"]) == (False, None)
        assert fields["updated_at"] == found[1].fields["updated_at"]
        assert abs((datetime.now(UTC) - fields["_committed_at"]).total_seconds()) < 300
        assert set(found[4].fields) == {"id", "_change", "_change_id", "_lsn", "_committed_at"}
        assert len({record.identity for record in found}) == 6
        # Of one transaction, each has an id of its own all the same.
        place(shop, 10, 13)
        one_transaction = take(source, lambda got: len(got) == 3)
        assert len({record.fields["_lsn"] for record in one_transaction}) == 1
        assert len({record.fields["_change_id"] for record in found + one_transaction}) == 9
        assert source.read(0.3) is None
        source.close()


def test_a_value_that_python_can_not_hold_is_a_dead_letter_and_holds_up_nothing(dsn: str, slot: str) -> None:
    with session(dsn) as shop:
        run(shop, "ALTER TABLE orders ADD doc jsonb")
        place(shop, 0, 2)
        run(shop, "UPDATE orders SET doc = ('{\"n\": ' || repeat('9', 5000) || '}')::jsonb WHERE id = 1")
        source = begun(dsn, slot, fields={"code": "doc.n"})
        run(shop, "UPDATE orders SET amount = 7 WHERE id = 1")
        place(shop, 2, 3)
        found = take(source, lambda got: len(got) == 4)
        assert [record.fields and record.fields["id"] for record in found] == [0, None, None, 2]
        for record in found[1:3]:
            row = json.loads(record.raw or b"")
            assert "4300 digits" in row["_unreadable"]["doc"] and row["doc"].count("9") == 5000 and row["_change_id"]
        source.close()


def test_under_load_and_restarts_each_version_is_told_once(
    dsn: str, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle is a log that the writers keep in the same transactions."""
    monkeypatch.setattr(snapshot, "_PAGE", 50)
    monkeypatch.setattr(changestream, "_RECORDS", 20)
    with session(dsn) as shop:
        run(shop, "CREATE TABLE written (change text, id bigint, amount numeric)")
        place(shop, 0, 400)

    def write(done: threading.Event) -> None:
        rng = random.Random(threading.get_ident())
        with session(dsn, autocommit=False) as mine:
            while not done.is_set():
                # In order, so that the writers don't lock each other out.
                for number in sorted(rng.sample(range(500), rng.choice([1, 1, 3, 60]))):
                    write_one(mine, number, rng)
                mine.rollback() if rng.random() < 0.2 else mine.commit()

    def write_one(mine: Connection, number: int, rng: random.Random) -> None:
        amount: Any = rng.randrange(10**8)
        kind = "update"
        if not run(mine, "UPDATE orders SET amount = %s WHERE id = %s RETURNING 1", (amount, number)):
            kind, number = "insert", rng.randrange(1000, 10**9)
            place(mine, number, number + 1)
            amount = run(mine, "SELECT amount FROM orders WHERE id = %s", (number,))[0][0]
        run(mine, "INSERT INTO written VALUES (%s, %s, %s)", (kind, number, amount))

    source = begun(dsn, slot)
    position: Position | None = None
    found: list[Record] = []
    with working(write, write):
        for round_ in range(60):
            batch = source.read(0.1)
            if batch is None:
                continue
            # What isn't recorded is given again; what is recorded isn't.
            if round_ % 5 == 3:
                source.close()
                source = reader(dsn, slot)
                source.open(position)
                continue
            found += batch.records
            position = batch.position
            source.committed(position)
    with session(dsn) as shop:
        written = Counter(
            {(k, n, a): c for k, n, a, c in run(shop, "SELECT *, count(*) FROM written GROUP BY 1, 2, 3")}
        )
        end = run(shop, "SELECT max(id) FROM orders")[0][0] + 1
        place(shop, end, end + 1)
    found += take(source, lambda got: any(r.fields["id"] == end for r in got))
    source.close()
    at_start = {record.fields["id"] for record in found if record.identity.startswith("snapshot:")}
    streamed = versions([record for record in found if not record.identity.startswith("snapshot:")])
    del streamed["insert", end, versions(found[-1:]).popitem()[0][2]]
    assert streamed == written
    # Rows of the snapshot come at most once each; one that is missing changed before the restart that met it.
    changed = {number for kind, number, _ in written if kind == "update"}
    assert set(range(400)) - at_start <= changed
    assert len([r for r in found if r.identity.startswith("snapshot:")]) == len(at_start)
    assert len({record.identity for record in found}) == len(found)
    assert len({record.fields["_change_id"] for record in found}) == len(found)
    assert sum(written.values()) > 100


def test_a_large_transaction_is_taken_up_in_its_middle(dsn: str, slot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changestream, "_RECORDS", 100)
    source = begun(dsn, slot)
    assert take(source, lambda got: source.lag() == 0) == []
    with session(dsn) as shop:
        place(shop, 0, 350)
    first = [source.read(20), source.read(20)]
    assert [len(batch.records) for batch in first if batch] == [100, 100]
    source.committed(first[0].position)
    source.close()
    again = reopened(dsn, slot, first[0].position)
    rest = take(again, lambda got: len(got) == 250)
    assert rest[:100] == first[1].records
    assert [record.fields["id"] for record in rest] == list(range(100, 350))
    again.close()


def test_the_slot_moves_only_with_what_is_recorded(dsn: str, slot: str) -> None:
    def confirmed() -> str:
        with session(dsn) as shop:
            return run(
                shop, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", (slot,)
            )[0][0]

    source = begun(dsn, slot)
    take(source, lambda got: source.lag() == 0)
    with session(dsn) as shop:
        place(shop, 0, 5)
    batch = next(batch for batch in iter(lambda: source.read(1), 0) if batch)
    with session(dsn) as shop:
        at = run(shop, "SELECT %s::pg_lsn", (batch.position["lsn"],))[0][0]
        for _ in range(5):
            source.read(0.3)
        before = confirmed()
        assert run(shop, "SELECT %s::pg_lsn < %s::pg_lsn", (before, at)) == [(True,)]
        source.committed(batch.position)
        end = 100
        while not run(shop, "SELECT %s::pg_lsn >= %s::pg_lsn", (confirmed(), at))[0][0]:
            source.read(0.1)
            end -= 1
            assert end, "the slot did not move"
    source.close()


def test_a_start_that_was_not_recorded_is_made_anew_and_nothing_was_sent_of_it(dsn: str, slot: str) -> None:
    def slots() -> list[tuple[Any, ...]]:
        with session(dsn) as shop:
            return run(shop, "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", (slot,))

    with session(dsn) as shop:
        place(shop, 0, 5)
    first = reader(dsn, slot)
    first.open(None)
    # As long as it isn't recorded that there is no slot yet, none is made.
    intent = first.read(1)
    assert intent is not None and intent.records == [] and first.waiting()
    assert first.read(0.1) is None and slots() == []
    first.committed(intent.position)
    begin = first.read(1)
    assert begin is not None and begin.records == [] and first.waiting() and slots()
    assert first.read(0.1) is None
    first.close()
    with session(dsn) as shop:
        run(shop, "DELETE FROM orders WHERE id < 2")
    again = reopened(dsn, slot, intent.position)
    assert sorted(r.fields["id"] for r in take(again, lambda got: len(got) == 3)) == [2, 3, 4]
    again.close()


def test_a_slot_is_not_made_anew_by_a_start_that_knows_nothing_of_it(dsn: str, slot: str) -> None:
    """The checkpoint was lost, or the topic made again, or another environment has the same names."""
    with session(dsn) as shop:
        place(shop, 0, 3)
        source = begun(dsn, slot)
        _, position = upto(source, 3)
        source.close()
        run(shop, "UPDATE orders SET amount = 7 WHERE id = 0")
        run(shop, "UPDATE orders SET amount = 8 WHERE id = 0")
        run(shop, "DELETE FROM orders WHERE id = 1")
        other = reader(dsn, slot)
        # However often it is started.
        for unknowing in (None, None, {"phase": "begin", "server": "1"}):
            with pytest.raises(DataLossError, match="nothing is recorded of what was read") as told:
                other.open(unknowing)
        assert f"pg_drop_replication_slot('{slot}')" in str(told.value.fix)
        again = reopened(dsn, slot, position)
        kept = take(again, lambda got: len(got) == 3)
        assert [(r.fields["_change"], r.fields.get("amount")) for r in kept] == [
            ("update", Decimal(7)), ("update", Decimal(8)), ("delete", None),
        ]  # fmt: skip
        again.close()
        # The way that the error names.
        drop_slots(shop)
        other.open(None)
        assert [r.fields["id"] for r in take(other, lambda got: len(got) == 2)] == [0, 2]
        other.close()


def test_large_values_that_an_update_leaves_alone_are_not_made_up(dsn: str, slot: str) -> None:
    large = "".join(random.Random(1).choices("0123456789abcdef", k=20_000))
    with session(dsn) as shop:
        source = begun(dsn, slot, snapshot=False)
        place(shop, 0, 1)
        run(shop, "UPDATE orders SET note = %s", (large,))
        run(shop, "UPDATE orders SET amount = 5")
        run(shop, "ALTER TABLE orders REPLICA IDENTITY FULL")
        run(shop, "UPDATE orders SET amount = 6")
        inserted, updated, untold, told = take(source, lambda got: len(got) == 4)
        assert inserted.fields["note"] == "order 0" and updated.fields["note"] == large
        # The event needs `note`: rather a dead letter than an event with a value that nobody wrote.
        assert untold.fields is None and b'"_not_told":["note"]' in untold.raw
        assert (told.fields["note"], told.fields["amount"]) == (large, Decimal(6))
        source.close()


def test_a_changed_table_and_other_tables_are_told_right(dsn: str, slot: str) -> None:
    with session(dsn) as shop:
        source = begun(dsn, slot, snapshot=False)
        place(shop, 0, 1)
        run(shop, "CREATE TABLE others (id int PRIMARY KEY)")
        run(shop, f"ALTER PUBLICATION {slot} ADD TABLE others")
        run(shop, "INSERT INTO others VALUES (1)")
        run(shop, "ALTER TABLE orders ADD weight numeric DEFAULT 2.5, DROP COLUMN gift")
        run(shop, "UPDATE orders SET weight = 3")
        first, second = take(source, lambda got: len(got) == 2)
        assert "weight" not in first.fields and first.fields["gift"] is True
        assert second.fields["weight"] == Decimal(3) and "gift" not in second.fields
        source.close()


def test_a_broken_connection_is_told_and_reading_goes_on_in_both_phases(
    dsn: str, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_PAGE", 10)
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fasttrack-shop'"
    with session(dsn) as shop:
        place(shop, 0, 25)
        source = begun(dsn, slot)
        found = take(source, lambda got: len(got) == 10)
        run(shop, cut)
        with pytest.raises(UnavailableError, match="doesn't answer"):
            take(source, lambda got: len(got) == 15)
        found += take(source, lambda got: len(got) == 15)
        place(shop, 25, 26)
        found += take(source, lambda got: len(got) == 1)
        run(shop, cut)
        place(shop, 26, 27)
        with pytest.raises(UnavailableError):
            take(source, lambda got: len(got) == 1)
        end = 100
        while True:
            try:
                found += take(source, lambda got: len(got) == 1)
                break
            except UnavailableError:
                # The server may take a moment to see that the old connection is gone.
                end -= 1
                assert end
        assert [record.fields["id"] for record in found] == list(range(27))
        source.close()


def test_a_slot_that_is_gone_is_data_that_is_lost(dsn: str, slot: str) -> None:
    source = begun(dsn, slot)
    batch = source.read(1)
    assert batch is not None
    source.close()
    with session(dsn) as shop:
        drop_slots(shop)
    with pytest.raises(DataLossError, match="is gone") as told:
        source.open(batch.position)
    assert "another name" in str(told.value.fix)
    with pytest.raises(DataLossError, match="another server"):
        source.open({**batch.position, "server": "1"})


@pytest.mark.parametrize(
    ("prepare", "options", "words"),
    [
        ("CREATE VIEW seen AS SELECT * FROM orders", {"table": "seen"}, "is no table"),
        ("CREATE TABLE bare (id int)", {"table": "bare"}, "has no primary key"),
        ("CREATE PUBLICATION {slot} FOR TABLE orders WITH (publish = 'insert')", {}, "doesn't publish update, delete"),
        ("CREATE TABLE o2 (id int); CREATE PUBLICATION {slot} FOR TABLE o2", {}, "doesn't hold table orders"),
        ("SELECT 1", {"keys": ["number"]}, "has no column 'number'"),
        ("SELECT 1", {"table": "nothing"}, "does not exist"),
    ],
)
def test_what_cannot_be_replicated_is_told_before_anything_is_made(
    dsn: str, slot: str, prepare: str, options: dict[str, Any], words: str
) -> None:
    with session(dsn) as shop:
        run(shop, prepare.format(slot=slot))
        with pytest.raises(ConfigurationError, match=words) as told:
            reader(dsn, slot, **options).open(None)
        assert told.value.fix
        assert run(shop, "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", (slot,)) == []


def test_a_role_without_the_rights_is_told_which(dsn: str, slot: str) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    with session(dsn) as shop:
        run(shop, f"CREATE ROLE {role} LOGIN PASSWORD 'secret-word'; GRANT SELECT ON orders TO {role}")
        try:
            mine = reader(make_dsn(**{**parse_dsn(dsn), "user": role, "password": "secret-word"}), slot)
            with pytest.raises(ConfigurationError, match="no right to make a publication") as told:
                mine.open(None)
            assert "CREATE PUBLICATION" in str(told.value.fix)
            run(shop, f"CREATE PUBLICATION {slot} FOR TABLE orders")
            with pytest.raises(ConfigurationError, match=r"doesn't let us in|no right to make a slot"):
                mine.open(None)
        finally:
            run(shop, f"DROP OWNED BY {role}; DROP ROLE {role}")
