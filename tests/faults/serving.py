"""Faults of the serving chain: what is asked while things are killed, stalled, restarted, forged and damaged.

Each scenario takes how often it is to happen and gives what was asked and what went wrong, which must be nothing.
``make test`` runs short forms, ``make faults`` the long ones.
"""

from __future__ import annotations

import random
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from fasttrack.errors import FastTrackError
from fasttrack.local.platform import Platform
from fasttrack.registry import package
from fasttrack.registry.keys import new_key_pair
from tests.faults.doors import forged_tokens
from tests.faults.gateways import PATH, Callers, Outcome, world
from tests.integration.gateway_redis import redis_server
from tests.local_homes import running_platform
from tests.loopback import HOST
from tests.unit.gateway_harness import until


def rolling_restarts(platform: Platform, times: int) -> Outcome:
    """Gateways are replaced one after the other, as a Deployment does it: a new one is ready before an old one goes."""
    outcome = Outcome("rolling restarts")
    with world(platform) as at, ExitStack() as stack:
        token = at.issuer.token("flights-predictor")
        old = stack.enter_context(at.gateway())
        with Callers([old.port], token, outcome) as callers:
            for _ in range(times):
                new = stack.enter_context(at.gateway())
                callers.ports[:] = [new.port]
                old.popen.terminate()
                if old.popen.wait(60):
                    outcome.wrong.append(f"exit code {old.popen.returncode}: {old.output.read_text()[-300:]}")
                old, outcome.times = new, outcome.times + 1
    return outcome


def redis_kills(platform: Platform, times: int) -> Outcome:
    """Redis is killed under load and started again, empty: no answer fails."""
    outcome = Outcome("Redis killed")
    with world(platform) as at, redis_server(at.folder) as redis, at.gateway(redis.url) as it:
        with Callers([it.port], at.issuer.token("flights-predictor"), outcome) as _:
            for number in range(times):
                time.sleep(random.Random(number).uniform(0.05, 0.3))
                redis.kill()
                time.sleep(random.Random(-number).uniform(0.05, 0.3))
                redis.start()
                outcome.times += 1
        until(lambda: it.ready() == "ready")
    return outcome


def stalled_sockets(platform: Platform, times: int) -> Outcome:
    """Many clients stall, in their headers, in their bodies, or at reading: others don't notice."""
    outcome = Outcome("stalled sockets")
    with world(platform) as at, at.gateway() as it, ExitStack() as stack:
        token = at.issuer.token("flights-predictor")
        body = b'{"entity": {"flight_id": "x"}}'
        head = (f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n").encode()  # fmt: skip
        pieces = (b"POST ", head, head + b"\r\n", head + b"\r\n" + body[:5])
        with Callers([it.port], token, outcome, count=2):
            for number in range(times):
                stalled = stack.enter_context(closing(socket.create_connection((HOST, it.port), timeout=10)))
                stalled.sendall(pieces[number % len(pieces)])
                outcome.times += 1
            before = outcome.asked
            until(lambda: outcome.asked > before + 200, 60)
    return outcome


def damaged_packages(platform: Platform, times: int) -> Outcome:
    """A signed package is changed: bits flipped, files swapped, cut, or replayed from another package."""
    outcome = Outcome("damaged packages")
    draw = random.Random(times)
    private, public = new_key_pair()
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = (
            package.write(package.build(_content(number), private), Path(folder) / str(number)) for number in (1, 2)
        )
        names = sorted(path.name for path in ours.iterdir())
        good = {name: (ours / name).read_bytes() for name in names}
        for _ in range(times):
            name = draw.choice([each for each in names if good[each]])
            changed = _damaged(draw, name, good, theirs)
            if changed == good[name]:
                continue
            (ours / name).write_bytes(changed)
            outcome.asked += 1
            try:
                package.load_verified(str(ours), public)
                outcome.wrong.append(f"accepted: {name}")
            except FastTrackError:
                outcome.times += 1
            (ours / name).write_bytes(good[name])
        package.load_verified(str(ours), public)
    return outcome


def _content(model: int) -> dict[str, bytes]:
    return {name: f"{name} of model {model}\n".encode() * 9 for name in package.LIMITS}


def _damaged(draw: random.Random, name: str, good: dict[str, bytes], theirs: Path) -> bytes:
    content = good[name]
    kind = draw.choice(["flip", "flip", "flip", "cut", "swap", "replay"])
    if kind == "flip":
        place = draw.randrange(len(content))
        return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
    if kind == "cut":
        return content[: draw.randrange(len(content))]
    if kind == "swap":
        return good[draw.choice(sorted(good))]
    return (theirs / name).read_bytes() if (theirs / name).exists() else b""


Scenario = Callable[[Platform, int], Outcome]
#: By option: the scenario, and how often in the long form.
SCENARIOS: dict[str, tuple[Scenario, int]] = {
    "rolling-restarts": (rolling_restarts, 50),
    "redis-kills": (redis_kills, 100),
    "stalled-sockets": (stalled_sockets, 1_000),
    "forged-tokens": (forged_tokens, 1_000_000),
    "damaged-packages": (damaged_packages, 10_000),
}


def run(wanted: dict[str, int]) -> list[Outcome]:
    """Run scenarios, each so many times, on one platform."""
    found = []
    with running_platform(["postgres", "redis"]) as platform:
        for name, times in wanted.items():
            began = time.monotonic()
            outcome = SCENARIOS[name][0](platform, times)
            outcome.seconds = time.monotonic() - began
            found.append(outcome)
    return found


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as text."""
    rows: list[tuple[Any, ...]] = [("fault", "times", "asked", "wrong", "seconds")]
    rows += [(o.fault, f"{o.times:,}", f"{o.asked:,}", len(o.wrong), f"{o.seconds:.0f}") for o in outcomes]
    widths = [max(len(str(row[column])) for row in rows) for column in range(5)]
    return "\n".join("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
