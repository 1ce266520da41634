"""Rollouts in a real database, without gateways: counts, decisions by whoever comes first, ends and refusals."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psutil
import pytest

from fasttrack.errors import ConflictError, NotFoundError
from fasttrack.registry.records import PredictionRow
from fasttrack.rollout.arms import arm, place
from fasttrack.rollout.counts import ArmCounts, Window
from fasttrack.rollout.plan import Plan
from tests.integration.registry_database import digest
from tests.integration.rollout_world import LONG, WHO, World, begin, served, state
from tests.unit.gateway_harness import until


def test_gateways_that_tell_of_the_same_keys_at_the_same_time_count_each_once(world: World) -> None:
    begin(world, Plan(mode="ab", steps=(50,)))
    id = world.rollouts.newest("flights").id

    def gateway(name: str) -> None:
        for number in range(5):
            # Each window repeats half of the keys of the one before, on all gateways alike.
            keys = [place(id, b"%d" % key) for key in range(number * 100, number * 100 + 200)]
            ours, theirs = ([key for key in keys if arm(key, 0.5) == name] for name in ("champion", "challenger"))
            window = Window(0, firsts={"champion": {"keys": ours}, "challenger": {"keys": theirs}})
            window.champion.requests, window.challenger.requests = len(ours), len(theirs)
            world.rollouts.exchange(name, [(id, number, window)])
            world.rollouts.exchange(name, [(id, number, window)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(gateway, [f"gateway-{number}" for number in range(8)]))

    def counted() -> Window:
        world.rollouts.exchange("last", [])
        return world.rollouts.newest("flights").overall

    until(lambda: (found := counted()).champion.requests + found.challenger.requests == 8 * 5 * 200)
    found = counted()
    assert found.champion.keys + found.challenger.keys == 600
    assert found.challenger.keys == sum(arm(place(id, b"%d" % key), 0.5) == "challenger" for key in range(600))


_HANGS = """
import os, signal, sys
from fasttrack.rollout import controller, store
decide = controller.decide
def decide_and_hang(cursor):
    decide(cursor)
    os.kill(os.getpid(), signal.SIGSTOP)
controller.decide = decide_and_hang
store.Rollouts(sys.argv[1]).exchange("hangs", [])
"""


def test_a_gateway_that_hangs_while_it_decides_is_not_waited_for(world: World) -> None:
    begin(world, LONG)
    # Decided on a second ago at least, as otherwise nobody looks at it.
    time.sleep(1)
    hung = subprocess.Popen([sys.executable, "-c", _HANGS, world.dsn])
    try:
        until(lambda: psutil.Process(hung.pid).status() == psutil.STATUS_STOPPED)
        asked = time.monotonic()
        assert world.rollouts.abort("flights", **WHO).status == "aborted"
        # It did hold the rollout, or this would show nothing.
        assert time.monotonic() - asked > 1
    finally:
        hung.kill()
        hung.wait()


def test_counts_that_are_sent_twice_count_once_and_one_of_many_decides(world: World) -> None:
    begin(world, LONG)
    rollout = world.rollouts.newest("flights")
    window = Window(0, ArmCounts(requests=7, keys=7), ArmCounts(requests=5, failures=2, keys=5, first_failures=2))
    sent = [(rollout.id, number, window) for number in range(20)]
    # A look is due 0.7 s after the one before.
    until(lambda: time.sleep(0.8) is None)
    threads = [threading.Thread(target=world.rollouts.exchange, args=("gateway", sent)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: state(world) == "rolled_back" or not world.rollouts.exchange("other", []))
    found = world.rollouts.newest("flights")
    assert (found.overall.champion.requests, found.overall.challenger.requests) == (140, 100)
    assert [event.action for event in found.events] == ["start", "roll_back"]


def test_labels_that_show_a_worse_model_roll_it_back(world: World) -> None:
    begin(world, LONG)
    truths = [(f"f-{number}", number % 2 == 0) for number in range(600)]

    def predicted(number: int, positive: bool) -> float:
        # The challenger, who has every other flight, is wrong every second time.
        right = number % 2 == 0 or number % 4 == 1
        return 0.9 if right == positive else 0.1

    rows = [
        PredictionRow("flights", version=1 + number % 2, entity={"flight_id": flight}, value=0, lower=0, upper=0,
                      probability=predicted(number, positive), trace_id=uuid4().hex)
        for number, (flight, positive) in enumerate(truths)
    ]  # fmt: skip
    world.registry.append_predictions(rows)
    world.rollouts.exchange("gateway", [])
    outcomes = [({"flight_id": flight}, positive) for flight, positive in truths]
    assert world.rollouts.add_outcomes("flights", outcomes[:300]) == 300
    assert world.rollouts.add_outcomes("flights", outcomes) == 300
    until(lambda: (world.rollouts.exchange("gateway", []), state(world) != "running")[1])
    rollout = world.rollouts.newest("flights")
    assert (rollout.status, rollout.evidence.labels) == ("rolled_back", 300)
    assert "quality are worse" in rollout.why


def test_a_challenger_that_is_rejected_meanwhile_is_not_promoted(world: World) -> None:
    begin(world, Plan(steps=(50,), dwell_seconds=0.1, keys=1))
    world.registry.approve("flights", 2, who="bob", why="leaks", decision="rejected")
    fine = ArmCounts(requests=5000, keys=5000, keys_timed=5000)
    sent = [(world.rollouts.newest("flights").id, 1, Window(0, fine, fine))]
    until(lambda: not world.rollouts.exchange("gateway", sent))
    found = world.rollouts.newest("flights")
    assert found.status == "aborted"
    assert "rejected by bob: leaks" in found.why
    deployed = world.registry.deployment("flights")
    assert deployed is not None and deployed.version == 1


def test_another_champion_ends_the_rollout(world: World) -> None:
    begin(world, LONG)
    world.registry.register_model("flights", "/packages/3", digest=digest(3))
    world.registry.deploy("flights", 3, **served(world.champion))
    until(lambda: not world.rollouts.exchange("gateway", []))
    found = world.rollouts.newest("flights")
    assert (found.status, found.why) == ("aborted", "version 1 is no longer the one that is served")


def test_what_can_not_be_rolled_out_is_refused(world: World) -> None:
    with pytest.raises(NotFoundError, match="not served beside"):
        world.rollouts.start("flights", 7, LONG, **WHO)
    with pytest.raises(NotFoundError, match="is not served"):
        world.rollouts.start("other", 1, LONG, **WHO)
    with pytest.raises(ConflictError, match="no rollout runs"):
        world.rollouts.abort("flights", **WHO)
    world.registry.approve("flights", 2, who="bob", why="leaks", decision="rejected")
    with pytest.raises(ConflictError, match="rejected by bob: leaks"):
        begin(world, LONG)
    world.registry.approve("flights", 2, who="bob", why="mended")
    other = served(world.challenger)
    other["signature"] = {**other["signature"], "entity": {"name": "flight", "keys": ["other_id"]}}
    world.rollouts.offer("flights", 2, **other)
    with pytest.raises(ConflictError, match="entity differ"):
        begin(world, LONG)
