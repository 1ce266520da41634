"""Short forms of the serving chain's faults; `make faults` runs the long ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fasttrack.local.platform import Platform
from tests.faults.forged import mutated
from tests.faults.serving import SCENARIOS
from tests.local_homes import running_platform

SHORT = {
    "rolling-restarts": 3, "redis-kills": 8, "stalled-sockets": 300, "forged-tokens": 20_000, "damaged-packages": 1_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running_platform(["postgres", "redis"]) as it:
        yield it


@pytest.mark.parametrize("name", SCENARIOS)
def test_short_form(name: str, platform: Platform) -> None:
    outcome = SCENARIOS[name][0](platform, SHORT[name])
    assert not outcome.wrong, outcome.wrong[:5]
    # Nearly each damage is a change, and each fault met requests.
    assert outcome.times >= SHORT[name] * 0.9
    assert outcome.asked >= min(outcome.times, 200)


def test_forged_tokens_are_never_good_ones_and_differ() -> None:
    good = ["eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln", "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJiIn0.c2lo"]
    made = list(mutated(good, 3_000, seed=1))
    assert not set(made) & set(good)
    assert len(set(made)) > 1_500
