"""A table that is read by its cursor column while others write it."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from fasttrack.errors import ConfigurationError, UnavailableError
from fasttrack.ingest.sources.postgres_link import PostgresLink
from fasttrack.ingest.sources.snapshot import Snapshot
from tests.integration.source_tables import ORDERS, URL, ids, place, reader, run, session, take, working


def test_rows_come_in_the_order_of_the_cursor_as_plain_values_and_go_on_where_they_stopped(dsn: str) -> None:
    with session(dsn) as shop:
        run(shop, ORDERS)
        place(shop, 0, 25)
        source = reader(dsn, batch=10)
        source.open(None)
        assert source.lag() == 25
        found = take(source, lambda got: len(got) == 25)
        assert ids(found) == list(range(25))
        assert found[3].fields == {
            "id": 3, "amount": Decimal("0.75"), "placed_at": datetime(2024, 5, 1, 10, 0, 3, tzinfo=UTC), "gift": False,
            "note": "order 3", "updated_at": found[0].fields["updated_at"],
        }  # fmt: skip
        assert len({record.identity for record in found}) == 25
        assert source.lag() == 0
        run(shop, "UPDATE orders SET amount = 99, updated_at = now() WHERE id = 7")
        place(shop, 25, 26)
        (changed, new) = take(source, lambda got: len(got) == 2)
        assert (changed.fields["id"], changed.fields["amount"], new.fields["id"]) == (7, Decimal(99), 25)
        assert changed.identity != found[7].identity
        assert source.read(0.3) is None
        source.close()


def test_what_was_not_acknowledged_is_read_again_the_same(dsn: str) -> None:
    with session(dsn) as shop:
        run(shop, ORDERS)
        place(shop, 0, 30)
        source = reader(dsn, batch=10)
        source.open(None)
        batches = [source.read(20), source.read(20), source.read(20)]
        assert all(batches)
        again = reader(dsn, batch=10)
        again.open(batches[0].position)
        assert [again.read(20).records, again.read(20).records] == [batch.records for batch in batches[1:]]
        source.close()
        again.close()


@pytest.mark.parametrize("late_id", [True, False], ids=["writes first", "writes last"])
def test_rows_of_a_transaction_that_stays_open_are_not_passed_over(dsn: str, late_id: bool) -> None:
    """The transaction's now() lies before rows that are committed sooner; with `late_id` so does not even its id."""
    with session(dsn) as shop, session(dsn, autocommit=False) as slow:
        run(shop, ORDERS)
        source = reader(dsn)
        source.open(None)
        # The moment that now() gives is that of the first statement.
        run(slow, "SELECT now()")
        if not late_id:
            place(slow, 100, 103)
        place(shop, 0, 5)
        early = [source.read(0.2) for _ in range(5)]
        if late_id:
            place(slow, 100, 103)
        place(shop, 5, 8)
        early += [source.read(0.2) for _ in range(5)]
        assert [batch for batch in early if batch] == []
        slow.commit()
        found = take(source, lambda got: len(got) >= 11)
        assert sorted(ids(found)) == [*range(8), 100, 101, 102]
        assert source.read(0.3) is None
        source.close()


@pytest.mark.parametrize("column", ["timestamptz(0)", "bigint"])
def test_with_many_writers_each_row_is_read_once(dsn: str, column: str) -> None:
    """Transactions of any length, in any order, with a coarse clock or a sequence as the cursor."""
    counter = iter(range(10**6))
    committed: list[int] = []

    def write(done: threading.Event) -> None:
        rng = random.Random(next(counter))
        with session(dsn, autocommit=False) as mine:
            while not done.is_set():
                numbers = [next(counter) for _ in range(rng.randint(1, 4))]
                for number in numbers:
                    run(mine, "INSERT INTO events (id) VALUES (%s)", (number,))
                    time.sleep(rng.choice([0, 0, 0.01, 0.1]))
                if rng.random() < 0.2:
                    mine.rollback()
                else:
                    mine.commit()
                    committed.extend(numbers)

    default = "nextval('numbers')" if column == "bigint" else "now()"
    with session(dsn) as shop:
        run(shop, "CREATE SEQUENCE numbers")
        run(shop, f"CREATE TABLE events (id bigint PRIMARY KEY, grown {column} NOT NULL DEFAULT {default})")
        source = reader(dsn, table="events", cursor="grown", batch=20, poll="50ms")
        source.open(None)
        found: list[Any] = []
        with working(*[write] * 5):
            end = time.monotonic() + 4
            while time.monotonic() < end:
                if (batch := source.read(0.1)) is not None:
                    found += batch.records
        found += take(source, lambda got: len(found) + len(got) >= len(committed), 10)
        assert Counter(ids(found)) == Counter(committed)
        assert len(committed) > 50
        source.close()


def test_a_broken_connection_is_told_and_reading_goes_on(dsn: str) -> None:
    with session(dsn) as shop:
        run(shop, ORDERS)
        place(shop, 0, 5)
        source = reader(dsn)
        source.open(None)
        found = take(source, lambda got: len(got) == 5)
        run(shop, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fasttrack-shop'")
        place(shop, 5, 9)
        with pytest.raises(UnavailableError, match="doesn't answer"):
            take(source, lambda got: len(got) == 4)
        found += take(source, lambda got: len(got) == 4)
        assert ids(found) == list(range(9))
        source.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": "nothing"}, 'relation "nothing" does not exist'),
        ({"table": "nowhere.orders"}, "nowhere"),
        ({"cursor": "changed"}, "has no column 'changed'; it has id, amount"),
        ({"keys": ["number"]}, "has no column 'number'"),
        ({"cursor": "day", "table": "days"}, "a date is too coarse"),
        ({"table": "closed"}, "permission denied"),
    ],
)
def test_what_cannot_be_read_is_told_at_once_with_the_cure(dsn: str, options: dict[str, Any], words: str) -> None:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    with session(dsn) as shop:
        run(shop, ORDERS)
        run(shop, "CREATE TABLE days (id int PRIMARY KEY, day date)")
        run(shop, "CREATE TABLE closed (id int PRIMARY KEY, updated_at timestamptz)")
        run(shop, f"CREATE ROLE {role} LOGIN PASSWORD 'secret-word'")
        try:
            run(shop, f"GRANT SELECT ON orders, days TO {role}")
            source = reader(make_dsn(**{**parse_dsn(dsn), "user": role, "password": "secret-word"}), **options)
            with pytest.raises(ConfigurationError, match=words) as told:
                source.open(None)
            assert told.value.fix and "sources.shop" in str(told.value.where)
            source.close()
        finally:
            run(shop, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_row_without_a_cursor_is_refused_as_it_would_never_be_read(dsn: str) -> None:
    with session(dsn) as shop:
        run(shop, "CREATE TABLE orders (id int PRIMARY KEY, updated_at timestamptz)")
        run(shop, "INSERT INTO orders VALUES (1, now()), (2, NULL)")
        source = reader(dsn)
        source.open(None)
        with pytest.raises(ConfigurationError, match="has no updated_at"):
            take(source, lambda got: len(got) == 1)
        source.close()


def test_a_value_that_cannot_be_read_holds_nothing_up(dsn: str) -> None:
    with session(dsn) as shop:
        run(shop, "CREATE TABLE orders (id int PRIMARY KEY, amount jsonb, updated_at timestamptz DEFAULT now())")
        run(shop, "INSERT INTO orders VALUES (1, '1'), (2, repeat('9', 5000)::jsonb), (4, '2')")
        run(shop, "INSERT INTO orders VALUES (3, (repeat('[', 2000) || repeat(']', 2000))::jsonb)")
        source = reader(dsn)
        source.open(None)
        found = take(source, lambda got: len(got) == 4)
        assert [record.fields and record.fields["amount"] for record in found] == [1, None, 2, None]
        assert [list(json.loads(record.raw)["_unreadable"]) for record in found if record.raw] == [["amount"]] * 2
        source.close()


def test_a_database_without_an_encoding_is_read(dsn: str) -> None:
    """Any bytes may be in it, in keys too: UTF-8 is read as such, and no other byte is lost."""
    texts = [bytes([0xC3, 0xA9]), bytes([0xE9]), bytes([0xE9, 0xFF]), b"plain"]
    name = f"bytes_{uuid.uuid4().hex}"
    with session(dsn) as shop:
        run(shop, f"CREATE DATABASE {name} ENCODING SQL_ASCII TEMPLATE template0 LOCALE 'C' LOCALE_PROVIDER libc")
        try:
            url = make_dsn(**{**parse_dsn(dsn), "dbname": name})
            with session(url) as mine:
                run(mine, "CREATE TABLE orders (id text PRIMARY KEY, updated_at timestamptz DEFAULT now())")
                for text in texts:
                    run(mine, "INSERT INTO orders VALUES (convert_from(%s, 'SQL_ASCII'), '2024-05-01')", (text,))
            source = reader(url, batch=1)
            source.open(None)
            found = take(source, lambda got: len(got) == 4)
            assert [record.fields["id"].encode("utf-8", "surrogateescape") for record in found] == sorted(texts)
            source.close()
            # As a replicated table's snapshot has it.
            link = PostgresLink("shop", URL, "orders", {URL: url})
            with session(url, autocommit=False) as mine:
                columns = link.columns(connection := link.connect())
                snapshot = Snapshot(link, [columns["id"]], list(columns.values()), connection)
                snapshot.begin(run(mine, "SELECT pg_export_snapshot()")[0][0])
                assert [fields["id"] for _, fields in snapshot.page()] == [record.fields["id"] for record in found]
                snapshot.close()
        finally:
            run(shop, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"password": "wrong-word"}, ConfigurationError, "password authentication failed"),
        ({"dbname": "nothing"}, ConfigurationError, 'database "nothing" does not exist'),
        ({"port": "1"}, UnavailableError, "doesn't answer"),
    ],
)
def test_a_server_that_does_not_let_us_in_is_told_without_the_password(
    dsn: str, change: dict[str, str], kind: type[Exception], words: str
) -> None:
    source = reader(make_dsn(**{**parse_dsn(dsn), **change}))
    with pytest.raises(kind, match=words) as told:
        source.open(None)
    assert "wrong-word" not in str(told.value) and str(parse_dsn(dsn)["password"]) not in str(told.value)


@pytest.mark.parametrize("text", ["", "postgresql://user:secret-word@host:port/x?nothing=1", "secret-word"])
def test_a_connection_string_that_is_none_is_told_without_it(text: str) -> None:
    with pytest.raises(ConfigurationError, match=URL) as told:
        reader(text)
    assert "secret-word" not in str(told.value)


def test_another_cursor_cannot_take_up_a_position(dsn: str) -> None:
    with session(dsn) as shop:
        run(shop, ORDERS)
    source = reader(dsn)
    with pytest.raises(ConfigurationError, match="was read by placed_at, id until now"):
        source.open({"order": ["placed_at", "id"], "after": ["2024-01-01", "1"]})
