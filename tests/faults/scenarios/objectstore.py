"""The lake is in an object store, which is away for a while; and what disturbs a drain on a disk, there."""

from __future__ import annotations

import time

from tests.faults.outcome import Outcome
from tests.faults.rig import Bench, Rig, rounds
from tests.faults.scenarios.kills import kills
from tests.faults.scenarios.zombies import zombies
from tests.object_store import object_store
from tests.relay import Road, Weather, road

_EVENTS = 1000
_TIMES_A_LOAD = 6
_WEATHERS: tuple[Weather, ...] = ("closed", "cut", "silent")


def object_store_away(rig: Rig, times: int, events: int) -> Outcome:
    """Connections are refused, go silent or break off, under a drain or at its start; the drain never ends for it."""
    outcome = Outcome("object store away")
    with object_store() as store, road(store.address, rig.seed) as way, rig.on(store, way):
        for upto in rounds(times, _TIMES_A_LOAD):
            with rig.bench(0) as bench:
                while outcome.times < upto:
                    bench.produce(max(_EVENTS, events // times))
                    _away(rig, bench, way, outcome.times)
                    outcome.times += 1
                outcome.judge(bench)
    return outcome.ended()


def _away(rig: Rig, bench: Bench, way: Road, number: int) -> None:
    chance, done = rig.chance, bench.done()
    early = number % 4 == 3
    if early:
        way.weather("closed")
    drain = bench.drain(workers=chance.choice([1, 2]), batch=200)
    if not early:
        bench.moves(done)
        way.weather(_WEATHERS[number % len(_WEATHERS)])
    time.sleep(chance.uniform(0.5, 5.0))
    way.weather("open")
    drain.finish()


def object_store_kills(rig: Rig, times: int, events: int) -> Outcome:
    """kill -9 at every step and at random moments, and zombies, with the lake in an object store."""
    outcome = Outcome("kill -9, on S3")
    with object_store() as store, rig.on(store):
        for scenario, share in ((kills, times - times // 3), (zombies, times // 3)):
            found = scenario(rig, share, events // 2)
            outcome.times += found.times
            outcome.verdict += found.verdict
    return outcome.ended()
