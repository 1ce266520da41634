"""Tables whose keys are no plain numbers or texts: every row is read once, page by page, by both kinds of sources."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fasttrack.ingest.sources import snapshot
from fasttrack.ingest.sources.postgres import PostgresReader
from fasttrack.ingest.sources.source import Record, Source
from fasttrack.local.platform import Platform
from fasttrack.usecase.sources import PostgresSource
from tests.integration.replicated_orders import drop_slots, reader, replicated_orders
from tests.integration.source_tables import URL, run, session, take
from tests.unit.ingest_usecase import usecase

ROWS = 40
#: A key's type, and the key of row n.
KEYS = {
    "char(6)": "lpad((n / 7)::text || 'x', n %% 7, 'a') || ' '",
    "bit(9)": "n::bit(9)",
    "bit varying(12)": "n::bit(9)::varbit",
    "varchar(5)": "'k' || n",
    "numeric(8, 3)": "n / 8.0 - 2",
    "timestamptz(0)": "'2024-05-01Z'::timestamptz + n * interval '1 s'",
    "double precision": "n / 3.0",
    "uuid": "md5(n::text)::uuid",
    "inet": "'10.0.0.0'::inet + n",
    "boolean": "n %% 2 = 0",
    "letters": "(ARRAY['c', 'b', 'a'])[n %% 3 + 1]::letters",
    "int[]": "ARRAY[n %% 3, n]",
    "code": "(n || 'x')::code",
}
TYPES = "CREATE TYPE letters AS ENUM ('c', 'b', 'a'); CREATE DOMAIN code AS char(4);"


@pytest.fixture(scope="module")
def dsn(platform: Platform) -> Iterator[str]:
    """A database with a table for each type of key; `part` makes the keys different where the type can't."""
    with replicated_orders(platform.settings().postgres) as url:
        with session(url) as shop:
            run(shop, TYPES)
            for number, (kind, key) in enumerate(KEYS.items()):
                run(
                    shop,
                    f"CREATE TABLE keys_{number} (k {kind}, part int, grown int NOT NULL, PRIMARY KEY (k, part)); "
                    f"INSERT INTO keys_{number} SELECT {key}, n, n %% 3 FROM generate_series(1, {ROWS}) n",
                )
        yield url


@pytest.fixture
def slot(dsn: str) -> Iterator[str]:
    """A slot's name; it is dropped at the end, as a server has few."""
    yield f"keys_{uuid.uuid4().hex[:8]}"
    with session(dsn) as shop:
        drop_slots(shop)


def table(kind: str) -> str:
    return f"keys_{list(KEYS).index(kind)}"


def read(source: Source) -> list[Record]:
    """All that there is, in a bounded number of pages: a page that came again and again would show."""
    source.open(None)
    found: list[Record] = []
    for _ in range(ROWS):
        batch = source.read(0.2)
        if batch is not None:
            found += batch.records
            source.committed(batch.position)
        if source.lag() == 0:
            break
    return found


def numbers(records: list[Record]) -> Counter[Any]:
    return Counter(record.fields["part"] for record in records if record.fields)


def keys(records: list[Record]) -> dict[Any, Any]:
    return {record.fields["part"]: record.fields["k"] for record in records if record.fields}


@pytest.mark.parametrize("kind", KEYS)
def test_every_row_is_read_once(dsn: str, slot: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_PAGE", 7)
    every = Counter(range(1, ROWS + 1))
    given = {
        "kind": "postgres", "stream": "placed", "connection_env": URL, "table": table(kind), "cursor": "grown",
        "keys": ["k", "part"], "poll": "50ms", "batch": 7,
    }  # fmt: skip
    rows = PostgresReader(usecase(), "shop", PostgresSource.model_validate(given), {URL: dsn})
    by_cursor = read(rows)
    rows.close()
    assert numbers(by_cursor) == every
    source = reader(dsn, slot, table=table(kind), keys=["k", "part"], fields={})
    replicated = read(source)
    assert numbers(replicated) == every
    # And a row has the same key whichever way it comes.
    with session(dsn) as shop:
        run(shop, f"UPDATE {table(kind)} SET part = part")
    streamed = take(source, lambda got: len(got) == ROWS)
    source.close()
    for found in (replicated, streamed):
        assert keys(found) == keys(by_cursor)
