"""Rollouts by gateways that are processes of their own, on a real database: promoted, rolled back, cut off, killed."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from fasttrack.local.platform import Platform
from fasttrack.rollout.arms import arm, key_bytes, place
from fasttrack.rollout.plan import Plan
from tests.integration.gateway_processes import Process, process, settings_for
from tests.integration.rollout_traffic import INFER, PATH, asked, traffic
from tests.integration.rollout_world import LONG, QUICK, WHO, World, begin, state
from tests.loopback import cable_to
from tests.unit.gateway_harness import until


@pytest.fixture
def two(world: World, platform: Platform, tmp_path: Path) -> Iterator[tuple[Process, Process]]:
    settings = settings_for(platform, world.dsn, world.issuer)
    with process(settings, tmp_path, world.issuer) as one, process(settings, tmp_path, world.issuer) as other:
        yield one, other


def test_a_harmless_challenger_goes_step_by_step_and_becomes_the_champion(
    world: World, two: tuple[Process, Process]
) -> None:
    with traffic(two) as seen:
        until(lambda: len(seen.answers) > 50)
        assert set(seen.arms()) == {""}
        begin(world, QUICK)
        until(lambda: state(world) != "running", 90)
        promoted = time.monotonic()
        until(lambda: world.challenger.requests[-1:] != [] and len(seen.arms(promoted + 4)) > 50, 60)
        assert set(seen.arms(promoted + 4)) == {""}
    assert not seen.failures() and not seen.broken
    rollout = world.rollouts.newest("flights")
    assert rollout.status == "promoted", rollout.why
    assert [event.action for event in rollout.events] == ["start", "advance", "promote"]
    found = world.registry.deployment("flights")
    assert found is not None
    assert (found.version, found.transformer_url) == (2, world.challenger.url)
    assert (world.registry.get("flights").version, world.registry.get("flights", 1).stage) == (2, "archived")
    # Conservation: what the servers were asked is what was counted, but for what came after the last look.
    counted = rollout.overall.champion.requests + rollout.overall.challenger.requests
    assert 0 < counted <= len(seen.answers)


@pytest.mark.parametrize("path", [PATH, INFER], ids=["predictions", "tensors"])
def test_a_challenger_that_breaks_is_gone_within_five_seconds_and_no_caller_notices(
    world: World, two: tuple[Process, Process], path: str
) -> None:
    begin(world, LONG)
    with traffic(two, paths=[path]) as seen:
        until(lambda: Counter(seen.arms())["challenger"] > 200)
        world.challenger.status = 500
        broke = time.monotonic()
        until(lambda: state(world) == "rolled_back")
        until(lambda: len(seen.arms(broke + 6)) > 50)
        asked = len(world.challenger.requests)
        until(lambda: len(seen.arms(broke + 7)) > 50)
        assert len(world.challenger.requests) == asked
    assert not seen.failures() and not seen.broken
    last = max(at for at, _, arm, _ in seen.answers if arm)
    assert last - broke <= 5
    rollout = world.rollouts.newest("flights")
    assert "errors are worse" in rollout.why
    assert [(event.action, event.who) for event in rollout.events[1:]] == [("roll_back", "rollout controller")]
    assert world.registry.get("flights", 2).stage == "archived"


def test_a_slow_challenger_is_rolled_back_for_its_latency(world: World, two: tuple[Process, Process]) -> None:
    world.challenger.delay = 0.1
    begin(world, LONG)
    with traffic(two) as seen:
        until(lambda: state(world) == "rolled_back", 60)
    assert not seen.failures()
    assert "latency are worse" in world.rollouts.newest("flights").why


def test_a_key_stays_in_its_arm_on_every_gateway_and_route(world: World, two: tuple[Process, Process]) -> None:
    begin(world, Plan(mode="ab", steps=(30,)))
    with traffic(two, flights=400, paths=[PATH, PATH, INFER]) as seen:
        until(lambda: len([arm for arm in seen.arms() if arm]) > 1600, 60)
    arms: dict[str, set[str]] = {}
    for _, _, told, flight in seen.answers:
        if told:
            arms.setdefault(flight, set()).add(told)
    assert len(arms) == 400
    assert all(len(found) == 1 for found in arms.values())
    share = sum(found == {"challenger"} for found in arms.values()) / 400
    assert share == pytest.approx(0.3, abs=0.1)
    # The answer says whose it is, and so does the audit row behind it.
    rows = [row for row in world.registry.predictions("flights", 10_000) if row.entity["flight_id"] in arms]
    for row in rows[:500]:
        assert row.version == 2 if arms[row.entity["flight_id"]] == {"challenger"} else 1


def flights_of(world: World, name: str, count: int) -> list[str]:
    """Flights whose arm is this one in the rollout that runs."""
    rollout = world.rollouts.newest("flights")
    found = []
    for flight in (f"k-{number}" for number in range(10_000)):
        key = key_bytes("entity", tenant="", subject="", question={"flight_id": flight}, request_id="")
        if arm(place(rollout.id, key), rollout.plan.weight(0)) == name:
            found.append(flight)
    return found[:count]


def test_a_key_counts_once_over_gateways_routes_and_a_gateway_that_dies(
    world: World, two: tuple[Process, Process], platform: Platform, tmp_path: Path
) -> None:
    begin(world, LONG)
    world.challenger.status = 500
    flights = [*flights_of(world, "challenger", 6), *flights_of(world, "champion", 9)]

    def ask(gateway: Process, times: int) -> None:
        token = gateway.issuer.token("flights-admin")
        until(lambda: "experiment" in gateway.ask("POST", PATH, asked(PATH, flights[0]), token)[1])
        for path, flight in itertools.product((PATH, INFER), flights * times):
            assert gateway.ask("POST", path, asked(path, flight), token)[0] == 200

    def counted() -> tuple[int, int, int, int]:
        found = world.rollouts.newest("flights").overall
        theirs, ours = found.challenger, found.champion
        return theirs.keys, theirs.first_failures, ours.keys, ours.first_failures

    def asked_of_the_challenger() -> int:
        return world.rollouts.newest("flights").overall.challenger.failures

    for gateway in two:
        ask(gateway, 3)
    until(lambda: asked_of_the_challenger() >= 2 * 2 * 3 * 6)
    assert counted() == (6, 6, 9, 0)
    two[0].popen.kill()
    two[0].popen.wait()
    before = asked_of_the_challenger()
    with process(settings_for(platform, world.dsn, world.issuer), tmp_path, world.issuer) as third:
        ask(third, 1)
        until(lambda: asked_of_the_challenger() >= before + 2 * 6)
    # Counted on each gateway, these six would have been more than enough to roll it back.
    assert counted() == (6, 6, 9, 0)
    assert state(world) == "running"
    world.rollouts.abort("flights", **WHO)
    with closing(psycopg2.connect(world.dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM rollout_keys")
        assert cursor.fetchone() == (0,)


def test_a_gateway_that_is_killed_does_not_keep_the_others_from_rolling_back(
    world: World, two: tuple[Process, Process]
) -> None:
    begin(world, LONG)
    with traffic(two) as seen:
        until(lambda: Counter(seen.arms())["challenger"] > 200)
        two[0].popen.kill()
        two[0].popen.wait()
        world.challenger.status = 500
        broke = time.monotonic()
        until(lambda: state(world) == "rolled_back")
        until(lambda: len(seen.arms(broke + 6)) > 20)
    assert set(seen.broken) <= {two[0].port}
    assert not seen.failures()
    assert max(at for at, _, arm, _ in seen.answers if arm) - broke <= 5


def test_where_nobody_can_decide_the_challenger_gets_nothing_and_predictions_go_on(
    world: World, platform: Platform, tmp_path: Path
) -> None:
    with cable_to(world.dsn) as (cable, through):
        settings = settings_for(platform, through, world.issuer)
        with process(settings, tmp_path, world.issuer) as alone, traffic([alone]) as seen:
            begin(world, LONG)
            until(lambda: Counter(seen.arms())["challenger"] > 100)
            cable.cut()
            cut = time.monotonic()
            until(lambda: len(seen.arms(cut + 5.5)) > 50)
            assert set(seen.arms(cut + 5)) == {""}
            cable.mend()
            mended = time.monotonic()
            until(lambda: "challenger" in seen.arms(mended), 60)
            assert not seen.failures() and not seen.broken
            status, body = alone.ask("GET", "/v1/usecases/flights/rollout", None, world.issuer.token("flights-admin"))
            assert (status, body["status"], body["live"], body["percent"]) == (200, "running", True, 50)


def test_in_shadow_the_challenger_is_asked_and_never_answers(world: World, two: tuple[Process, Process]) -> None:
    world.challenger.probability = 0.25
    begin(world, Plan(mode="shadow"))
    with traffic(two) as seen:
        until(lambda: world.rollouts.newest("flights").overall.mirror.requests > 200, 60)
        world.challenger.status = 500
        until(lambda: world.rollouts.newest("flights").overall.mirror.failures > 20, 60)
    assert set(seen.arms()) <= {"", "champion"}
    assert not seen.failures()
    rollout = world.rollouts.newest("flights")
    mirror = rollout.overall.mirror
    good = mirror.requests - mirror.failures
    assert mirror.disagreements == good
    assert mirror.difference / good == pytest.approx(0.5)
    assert rollout.status == "running"


def test_who_may_decide_and_what_is_kept_of_it(world: World, two: tuple[Process, Process]) -> None:
    gateway, path = two[0], "/v1/usecases/flights/rollout"
    admin, predictor = (world.issuer.token(role, sub="bob") for role in ("flights-admin", "flights-predictor"))
    body = {"version": 2, "plan": {"mode": "ab", "steps": [10]}, "why": "it is newer"}
    assert gateway.ask("POST", path, body, predictor)[0] == 403
    assert gateway.ask("POST", path, {**body, "plan": {"steps": [0]}}, admin)[0] == 400
    assert gateway.ask("POST", path, {**body, "version": 9}, admin)[0] == 404
    assert gateway.ask("POST", path, {**body, "version": 1}, admin)[0] == 404
    status, started = gateway.ask("POST", path, body, admin)
    assert status == 201, started
    assert gateway.ask("POST", path, body, admin)[0] == 409
    assert world.registry.get("flights", 2).stage == "challenger"
    for verb in ("promote", "abort"):
        assert gateway.ask("POST", f"{path}/{verb}", {"why": "no"}, predictor)[0] == 403
    status, ended = gateway.ask("POST", f"{path}/abort", {"why": "enough seen"}, admin)
    assert (status, ended["status"]) == (200, "aborted")
    assert [(event["action"], event["who"], event["why"]) for event in ended["events"]] == [
        ("start", "bob of acme", "it is newer"),
        ("abort", "bob of acme", "enough seen"),
    ]
    assert gateway.ask("POST", f"{path}/promote", {"why": "late"}, admin)[0] == 409
    assert world.registry.get("flights", 2).stage == "candidate"
    until(lambda: len(world.registry.audit(started_trace(world, "POST " + path.replace("flights", "{name}")))) == 1)


def started_trace(world: World, route: str) -> str:
    with closing(psycopg2.connect(world.dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT trace_id FROM audit_log WHERE route = %s AND status = 201", (route,))
        row = cursor.fetchone()
    return str(row[0]) if row else ""
