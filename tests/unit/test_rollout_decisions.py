"""Rollouts' decisions: harmless challengers are let through, harmful ones are not, however often one looks."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fasttrack.errors import ConflictError
from fasttrack.rollout import evidence
from fasttrack.rollout.arms import arm, key_bytes, place
from fasttrack.rollout.compatible import check_compatible
from fasttrack.rollout.counts import ArmCounts, Window, total, window
from fasttrack.rollout.observing import Observer
from fasttrack.rollout.plan import Plan
from fasttrack.rollout.verdict import Evidence, judge, weigh, weigh_labels
from tests.unit.rollout_simulation import Traffic, run

ROLLOUTS = 1_000
QUICK = Plan(dwell_seconds=5)
BUSY = Traffic(keys=500)


def ends(plan: Plan, traffic: Traffic, seed: int, rollouts: int = ROLLOUTS) -> Counter[str]:
    draw = np.random.default_rng(seed)
    return Counter(run(plan, traffic, draw)[0] for _ in range(rollouts))


def test_of_a_thousand_harmless_challengers_at_most_one_in_a_hundred_is_rolled_back() -> None:
    found = ends(QUICK, BUSY, 1)
    assert found["roll_back"] <= ROLLOUTS // 100
    assert found["promote"] >= ROLLOUTS * 0.98


@pytest.mark.parametrize(
    "regression",
    [
        Traffic(keys=500, times_failing=2),
        Traffic(keys=500, times_slow=2),
        Traffic(keys=500, failing=0.1, times_failing=2),
    ],
    ids=["twice the errors", "twice as many slow", "twice the errors of a bad day"],
)
def test_of_a_thousand_with_a_twofold_regression_none_gets_through(regression: Traffic) -> None:
    assert ends(QUICK, regression, 2) == {"roll_back": ROLLOUTS}


def test_a_dead_challenger_is_rolled_back_within_seconds() -> None:
    draw = np.random.default_rng(3)
    took = [run(Plan(), Traffic(keys=100, failing=0.001, times_failing=1000), draw) for _ in range(100)]
    assert {action for action, _ in took} == {"roll_back"}
    assert max(seconds for _, seconds in took) <= 5


def test_an_outage_of_both_arms_is_no_sign_against_the_challenger() -> None:
    rolled = 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        seen = Evidence()
        for second in range(120):
            share = 0.5 if 30 <= second < 60 else 0.001
            failures = draw.binomial(200, share)
            theirs = int(draw.binomial(failures, 0.05))
            both = Window(0, ArmCounts(first_failures=int(failures) - theirs), ArmCounts(first_failures=theirs))
            seen = weigh(Plan(), seen, 0, both)
            if judge(Plan(), seen, 0, both, 1).action == "roll_back":
                rolled += 1
                break
    assert rolled <= 2


def test_without_data_nothing_goes_on() -> None:
    plan = Plan(dwell_seconds=1)
    assert judge(plan, Evidence(), 0, Window(), 1e9).action == "hold"
    only_ours = Window(0, champion=ArmCounts(requests=9000, keys=9000), challenger=ArmCounts(keys=299))
    assert "299 of 300 keys" in judge(plan, weigh(plan, Evidence(), 0, only_ours), 0, only_ours, 1e9).why


def test_enough_keys_without_a_failure_go_on_but_not_before_their_time() -> None:
    plan = Plan(dwell_seconds=60)
    fine = Window(
        0, ArmCounts(keys=9000, first_slow=400), ArmCounts(keys=700, keys_timed=700, keys_slow=20, first_slow=20)
    )
    seen = weigh(plan, Evidence(), 0, fine)
    assert judge(plan, seen, 0, fine, 59).action == "hold"
    assert judge(plan, seen, 0, fine, 60).action == "advance"
    last = weigh(plan, Evidence(), 2, replace(fine, step=2, champion=ArmCounts(keys=700, first_slow=20)))
    assert judge(plan, last, 2, fine, 60).action == "promote"


def test_where_the_champion_is_never_slow_a_quick_challenger_goes_on_all_the_same() -> None:
    plan = Plan(dwell_seconds=1)
    for slow, action in ((0, "advance"), (150, "hold")):
        counts = Window(0, ArmCounts(keys=9000), ArmCounts(keys=900, keys_timed=900, keys_slow=slow))
        assert judge(plan, weigh(plan, Evidence(), 0, counts), 0, counts, 60).action == action


@pytest.mark.parametrize("mode", ["ab", "shadow"])
def test_ab_and_shadow_never_promote(mode: str) -> None:
    plan = Plan.model_validate({"mode": mode, "steps": (50,), "dwell_seconds": 1})
    fine = Window(0, ArmCounts(keys=9000), ArmCounts(keys=9000))
    assert judge(plan, weigh(plan, Evidence(), 0, fine), 0, fine, 1e9).action == "hold"


def test_labels_tell_a_worse_model_and_where_they_are_needed_their_lack_holds_it() -> None:
    draw = np.random.default_rng(5)
    plan = Plan(labels=True, dwell_seconds=1)
    fine = Window(
        0, ArmCounts(keys=9000, first_slow=400), ArmCounts(keys=700, keys_timed=700, keys_slow=20, first_slow=20)
    )
    seen = weigh(plan, Evidence(), 0, fine)
    assert judge(plan, seen, 0, fine, 60).why.startswith("quality: not yet shown")
    same = weigh_labels(plan, seen, list(draw.normal(0, 0.1, 5000).clip(-1, 1)))
    assert judge(plan, same, 0, fine, 60).action == "advance"
    worse = weigh_labels(plan, seen, list(draw.normal(0.05, 0.1, 500).clip(-1, 1)))
    found = judge(plan, worse, 0, fine, 60)
    assert found.action == "roll_back"
    assert "quality" in found.why


@given(st.floats(0.01, 0.99), st.integers(1, 40))
def test_under_the_null_the_expected_wealth_is_at_most_one(weight: float, failures: int) -> None:
    expected = 0.0
    for theirs in range(failures + 1):
        probability = math.comb(failures, theirs) * weight**theirs * (1 - weight) ** (failures - theirs)
        logs = evidence.harm([], weight, challenger=theirs, champion=failures - theirs)
        expected += probability * math.exp(evidence.log_mean(logs))
    assert expected == pytest.approx(1, rel=1e-6)


@given(st.floats(0.01, 0.9), st.floats(1.5, 5), st.floats(1, 4), st.integers(1, 30))
def test_no_worse_is_not_believed_of_one_that_is_worse(weight: float, ratio: float, more: float, failures: int) -> None:
    times = ratio * more
    share = times * weight / (times * weight + 1 - weight)
    expected = 0.0
    for theirs in range(failures + 1):
        probability = math.comb(failures, theirs) * share**theirs * (1 - share) ** (failures - theirs)
        logs = evidence.no_worse([], weight, ratio, challenger=theirs, champion=failures - theirs)
        expected += probability * math.exp(evidence.log_mean(logs))
    assert expected <= 1 + 1e-6


@given(st.lists(st.floats(-1, 1), max_size=30), st.floats(-0.5, 0.5))
def test_betting_on_a_mean_never_goes_broke(differences: list[float], margin: float) -> None:
    assert all(math.isfinite(log) for log in evidence.larger([], differences, margin))


@given(st.binary(max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_a_key_of_the_challenger_stays_so_when_its_weight_grows(key: bytes, one: float, other: float) -> None:
    position = place(UUID(int=7), key)
    assert 0 <= position < 1
    if arm(position, min(one, other)) == "challenger":
        assert arm(position, max(one, other)) == "challenger"


def test_arms_are_drawn_evenly_and_anew_for_each_rollout() -> None:
    first, second = uuid4(), uuid4()
    drawn = [[arm(place(id, b"%d" % key), 0.3) for key in range(20_000)] for id in (first, second)]
    for arms in drawn:
        assert arms.count("challenger") / 20_000 == pytest.approx(0.3, abs=0.02)
    both = sum(a == b == "challenger" for a, b in zip(*drawn, strict=True))
    assert both / 20_000 == pytest.approx(0.09, abs=0.01)


def test_what_is_kept_in_one_arm_is_what_was_asked_for() -> None:
    def key(kind: str, **other: str) -> bytes:
        facts = {"tenant": "t", "subject": "s", "request_id": "r", **other}
        question = {"id": facts.pop("id", "1")}
        return key_bytes(kind, question=question, **facts)  # type: ignore[arg-type]

    assert key("entity") == key("entity", subject="other", request_id="other")
    assert key("entity") != key("entity", id="2")
    assert key("subject") == key("subject", id="2") != key("subject", tenant="other")
    assert key("tenant") == key("tenant", subject="other") != key("tenant", tenant="other")
    assert key("request") != key("request", request_id="other")


def test_one_key_that_fails_a_thousand_times_is_one_piece_of_evidence() -> None:
    observer = Observer()
    for _ in range(1000):
        observer.count("challenger", 0.01, step=0, failed=True, seconds=0.1, slow_seconds=0.01)
    (found,) = observer.take()
    assert (found.challenger.failures, found.challenger.first_failures, found.challenger.keys) == (1000, 1, 1)
    observer.enter(1)
    observer.count("challenger", 0.01, step=1, failed=True, seconds=0.1, slow_seconds=None)
    (found,) = observer.take()
    assert (found.step, found.challenger.keys, found.challenger.first_failures) == (1, 1, 0)
    assert observer.take() == []


def test_counts_survive_their_json_and_add_up() -> None:
    observer = Observer(2)
    for number in range(100):
        observer.count("champion" if number % 3 else "challenger", number / 100, step=2, failed=number % 10 == 0,
                       seconds=number / 200, slow_seconds=0.3)  # fmt: skip
        observer.mirrored([0.45, 0.2], [0.55 if number % 2 else 0.35, 0.2])
    (found,) = observer.take()
    assert window(found.as_json(), found.firsts) == found
    both = total([found, found], 2)
    assert both.champion.requests + both.challenger.requests == 200
    assert sum(both.champion.seconds) + both.champion.failures == both.champion.requests
    assert found.champion.quantile(0.5) == 0.3
    assert ArmCounts().quantile(0.5) is None


@pytest.mark.parametrize(
    "wrong",
    [{"steps": []}, {"steps": [0]}, {"steps": [100]}, {"steps": [5, 5]}, {"steps": [50, 5]}, {"mode": "blue"},
     {"mode": "ab", "steps": [5, 10]}, {"unknown": 1}, {"false_rollback": 0}, {"ratio": 1}],
    ids=str,
)  # fmt: skip
def test_a_plan_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Plan.model_validate(wrong)


def test_a_challenger_must_take_the_champions_requests() -> None:
    feature = {"name": "distance", "role": "numeric", "nullable": False, "minimum": 1.0}
    ours = {"features": [feature], "entity": {"keys": ["id"]}, "outputs": [{"name": "value", "datatype": "FP32"}]}
    check_compatible("flights", ours, {**ours, "features": [{**feature, "minimum": 0.0}]})
    with pytest.raises(ConflictError, match=r"features \(distance, hour\) differ"):
        check_compatible("flights", ours, {**ours, "features": [{**feature, "name": "hour"}]})
    with pytest.raises(ConflictError, match="entity differ"):
        check_compatible("flights", ours, {**ours, "entity": {"keys": ["other"]}})
