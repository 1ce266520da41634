"""What the lake has of a topic is counted, and compared, without holding it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from fasttrack.ingest import reconcile, records
from fasttrack.ingest.broker import Topic
from fasttrack.ingest.records import Records, stretches
from fasttrack.lake.append import Ledger
from fasttrack.lake.schemas import DEAD_LETTERS, DUPLICATES, REPLAYS, raw_schema
from fasttrack.lake.tables import dead_letters_path, duplicates_path, ensure, raw_path, replays_path
from fasttrack.settings import Settings
from tests.unit.ingest_usecase import usecase

SHOP = usecase("shop")
RAW = raw_schema(SHOP.streams["placed"])


def fill(schema: pa.Schema, known: dict[str, pa.Array], count: int) -> pa.Table:
    return pa.table({f.name: known.get(f.name, pa.nulls(count, f.type)) for f in schema}, schema=schema)


class World:
    """A lake whose tables have the offsets that they are given."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(lake=str(folder))
        self.tables = {
            raw_path(self.settings, SHOP, "placed"): RAW,
            duplicates_path(self.settings, SHOP): DUPLICATES,
            dead_letters_path(self.settings, SHOP): DEAD_LETTERS,
        }

    def append(self, table: int, topic_id: str, partition: int, offsets: list[int]) -> None:
        path, schema = list(self.tables.items())[table]
        ensure(path, schema)
        sign, count = "" if table else "_", len(offsets)
        known = {
            f"{sign}topic_id": pa.array([topic_id] * count),
            f"{sign}partition": pa.array([partition] * count, pa.int32()),
            f"{sign}offset": pa.array(offsets, pa.int64()),
        }
        ledger = Ledger(path, f"{topic_id}:{partition}")
        ledger.append(fill(schema, known, count), (ledger.mark or 0) + 1)


@contextmanager
def few_at_once(count: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "STRETCH", count)
        yield


FILES = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["now", "before"]), st.integers(0, 1),
        st.lists(st.integers(0, 20), min_size=1, max_size=8),
    ),
    max_size=6,
)  # fmt: skip
SPAN = st.tuples(st.integers(0, 22), st.integers(0, 22))


@budget(max_examples=25, deadline=None)
@given(FILES, SPAN, SPAN, st.integers(1, 9))
def test_rows_are_those_of_the_topic_within_the_spans(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[tuple[int, str, int, list[int]]],
    one: tuple[int, int],
    two: tuple[int, int],
    together: int,
) -> None:
    world = World(tmp_path_factory.mktemp("lake"))
    for file in files:
        world.append(*file)
    found = Records(SHOP, world.settings, "placed", "now")
    wanted: list[list[list[int]]] = []
    for partition, (low, high) in enumerate((one, two)):
        wanted.append([
            sorted(o for t, topic, p, offsets in files if (t, topic, p) == (table, "now", partition)
                   for o in offsets if low <= o < high)
            for table in range(3)
        ])  # fmt: skip
        with few_at_once(together):
            pieces = [found.offsets(partition, *piece) for piece in stretches(low, high)]
        got = [sorted(o for piece in pieces for o in piece[table].tolist()) for table in range(3)]
        assert got == wanted[partition]
    assert found.count([one, two]) == tuple(sum(len(each[table]) for each in wanted) for table in range(3))


def peak(action: Callable[[], object]) -> int:
    """The most bytes that Arrow's plain allocator has had at once up to now, once this has run with it."""
    before, pool = pa.default_memory_pool(), pa.system_memory_pool()
    pa.set_memory_pool(pool)
    try:
        action()
    finally:
        pa.set_memory_pool(before)
    return int(pool.max_memory())


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    world, rows, files = World(tmp_path), 10_000, 40
    for file in range(files):
        world.append(0, "now", 0, list(range(file * rows, (file + 1) * rows)))
    found, end = Records(SHOP, world.settings, "placed", "now"), rows * files

    def compare(together: int) -> Callable[[], None]:
        def run() -> None:
            with few_at_once(together):
                assert sum(len(found.offsets(0, *piece)[0]) for piece in stretches(0, end)) == end

        return run

    offsets_take = 8 * end
    # Of whole files the statistics are enough: not even their offsets are read.
    assert peak(lambda: found.count([(0, end)])) < offsets_take / 50
    assert peak(compare(rows)) < offsets_take / 5
    assert found.count([(1, end - 1)]) == (end - 2, 0, 0)


@pytest.mark.parametrize("together", [1, 3, 1000])
def test_what_sent_dead_letters_became_is_found_stretch_by_stretch(tmp_path: Path, together: int) -> None:
    world, sent = World(tmp_path), [(0, 3), (1, 900), (0, 5), (0, 4), (0, 700), (1, 2), (0, 6)]
    for table, partition, offsets in ((0, 0, [1, 3, 4, 7]), (0, 1, [3, 900]), (1, 0, [5, 700]), (2, 1, [2])):
        world.append(table, "now", partition, offsets)
    world.append(0, "before", 0, [6])
    ensure(path := replays_path(world.settings, SHOP), REPLAYS)
    known = {
        "stream": ["placed"], "topic": ["t"], "topic_id": ["now"], "state": ["done"], "sent_topic_id": ["now"],
        "partition": [0], "offset": [0], "round": [1], "fixed": [False], "contract_version": ["v"],
        "replayed_at": [datetime.now(UTC)],
    }  # fmt: skip
    columns = {name: pa.array(value * len(sent), REPLAYS.field(name).type) for name, value in known.items()}
    columns["sent_partition"] = pa.array([p for p, _ in sent], pa.int32())
    columns["sent_offset"] = pa.array([o for _, o in sent], pa.int64())
    Ledger(path, "replays").append(fill(REPLAYS, columns, len(sent)), 1)
    with few_at_once(together):
        found = reconcile._replays(SHOP, world.settings, "placed")
    assert found == reconcile.Replayed(sent=7, landed=3, duplicates=2, dead_lettered=1, pending=1)


def test_a_fault_that_spans_stretches_is_named_once() -> None:
    topic = Topic("shop.placed", "now", 2)
    faults: list[reconcile.Fault] = []
    for piece in ([(3, 4), (7, 9)], [(10, 14)], [(15, 15), (18, 19)]):
        reconcile._name(faults, "placed", topic, 0, piece)
    reconcile._name(faults, "placed", topic, 1, [(20, 21)])
    named = [(fault.partition, fault.first, fault.last) for fault in faults]
    assert named == [(0, 3, 4), (0, 7, 15), (0, 18, 19), (1, 20, 21)]
    reconcile._name(faults, "placed", topic, 1, [(n, n) for n in range(30, 130, 2)])
    assert len(faults) == 20 and np.all(np.diff([fault.first for fault in faults]) > 0)
