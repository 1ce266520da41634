"""What a drain leans on fails: the broker, the group's membership, the schema registry."""

from __future__ import annotations

import os
import signal
import time

from tests.faults.outcome import Outcome
from tests.faults.rig import Bench, Drain, Rig, wait_for

_EVENTS = 2000
_MOST_JOINED = 4


def broker_kills(rig: Rig, times: int, events: int) -> Outcome:
    """kill -9 the broker while messages are produced and drained; the drain never ends for it."""
    outcome = Outcome("broker kills")
    share = max(_EVENTS, events // times)
    with rig.bench(share) as bench:
        drain = bench.drain(workers=2, until="forever", batch=200)
        # A drain that only just starts gives a broker that refuses it up soon, as nothing is under way.
        bench.moves(0)
        for _ in range(times):
            done = bench.moves(bench.done() - 1)
            with bench.producing(share):
                time.sleep(rig.chance.uniform(0, 0.3))
                os.kill(rig.part_pid("kafka"), signal.SIGKILL)
            outcome.times += 1
            wait_for(lambda done=done: bench.done() > done or drain.wait(0), "progress")
            assert not drain.wait(0), drain.said()
        drain.terminate()
        drain.finish()
        outcome.judge(bench)
    return outcome.ended()


def rebalances(rig: Rig, times: int, events: int) -> Outcome:
    """Workers join a group that drains and leave it again, in the middle of batches."""
    outcome = Outcome("rebalances")
    share = max(_EVENTS // 4, events // times)
    with rig.bench(share) as bench:
        group = f"{bench.load.usecase.name}-group"
        base = bench.drain(group=group, until="forever", batch=100)
        wait_for(lambda: base.noted("assigned"), "partitions")
        while outcome.times < times:
            with bench.producing(share):
                outcome.times += _join_and_leave(rig, bench, base, group)
            assert not base.wait(0), base.said()
        base.terminate()
        base.finish()
        outcome.judge(bench)
    return outcome.ended()


def _join_and_leave(rig: Rig, bench: Bench, base: Drain, group: str) -> int:
    """Some drains come and go; in how many rounds partitions moved."""
    guests = []
    for _ in range(rig.chance.randint(1, _MOST_JOINED - 1)):
        before = len(base.noted("revoked")) + len([n for guest in guests for n in guest.noted("revoked")])
        guest = bench.drain(group=group, until="forever", batch=100)
        wait_for(lambda guest=guest: guest.noted("assigned"), "partitions for a new member")
        guests.append(guest)
        assert len(base.noted("revoked")) + len([n for g in guests for n in g.noted("revoked")]) > before
    rig.chance.shuffle(guests)
    for at, guest in enumerate(guests):
        time.sleep(rig.chance.uniform(0, 0.2))
        others = [base, *guests[at + 1 :]]
        held = sum(len(other.noted("assigned")) for other in others)
        guest.terminate()
        guest.finish()
        wait_for(lambda: sum(len(other.noted("assigned")) for other in others) > held, "the partitions' new owner")  # noqa: B023
    return 2 * len(guests)


def registry_away(rig: Rig, times: int, events: int) -> Outcome:
    """The schema registry is killed, or silent for a while, when drains start and when they ask for new schema ids."""
    outcome = Outcome("registry away")
    with rig.bench(0) as bench:
        for number in range(times):
            bench.produce(max(_EVENTS, events // times), bad=0.1)
            pid = rig.part_pid("schema_registry")
            if number % 2:
                os.kill(pid, signal.SIGKILL)
                bench.drain(batch=200).finish()
            else:
                drain = bench.drain(batch=100)
                time.sleep(rig.chance.uniform(0, 0.5))
                os.kill(pid, signal.SIGSTOP)
                time.sleep(rig.chance.uniform(0.5, 3.0))
                os.kill(pid, signal.SIGCONT)
                drain.finish()
            outcome.times += 1
        outcome.judge(bench)
    return outcome.ended()
