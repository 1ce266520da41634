"""What a table that is read by its cursor has to be like, and what may become of it meanwhile."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fasttrack.errors import ConfigurationError
from tests.integration.source_tables import ORDERS, ids, place, reader, run, session, take

GROWN_BY_TRIGGER = """
CREATE FUNCTION grow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.grown := nextval('Numbers'); RETURN NEW; END $$;
CREATE TRIGGER grow BEFORE INSERT OR UPDATE ON events FOR EACH ROW EXECUTE FUNCTION grow()
"""


@pytest.mark.parametrize(
    ("filled", "more"),
    [
        ("DEFAULT nextval('numbers')", ""),
        ("DEFAULT nextval('numbers')", "ALTER TABLE events RENAME TO other; CREATE VIEW events AS SELECT * FROM other"),
        ("DEFAULT 0", "ALTER SEQUENCE numbers OWNED BY events.grown"),
        ("DEFAULT 0", GROWN_BY_TRIGGER),
        ("GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME own CACHE 20)", ""),
    ],
    ids=["default", "view", "owned", "trigger", "identity"],
)
def test_a_sequence_that_gives_numbers_in_blocks_is_refused(dsn: str, filled: str, more: str) -> None:
    """A session goes on with the block that it took before others wrote, and its rows would be passed over."""
    with session(dsn) as shop:
        run(shop, "CREATE SEQUENCE numbers CACHE 20")
        run(shop, f"CREATE TABLE events (id int PRIMARY KEY, grown bigint NOT NULL {filled})")
        run(shop, more or "SELECT 1")
        source = reader(dsn, table="events", cursor="grown")
        with pytest.raises(ConfigurationError, match=r"20 numbers at once \(CACHE 20\)") as told:
            source.open(None)
        assert told.value.where == "sources.shop.cursor" and "CACHE 1, and let everybody" in str(told.value.fix)
        name = "own" if "own" in filled else "numbers"
        run(shop, f"ALTER SEQUENCE {name} CACHE 1")
        source.open(None)
        run(shop, f"ALTER SEQUENCE {name} CACHE 20")
        with pytest.raises(ConfigurationError, match="CACHE 20"):
            take(source, lambda got: False, 20)
        source.close()


def test_a_sequence_that_counts_down_is_refused(dsn: str) -> None:
    with session(dsn) as shop:
        run(shop, "CREATE SEQUENCE numbers INCREMENT -1; CREATE SEQUENCE others CACHE 20")
        run(shop, "CREATE TABLE events (id int DEFAULT nextval('others'), grown bigint DEFAULT nextval('numbers'))")
        source = reader(dsn, table="events", cursor="grown")
        with pytest.raises(ConfigurationError, match="counts down"):
            source.open(None)
        # What fills other columns is of no matter.
        run(shop, "ALTER SEQUENCE numbers INCREMENT 1")
        source.open(None)
        source.close()


@pytest.mark.parametrize(
    "made",
    [
        "CREATE MATERIALIZED VIEW shown AS SELECT * FROM orders",
        "CREATE MATERIALIZED VIEW late AS SELECT * FROM orders; CREATE VIEW shown AS SELECT * FROM late",
        "CREATE FOREIGN DATA WRAPPER far; CREATE SERVER other FOREIGN DATA WRAPPER far; "
        "CREATE FOREIGN TABLE shown (id int, updated_at timestamptz) SERVER other",
    ],
    ids=["materialized view", "view of one", "foreign table"],
)
def test_rows_that_come_up_otherwise_than_by_transactions_need_an_overlap(dsn: str, made: str) -> None:
    """A row that was written before those that were read may come up with the next REFRESH."""
    with session(dsn) as shop:
        run(shop, ORDERS)
        place(shop, 0, 3)
        run(shop, made)
        source = reader(dsn, table="shown")
        with pytest.raises(ConfigurationError, match="a foreign table or a materialized view") as told:
            source.open(None)
        assert "`overlap`" in str(told.value.fix)
        if "FOREIGN" not in made:
            source = reader(dsn, table="shown", overlap="200ms")
            source.open(None)
            assert ids(take(source, lambda got: len(got) == 3)) == [0, 1, 2]
        source.close()


@pytest.mark.parametrize(
    ("keys", "rows", "view"),
    [
        # Pages end within the rows of a key, between them, or not at all.
        ("int", "SELECT 1, 'x', moment FROM generate_series(1, 120)", False),
        ("int", "SELECT n / 2, 'x', moment FROM generate_series(1, 20) n", True),
        ("int", "SELECT n / 2, 'x', moment FROM generate_series(0, 9) n", False),
        # The same number, written in two ways.
        ("numeric", "SELECT n, 'x', moment FROM unnest('{1,2,3,4,5,6,7,8,9,10,10.0}'::numeric[]) n", False),
    ],
)
def test_rows_that_the_keys_do_not_tell_apart_are_never_passed_over(dsn: str, keys: str, rows: str, view: bool) -> None:
    with session(dsn) as shop:
        run(shop, f"CREATE TABLE events (id {keys}, other text, updated_at timestamptz)")
        run(shop, f"INSERT INTO events {rows.replace('moment', 'now()')}")
        run(shop, "CREATE VIEW seen AS SELECT * FROM events" if view else "ALTER TABLE events RENAME TO seen")
        source = reader(dsn, table="seen", batch=10)
        source.open(None)
        with pytest.raises(ConfigurationError, match=r"the same cursor and keys \(updated_at=20.*, id=") as told:
            take(source, lambda got: False, 20)
        assert told.value.where == "sources.shop.keys" and told.value.fix
        source.close()


def test_keys_need_not_be_unique_without_the_cursor_nor_have_an_index(dsn: str) -> None:
    with session(dsn) as shop:
        run(shop, "CREATE TABLE versions (id int, updated_at timestamptz(0))")
        run(shop, "INSERT INTO versions SELECT n / 3, now() - (n %% 3) * interval '1 s' FROM generate_series(0, 59) n")
        source = reader(dsn, table="versions", batch=7)
        source.open(None)
        found = take(source, lambda got: len(got) >= 60)
        assert Counter(ids(found)) == Counter(dict.fromkeys(range(20), 3))
        assert len({record.identity for record in found}) == 60 and source.lag() == 0
        source.close()


@pytest.mark.parametrize(
    ("change", "insert", "gives", "waits"),
    [
        ("ADD COLUMN remark text", "(2, 7, now(), 'new')", {"id": 2, "pieces": 7, "remark": "new"}, False),
        ("DROP COLUMN pieces", "(2, now())", {"id": 2}, False),
        ("RENAME COLUMN pieces TO parts", "(2, 7, now())", {"id": 2, "parts": 7}, True),
        ("ALTER COLUMN pieces TYPE text", "(2, 'seven', now())", {"id": 2, "pieces": "seven"}, True),
        # The cursor and the keys of what was read go on to be compared.
        ("ALTER COLUMN updated_at TYPE timestamp", "(2, 7, now())", {"id": 2, "pieces": 7}, True),
        ("ALTER COLUMN id TYPE bigint", f"({2**40}, 7, now())", {"id": 2**40, "pieces": 7}, False),
    ],
)
def test_a_table_that_is_altered_is_read_on_as_it_is_then(
    dsn: str, change: str, insert: str, gives: dict[str, Any], waits: bool
) -> None:
    """Between two looks, or while one waits for transactions."""
    with session(dsn) as shop, session(dsn, autocommit=False) as slow:
        run(shop, "CREATE TABLE orders (id int PRIMARY KEY, pieces int, updated_at timestamptz DEFAULT now())")
        run(shop, "INSERT INTO orders VALUES (1, 5)")
        source = reader(dsn)
        source.open(None)
        take(source, lambda got: len(got) == 1)
        if waits:
            # The look has seen a row, and waits for a transaction that was there before.
            run(slow, "SELECT 1")
            run(shop, "INSERT INTO orders VALUES (0, 6)")
            assert source.read(0.3) is None
        run(shop, f"ALTER TABLE orders {change}")
        run(shop, f"INSERT INTO orders VALUES {insert}")
        slow.commit()
        found = take(source, lambda got: len(got) == 1 + waits)
        assert {name: value for name, value in found[-1].fields.items() if name != "updated_at"} == gives
        assert source.lag() == 0
        source.close()


def test_a_cursor_that_is_no_longer_there_is_told(dsn: str) -> None:
    with session(dsn) as shop:
        run(shop, ORDERS)
        source = reader(dsn)
        source.open(None)
        run(shop, "ALTER TABLE orders RENAME updated_at TO changed_at")
        with pytest.raises(ConfigurationError, match="has no column 'updated_at'; it has id"):
            take(source, lambda got: False, 20)
        source.close()
