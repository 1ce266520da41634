"""What the messages themselves may do: come again, be malformed; and topics that are deleted and made again."""

from __future__ import annotations

import itertools
import time

from fasttrack.errors import DataLossError
from tests.faults.load import Load
from tests.faults.oracle import compare
from tests.faults.outcome import Outcome
from tests.faults.rig import Bench, Rig, wait_for

_EVENTS = 4000


def redelivered(rig: Rig, times: int, events: int) -> Outcome:
    """Messages come again, up to all of them in a row, near their first copy and far from it, across restarts."""
    outcome = Outcome("redelivered")
    with rig.bench(max(_EVENTS, min(times, events) // 4), duplicates=0.0, bad=0.0) as bench:
        while outcome.times < times:
            before = bench.load.copies
            bench.produce(min(200_000, max(times - outcome.times, 8)), duplicates=1.0, bad=0.0)
            outcome.times += bench.load.copies - before
            drain = bench.drain(workers=2, batch=5000)
            time.sleep(rig.chance.uniform(0, 1.0))
            drain.kill()
        outcome.judge(bench)
        assert outcome.verdict.duplicates >= times
    return outcome.ended()


def malformed(rig: Rig, times: int, events: int) -> Outcome:
    """Half of the messages are malformed; the drain never ends for one, and keeps each of them with its bytes."""
    outcome = Outcome("malformed")
    with rig.bench(0) as bench:
        while outcome.times < times:
            before = bench.load.malformed
            bench.produce(2 * min(50_000, times - outcome.times) + 8, duplicates=0.0, bad=0.5)
            outcome.times += bench.load.malformed - before
            bench.drain(workers=2, batch=2000).finish()
        outcome.judge(bench)
        assert outcome.verdict.dead == bench.load.malformed >= times
    return outcome.ended()


def remade_topics(rig: Rig, times: int, events: int) -> Outcome:
    """Topics are deleted and made again: between drains or under one, with new events or with the same ones."""
    outcome = Outcome("remade topics")
    with rig.bench(0) as bench:
        rounds = itertools.count()
        while outcome.times < times:
            old, number = bench.load, next(rounds)
            bench.produce(max(_EVENTS, events // times))
            repeats = number % 3 == 2
            if number % 3 == 1:
                _delete_under_a_drain(rig, bench, outcome)
            else:
                outcome.judge(bench)
                bench.delete_topics()
            if repeats:
                bench.load = Load(old.usecase.name, old.seed, old.epoch, repeats=True)
                bench.open()
                bench.produce(len(old))
                outcome.judge(bench)
                bench.delete_topics()
            bench.load = Load(old.usecase.name, old.seed + 1, old.epoch + 1)
            bench.open()
            outcome.times += 2 if repeats else 1
        outcome.judge(bench)
    return outcome.ended()


def _delete_under_a_drain(rig: Rig, bench: Bench, outcome: Outcome) -> None:
    """The drain says that events are gone; what it had drained is there once."""
    before = bench.done()
    drain = bench.drain(until="forever", batch=50)
    wait_for(lambda: bench.done() > before, "progress")
    time.sleep(rig.chance.uniform(0, 0.2))
    bench.delete_topics()
    said = drain.finish(DataLossError.exit_code)
    assert "deleted" in said, said
    # All tables are decided up to the mark of the raw one, as nothing was killed in the middle of its commits.
    ends = bench.marks("raw")
    found = compare(bench.load, str(bench.lake), bench.topics, ends)
    outcome.verdict += found
    assert found.clean, f"{bench.load.usecase.name} in {bench.lake}: {found}"
