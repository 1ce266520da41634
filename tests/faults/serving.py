"""Faults of the serving chain: what is asked while things are killed, stalled, restarted, forged and damaged.

Each scenario takes how often it is to happen and gives what was asked and what went wrong, which must be nothing.
``make test`` runs short forms, ``make faults`` the long ones.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from api_gateway.keys import KeyStore
from api_gateway.tokens import TokenVerifier
from fasttrack.errors import AuthenticationError, FastTrackError
from fasttrack.local.platform import Platform
from fasttrack.registry import package
from fasttrack.registry.keys import new_key_pair
from tests.faults.forged import mutated
from tests.integration.gateway_processes import Process, process, settings_for
from tests.integration.gateway_redis import redis_server
from tests.integration.registry_database import digest, opened, scratch_database
from tests.local_homes import running_platform
from tests.loopback import HOST
from tests.unit.gateway_harness import ModelServer, TestIssuer, deployment, model_server, until

PLENTY = {"requests": 100_000_000, "per": "1m", "burst": 10_000_000}
PATH = "/v1/usecases/flights/predict"


@dataclass
class Outcome:
    """One scenario's result.

    Attributes:
        times: how often the fault happened.
        asked: requests (tokens, packages) that met it.
        wrong: what must not have been, in words.
    """

    fault: str
    times: int = 0
    asked: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class World:
    """A database with one deployed model, and what gateways need to start."""

    dsn: str
    platform: Platform
    issuer: TestIssuer
    server: ModelServer
    folder: Path

    @contextmanager
    def gateway(self, redis: str = "") -> Iterator[Process]:
        """A gateway process."""
        settings = settings_for(self.platform, self.dsn, self.issuer)
        with process(replace(settings, redis=redis or settings.redis), self.folder, self.issuer) as it:
            yield it


@contextmanager
def world(platform: Platform) -> Iterator[World]:
    """On a platform's PostgreSQL and Redis."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fasttrack-faults-")))
        dsn = stack.enter_context(scratch_database(platform.settings().postgres))
        server = stack.enter_context(model_server())
        registry = stack.enter_context(opened(dsn))
        registry.migrate()
        registry.register_model("flights", "/packages/x", digest=digest(1))
        wanted = deployment(server.url, server.url, rate_limit=PLENTY, cache="0s")
        registry.deploy(
            "flights", 1, signature=wanted.signature, usecase_document=wanted.usecase_document,
            transformer_url=server.url, predictor_url=server.url, explainer_url=server.url,
        )  # fmt: skip
        yield World(dsn, platform, TestIssuer(folder), server, folder)


class Callers:
    """Threads that keep their connections and ask whichever gateway is in the list, as behind a load balancer."""

    def __init__(self, ports: list[int], token: str, outcome: Outcome, count: int = 4) -> None:
        self.ports, self._token, self._outcome = ports, token, outcome
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(count)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        connection: http.client.HTTPConnection | None = None
        for count in range(1 << 40):
            if self._stop.is_set():
                break
            if connection is None or connection.sock is None:
                # A new connection goes where the balancer sends it; one that is kept stays where it is.
                connection = http.client.HTTPConnection(HOST, random.choice(self.ports), timeout=20)
            body = json.dumps({"entity": {"flight_id": f"f-{number}-{count}"}})
            self._outcome.asked += 1
            try:
                connection.request("POST", PATH, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    self._outcome.wrong.append(f"{answer.status} {content[:200]!r}")
                if answer.will_close:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                self._outcome.wrong.append(repr(error))
                connection.close()
        if connection is not None:
            connection.close()


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


def forged_tokens(platform: Platform, times: int) -> Outcome:
    """Tokens changed anywhere, or put together anew: none is accepted by what every route asks."""
    outcome = Outcome("forged tokens")
    with tempfile.TemporaryDirectory() as folder:
        issuer = TestIssuer(Path(folder))
        keys = KeyStore(str(issuer.path), refresh_seconds=3600, cooldown_seconds=3600)
        verifier = TokenVerifier(keys, issuer="https://issuer.test", audience="fasttrack", skew=30, max_bytes=8192)

        async def story() -> None:
            await keys.refresh()
            good = [issuer.token("flights-admin", sub=f"s{number}") for number in range(8)]
            for token in good:
                await verifier.verify(f"Bearer {token}")
            for token in mutated(good, times, seed=times):
                outcome.asked += 1
                try:
                    await verifier.verify(f"Bearer {token}")
                except AuthenticationError:
                    outcome.times += 1
                else:
                    outcome.wrong.append(f"accepted: {token}")

        asyncio.run(story())
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
