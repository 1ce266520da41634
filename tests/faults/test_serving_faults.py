"""Short forms of the serving chain's faults; `make faults` runs the long ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from fasttrack.local.platform import Platform
from tests.faults.doors import Door, knock
from tests.faults.forged import mutated
from tests.faults.serving import SCENARIOS
from tests.local_homes import running_platform

SHORT = {
    "rolling-restarts": 3, "redis-kills": 8, "stalled-sockets": 300, "forged-tokens": 10_000, "damaged-packages": 1_000,
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


def test_whatever_is_not_refused_is_told() -> None:
    """Answers of an application that has every fault, one a path."""
    bearer, other = (b"www-authenticate", b"Bearer"), (b"www-authenticate", b"Basic")
    answers = {"200": (200, bearer), "403": (403, bearer), "500": (500, bearer), "bare": (401, (b"x", b"")),
               "other": (401, other), "401": (401, bearer)}  # fmt: skip

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == b"{}"
        for _ in range(2 if scope["path"] == "twice" else 1):
            if scope["path"] == "nothing":
                raise OSError("gone")
            status, header = answers.get(scope["path"], (401, bearer))
            await send({"type": "http.response.start", "status": status, "headers": [header]})
            await send({"type": "http.response.body", "body": b""})

    every = [Door(path, "POST", path, b"{}") for path in [*answers, "twice", "nothing"]]
    asked, wrong = asyncio.run(knock(app, every, (f"t{number}" for number in range(2 * len(every)))))
    assert asked == 2 * len(every)
    told = [said.split(":")[0] for said in wrong]
    assert told == 2 * [door.name for door in every if door.name != "401"]
