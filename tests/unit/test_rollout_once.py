"""A key counts once over all gateways: whatever is split over several must weigh as much as one would have counted."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.rollout.arms import arm
from fasttrack.rollout.counts import ARMS, Window, total, window
from fasttrack.rollout.observing import MOST_KEYS, Observer
from fasttrack.rollout.once import KINDS, once, room
from fasttrack.rollout.plan import Plan
from fasttrack.rollout.verdict import METRICS, Evidence, weigh

PLENTY = dict.fromkeys(KINDS, MOST_KEYS)
WEIGHT, SLOW = 0.3, 0.2


@dataclass
class Kept:
    """What the database keeps."""

    keys: dict[str, set[float]] = field(default_factory=lambda: defaultdict(set))

    def __call__(self, kind: str, positions: Sequence[float]) -> set[float]:
        new = set(positions) - self.keys[kind]
        self.keys[kind] |= new
        return new


@dataclass(frozen=True)
class Request:
    """One request: who sees it, whose it is, and what became of it."""

    gateway: int
    position: float
    failed: bool = False
    seconds: float = 0.1


REQUESTS = st.lists(
    st.builds(Request, st.integers(0, 3), st.sampled_from([n / 8 for n in range(8)]), st.booleans(),
              st.sampled_from([0.1, 0.3])), max_size=40,
)  # fmt: skip


def seen(observer: Observer, request: Request, step: int = 0) -> None:
    observer.count(arm(request.position, WEIGHT), request.position, step=step, failed=request.failed,
                   seconds=request.seconds, slow_seconds=SLOW)  # fmt: skip


@given(REQUESTS)
def test_four_gateways_that_tell_at_once_count_what_one_would(requests: list[Request]) -> None:
    gateways, alone, kept, found = [Observer() for _ in range(4)], Observer(), Kept(), Window()
    for request in requests:
        seen(alone, request)
        seen(gateways[request.gateway], request)
        for counted in once(gateways[request.gateway].take(), 0, PLENTY, kept):
            found.add(counted)
    assert found == total(alone.take(), 0)


@given(REQUESTS, st.integers(1, 40))
def test_whenever_they_tell_each_key_counts_once_and_each_request(requests: list[Request], every: int) -> None:
    gateways, kept, found = [Observer() for _ in range(4)], Kept(), Window()
    for start in range(0, len(requests), every):
        for request in requests[start : start + every]:
            seen(gateways[request.gateway], request)
        windows = [each for gateway in gateways for each in gateway.take()]
        found.add(total(once(windows, 0, PLENTY, kept), 0))
    for name in ARMS:
        ours = [request for request in requests if arm(request.position, WEIGHT) == name]
        counts = found.of(name)
        assert counts.requests == len(ours)
        assert counts.failures == sum(request.failed for request in ours)
        assert counts.keys == len({request.position for request in ours})
        assert counts.first_failures == len({request.position for request in ours if request.failed})
        slow = {request.position for request in ours if request.seconds > SLOW and not request.failed}
        assert counts.first_slow == len(slow)
        assert counts.keys_failed + counts.keys_timed == counts.keys >= counts.keys_slow
    # What is kept is what was counted: the room that is left needs no counting of rows.
    assert {kind: MOST_KEYS - len(kept.keys[kind]) for kind in KINDS} == room(found, found)


def evidence(gateways: int, *, split: bool) -> Evidence:
    """After one key of the challenger's failed on so many gateways."""
    kept, plan, found = Kept(), Plan(), Evidence()
    for _ in range(gateways):
        observer = Observer()
        observer.count("challenger", 0.01, step=0, failed=True, seconds=0.1, slow_seconds=SLOW)
        for each in once(observer.take(), 0, PLENTY, kept) if split else observer.take():
            found = weigh(plan, found, 0, each)
    return found


def test_one_caller_on_four_gateways_is_no_more_evidence_than_on_one() -> None:
    assert evidence(4, split=True) == evidence(1, split=False)
    # Counted on each, one key out of luck is enough to roll a harmless challenger back.
    against = math.log(len(METRICS) / Plan().false_rollback)
    assert evidence(4, split=False).log_harm("errors") > against > evidence(4, split=True).log_harm("errors")


def test_a_harmless_challenger_is_not_rolled_back_for_keys_that_fail_on_every_gateway() -> None:
    draw, against, rolled = np.random.default_rng(11), math.log(len(METRICS) / Plan().false_rollback), {1: 0, 4: 0}
    for copies in rolled:
        for _ in range(1_000):
            found = Evidence()
            for position in draw.random(30):
                window = Window()
                counts = window.of(arm(float(position), Plan().weight(0)))
                counts.first_failures = copies
                found = weigh(Plan(), found, 0, window)
                if found.log_harm("errors") >= against:
                    rolled[copies] += 1
                    break
    assert rolled[1] <= 10 < 100 < rolled[4]


def test_a_gateway_that_begins_anew_counts_no_key_again() -> None:
    kept, found = Kept(), Window()
    for _ in range(3):
        reborn = Observer()
        for number in range(10):
            seen(reborn, Request(0, number / 10, failed=True))
        found.add(total(once(reborn.take(), 0, PLENTY, kept), 0))
    assert sum(found.of(name).first_failures for name in ARMS) == 10
    assert sum(found.of(name).requests for name in ARMS) == 30


def test_a_window_of_an_earlier_step_shows_failures_and_no_keys() -> None:
    kept, late, now = Kept(), Observer(0), Observer(1)
    seen(late, Request(0, 0.1, failed=True))
    seen(now, Request(0, 0.1, failed=True), step=1)
    first, second = once([*late.take(), *now.take()], 1, PLENTY, kept)
    assert (first.challenger.keys, first.challenger.first_failures) == (0, 1)
    assert (second.challenger.keys, second.challenger.keys_failed, second.challenger.first_failures) == (1, 1, 0)


def test_a_request_whose_arm_was_drawn_under_another_step_says_nothing_about_its_key() -> None:
    observer = Observer(1)
    seen(observer, Request(0, 0.1, failed=True), step=0)
    (found,) = observer.take()
    assert (found.challenger.requests, found.challenger.failures) == (1, 1)
    assert (found.challenger.keys, found.challenger.first_failures, found.firsts) == (0, 0, {})
    seen(observer, Request(0, 0.1, failed=True), step=1)
    assert observer.take()[0].challenger.first_failures == 1


@given(REQUESTS, st.integers(0, 5))
def test_no_more_keys_are_kept_than_there_is_room_and_no_window_is_cut(requests: list[Request], most: int) -> None:
    gateways, kept = [Observer() for _ in range(4)], Kept()
    for request in requests:
        seen(gateways[request.gateway], request)
    windows = [each for gateway in gateways for each in gateway.take()]
    found = once(windows, 0, dict.fromkeys(KINDS, most), kept)
    assert all(len(keys) <= most for keys in kept.keys.values())
    for before, after in zip(windows, found, strict=True):
        new = {position for names in before.firsts.values() for position in names.get("keys", ())}
        counted = sum(after.of(name).keys for name in ARMS)
        assert counted == 0 or new <= kept.keys["seen"]


def test_without_names_counts_stand_as_they_are() -> None:
    # Where each request is a key of its own, and of gateways of the version before.
    observer = Observer(shared=False)
    for number in range(5):
        seen(observer, Request(0, number / 5, failed=True))
    (found,) = observer.take()
    assert found.firsts == {}
    assert once([found], 0, PLENTY, Kept()) == [found]


def test_a_window_and_its_keys_survive_their_json() -> None:
    observer = Observer()
    for number in range(50):
        seen(observer, Request(0, number / 7 % 1, failed=number % 3 == 0))
    (found,) = observer.take()
    assert "firsts" not in found.as_json()
    assert window(found.as_json(), found.firsts) == found
    assert window(found.as_json()).firsts == {}
