"""kill -9: at every named step, at random moments; a worker, the parent, or all of them."""

from __future__ import annotations

import signal
import time

from tests.faults import steps
from tests.faults.outcome import Outcome
from tests.faults.rig import Bench, Drain, Rig, Trip, rounds, send, wait_for

_KILLS_A_LOAD = 100
_MORE_EVENTS = 20_000
# A step that has not come by then may never come (tables are made once): a long load is not drained to its end for it.
_STEP_SECONDS = 20.0


def kills(rig: Rig, times: int, events: int) -> Outcome:
    """Kill drains until it was done `times` times, and let a last one finish each load."""
    outcome = Outcome("kill -9")
    for upto in rounds(times, _KILLS_A_LOAD):
        with rig.bench(events * (upto - outcome.times) // times) as bench:
            first = bench.drain(Trip(steps.PARENT, rig.chance.randint(1, 4)))
            outcome.times += _killed(first)
            while outcome.times < upto:
                if bench.done() == len(bench.load):
                    bench.produce(_MORE_EVENTS)
                outcome.times += _kill_once(rig, bench, outcome.times)
            outcome.judge(bench)
    return outcome.ended()


def _kill_once(rig: Rig, bench: Bench, number: int) -> int:
    """One drain, killed: each named step in turn, a random moment every second time; 1 if it was still running."""
    chance = rig.chance
    batch = chance.choice([100, 500, 2000])
    if number % 2:
        return at_a_random_moment(rig, bench.drain(workers=chance.choice([1, 2]), batch=batch))
    step = steps.STEPS[number // 2 % len(steps.STEPS)]
    # Only who shares a group has partitions taken away while it drains.
    workers = 2 if step == "partitions revoked" else 1
    often = step in steps.STEPS[:8]
    trip = Trip(step, chance.randint(1, 8) if often else 1, chance.choice(["kill", "kill all"]))
    return _killed(bench.drain(trip, workers=workers, batch=batch))


def _killed(drain: Drain) -> int:
    """Wait for a trip to be sprung, and kill the rest, or all at that moment; 1 if anything was killed."""
    end = time.monotonic() + _STEP_SECONDS
    while not drain.noted("fired") and not drain.wait(0.01) and time.monotonic() < end:
        pass
    ended = drain.wait(0) and not drain.noted("fired")
    drain.kill()
    return int(not ended)


def at_a_random_moment(rig: Rig, drain: Drain) -> int:
    """Kill worker, parent or both at once or one after the other; 1 if the drain was still at work."""
    chance = rig.chance
    wait_for(lambda: drain.workers() or drain.wait(0), "workers")
    time.sleep(chance.uniform(0, 1.0))
    if drain.wait(0):
        return 0
    workers = [worker.pid for worker in drain.workers()]
    victim = chance.choice(["worker", "parent", "all"])
    if victim == "worker":
        send(signal.SIGKILL, *workers[:1])
    elif victim == "parent":
        # The workers see it and end by themselves, unless they are killed first.
        send(signal.SIGKILL, drain.pid)
    if victim != "all":
        time.sleep(chance.uniform(0, 0.2))
    drain.kill()
    return 1
