"""Whatever dies, stops or fills up while it drains: nothing is lost, nothing is there twice, every key is in order.

The short form of ``make faults``: the same scenarios and the same judge, fewer times.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable, write_deltalake

from fasttrack.ingest.drain import drain
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.replay import replay
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.faults.oracle import Verdict
from tests.faults.outcome import Outcome
from tests.faults.rig import Rig, running_rig, wait_for
from tests.faults.run import SEED
from tests.faults.scenarios.brokers import broker_kills, rebalances, registry_away
from tests.faults.scenarios.kills import kills
from tests.faults.scenarios.objectstore import object_store_away, object_store_kills
from tests.faults.scenarios.payloads import malformed, redelivered, remade_topics
from tests.faults.scenarios.storage import full_disks, power_cuts
from tests.faults.scenarios.transactions import transactions
from tests.faults.scenarios.zombies import second_drains, zombies
from tests.integration.drain_oracle import check
from tests.unit import ingest_usecase
from tests.unit.ingest_usecase import usecase

ORDERS = 4000


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A broker of our own, as it is killed, and a schema registry."""
    with running_rig(SEED) as running:
        yield running


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("scenario", "times", "events"),
    [
        (kills, 50, 100_000),
        (transactions, 10, 20_000),
        (zombies, 20, 40_000),
        (broker_kills, 10, 20_000),
        (rebalances, 10, 10_000),
        (full_disks, 10, 40_000),
        (redelivered, 20_000, 20_000),
        (malformed, 10_000, 0),
        (power_cuts, 20, 20_000),
        (second_drains, 2, 8_000),
        (remade_topics, 3, 12_000),
        (registry_away, 2, 8_000),
        (object_store_away, 4, 4_000),
        (object_store_kills, 12, 6_000),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_nothing_is_lost_twice_or_out_of_order(rig: Rig, scenario: object, times: int, events: int) -> None:
    assert callable(scenario)
    outcome: Outcome = scenario(rig, times, events)
    assert outcome.passed, outcome
    assert outcome.times >= times


def test_workers_end_when_their_parent_is_killed(rig: Rig) -> None:
    with rig.bench(20_000) as bench:
        running = bench.drain(workers=2, until="forever")
        bench.moves(0)
        workers = running.workers()
        assert len(workers) == 2
        os.kill(running.pid, signal.SIGKILL)
        wait_for(lambda: not running.workers(), "the workers' end")
        assert bench.judge().clean


def test_sigterm_ends_it_cleanly_with_all_tables_at_one_mark(rig: Rig) -> None:
    with rig.bench(20_000) as bench:
        running = bench.drain(workers=2, until="forever", batch=100)
        bench.moves(0)
        running.terminate()
        running.finish()
        # What was committed is settled in all three tables, so the next drain reads nothing again.
        assert bench.marks() == bench.marks("raw") == bench.marks("duplicates") == bench.marks("dead_letters")
        assert bench.judge().clean


def test_the_oracle_sees_each_fault(rig: Rig) -> None:
    """A judge that always says yes would pass every scenario."""
    with rig.bench(8000) as bench:
        assert bench.judge().clean
        table = DeltaTable(str(bench.lake / bench.load.usecase.name / "raw" / "placed"))
        rows = table.to_pyarrow_table()
        mine = ds.field("_partition") == 0

        def judged(changed: pa.Table) -> Verdict:
            write_deltalake(table, changed, mode="overwrite")
            return bench.judge()

        first = rows.filter(mine).sort_by("_offset").slice(0, 2)
        taken = pc.and_(pc.equal(rows["_partition"], 0), pc.is_in(rows["_offset"], first["_offset"]))
        rest = rows.filter(pc.invert(taken))
        assert judged(rest).lost == 2
        assert judged(pa.concat_tables([rows, first])).twice == 2
        swapped = first.set_column(first.schema.get_field_index("_offset"), "_offset", first["_offset"].take([1, 0]))
        found = judged(pa.concat_tables([rest, swapped]))
        assert (found.lost, found.twice, found.altered) == (0, 0, 2)
        strange = first.set_column(first.schema.get_field_index("_offset"), "_offset", pc.add(first["_offset"], 10**6))
        assert judged(pa.concat_tables([rows, strange])).invented == 2
        assert judged(rows).clean


def test_the_broker_is_killed_in_the_middle_of_a_replay(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_usecase, "ORDERS", ORDERS)
    shop: UseCase = usecase(f"replayed-{rig.chance.getrandbits(32):08x}")
    settings: Settings = replace(rig.settings, lake=str(tmp_path / "lake"))
    pids = [rig.part_pid("kafka")]
    seen = [0]

    def progress(count: int) -> None:
        seen[0] += count
        if seen[0] > 4000 and pids:
            os.kill(pids.pop(), signal.SIGKILL)

    report = replay(shop, settings, rate=4000.0, on_progress=progress)
    assert not pids
    drain(shop, settings)
    assert check(shop, settings) == report.produced
    assert reconcile(shop, settings).total.landed == ORDERS + ORDERS // 2
