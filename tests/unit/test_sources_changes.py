"""What a table's replication messages tell, as records: the same whenever and from wherever they are read again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from fasttrack.ingest.sources.changes import Changes, Place
from fasttrack.ingest.sources.origin import Origin, Published
from fasttrack.ingest.sources.pgoutput import Begin, Change, Column, Commit, Message, Relation
from fasttrack.ingest.sources.source import Record

AT = datetime(2024, 5, 1, tzinfo=UTC)
ORIGIN = Origin(1, 5, 6, "7401", 1, "2024-05-01T00:00:00+00:00", "0/10")
TABLE = Relation(1, "public", "orders", "d", (Column(True, "id", 23, -1),))
OTHER = Relation(2, "public", "others", "d", (Column(True, "id", 23, -1),))


def stopped() -> None:
    """Nothing is wrong with the table, so it need not be looked at."""
    raise AssertionError


def changes(place: Place, wanted: tuple[str, ...] = ("insert", "update", "delete"), origin: Origin = ORIGIN) -> Changes:
    return Changes(place, origin, ("public", "orders"), lambda _: {23: int}, stopped, wanted, ["id"], "sources.shop")


def transactions(sizes: list[list[int]]) -> Iterator[Message]:
    """A transaction each, of rows of these tables; their commits lie one after the other."""
    yield from (TABLE, OTHER)
    for number, tables in enumerate(sizes, 1):
        yield Begin(number * 100, AT, number)
        for table in tables:
            yield Change("insert" if table == 1 else "update", table, (str(table),), None)
        yield Commit(number * 100, number * 100 + 50, AT)


def told(reader: Changes, messages: Iterator[Message]) -> list[tuple[Record, Place]]:
    """The records, and where to go on after each."""
    return [(record, reader.place) for record in map(reader.record, messages) if record is not None]


@given(st.lists(st.lists(st.sampled_from([1, 1, 2]), max_size=4), max_size=6), st.data())
def test_each_change_has_an_id_of_its_own_and_the_same_when_it_is_read_again(
    sizes: list[list[int]], data: st.DataObject
) -> None:
    every = told(changes(Place(0)), transactions(sizes))
    assert len(every) == sum(tables.count(1) for tables in sizes)
    ids = [record.fields["_change_id"] for record, _ in every if record.fields]
    assert len(set(ids)) == len(every)
    if every:
        again = data.draw(st.integers(0, len(every) - 1))
        rest = told(changes(every[again][1]), transactions(sizes))
        assert [record for record, _ in rest] == [record for record, _ in every[again + 1 :]]


def test_two_servers_or_one_that_was_set_back_never_give_one_id() -> None:
    """Their logs have the same places: a new event would count as a duplicate of an old one."""
    origins = [ORIGIN, Origin(1, 5, 6, "7402", 1, "", "0/10"), Origin(1, 5, 6, "7401", 2, "", "0/10")]
    ids = {
        record.fields["_change_id"]
        for origin in origins
        for record, _ in told(changes(Place(0), origin=origin), transactions([[1]]))
        if record.fields
    }
    assert len(ids) == 3


def test_a_position_that_was_written_before_the_table_was_in_it_is_taken_up() -> None:
    now = Published(ORIGIN.table, ORIGIN.publication, ORIGIN.member)
    older = {"phase": "stream", "server": "7401", "began_at": ORIGIN.began_at, "began_lsn": "0/10", "lsn": "0/20"}
    assert Origin.of(older, now, 1) == ORIGIN
    # From then on it is as it was, whatever there is now.
    assert Origin.of(older | ORIGIN.to_position(), Published(0, 0, 0), 2) == ORIGIN


def test_an_id_fits_a_contract_s_text_whatever_the_row_s_keys_are() -> None:
    ids = [str(ORIGIN.inserted(f"snapshot:{'k' * 500}{n}@7")["_change_id"]) for n in range(2)]
    assert len(set(ids)) == 2 and max(map(len, ids)) <= 256
