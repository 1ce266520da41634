"""Zombies: workers that are stopped, lose their partitions to another drain, and go on as if nothing had been."""

from __future__ import annotations

import signal
import time

from tests.faults import steps
from tests.faults.outcome import Outcome
from tests.faults.rig import Bench, Drain, Rig, Trip, rounds, send, wait_for

_EVENTS = 2000
_ZOMBIES_A_LOAD = 50
_SECONDS_A_LOAD = 10


def zombies(rig: Rig, times: int, events: int) -> Outcome:
    """Make zombies, one or two at once, while others drain."""
    outcome = Outcome("zombies")
    for upto in rounds(times, _ZOMBIES_A_LOAD):
        with rig.bench(0) as bench:
            while outcome.times < upto - 1:
                bench.produce(max(_EVENTS, events // times))
                outcome.times += _overtaken(rig, bench, outcome.times)
            outcome.times += _within_a_group(bench)
            outcome.judge(bench)
    return outcome.ended()


def _overtaken(rig: Rig, bench: Bench, number: int) -> int:
    """Zombies that go on while or after another drain did their work; how many."""
    undead = [_stopped(rig, bench, number + n) for n in range(rig.chance.randint(1, 2))]
    undead = [drain for drain in undead if drain.noted("fired")]
    other = bench.drain(workers=rig.chance.randint(1, 2), batch=rig.chance.choice([100, 1000]))
    if rig.chance.random() < 0.5:
        other.finish()
    else:
        time.sleep(rig.chance.uniform(0, 0.5))
    for drain in undead:
        _resume(drain)
    for drain in [other, *undead]:
        drain.finish()
    return len(undead)


def second_drains(rig: Rig, times: int, events: int) -> Outcome:
    """A second drain is started by mistake, with another group: both get every message."""
    outcome = Outcome("second drains")
    for upto in rounds(times, _SECONDS_A_LOAD):
        with rig.bench(0) as bench:
            while outcome.times < upto:
                bench.produce(max(_EVENTS, events // times))
                both = [bench.drain(workers=n, batch=rig.chance.choice([100, 500])) for n in (1, 2)]
                for drain in both:
                    drain.finish()
                outcome.times += 1
            outcome.judge(bench)
    return outcome.ended()


def _stopped(rig: Rig, bench: Bench, number: int) -> Drain:
    """A drain whose worker has stopped itself at one of the steps of a commit (or has found nothing to do)."""
    step = steps.STEPS[number % 8]
    drain = bench.drain(Trip(step, rig.chance.randint(1, 4), "stop"), batch=200)
    wait_for(lambda: drain.noted("fired") or drain.wait(0), "the step")
    return drain


def _resume(drain: Drain) -> None:
    send(signal.SIGCONT, drain.noted("fired")[0]["pid"])


def _within_a_group(bench: Bench) -> int:
    """The broker itself gives a silent worker's partitions away."""
    bench.produce(_EVENTS)
    group = f"{bench.load.usecase.name}-shared-{len(bench.load)}"
    zombie = bench.drain(Trip("offset checked, not committed", 2, "stop"), batch=200, group=group)
    wait_for(lambda: zombie.noted("fired"), "the step")
    heir = bench.drain(group=group)
    heir.finish()
    _resume(zombie)
    zombie.finish()
    return 1
