"""The gateway's doors: each route and method that asks for a bearer token, and what is said to those who knock.

Requests go to the ASGI application itself, without a socket, so that a million of them take minutes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import Iterable
from contextlib import closing, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from starlette.types import ASGIApp

from api_gateway.app import Gateway, create_app
from api_gateway.options import GatewayOptions
from fasttrack.local.platform import Platform
from fasttrack.rollout.store import Rollouts
from tests.faults.forged import mutated
from tests.faults.gateways import Outcome, World, world
from tests.integration.registry_database import digest, opened
from tests.unit.gateway_harness import ENTITY

#: Good bodies, by the last part of a route's path.
_BODIES: Final[dict[str, Any]] = {
    "predict": ENTITY, "explain": ENTITY, "infer": {"inputs": []},
    "rollout": {"version": 2, "why": "test"}, "promote": {"why": "test"}, "abort": {"why": "test"},
}  # fmt: skip
#: After so many requests the gateway's own tasks get their turn: refusing waits for nothing.
_TURN: Final = 50


@dataclass(frozen=True)
class Door:
    """A route and method.

    Attributes:
        name: method and path as the OpenAPI document has them.
        body: one that it takes; empty where it takes none.
    """

    name: str
    method: str
    path: str
    body: bytes


def doors(app: Gateway, usecase: str) -> dict[str, Door]:
    """By name, all that the OpenAPI document says a bearer token opens, and HEAD where there is GET.

    Raises:
        KeyError: a route takes a body, and no good one is known here.
    """
    found = {}
    for template, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            if {"bearer": []} not in operation.get("security", []):
                continue
            body = json.dumps(_BODIES[template.rsplit("/", 1)[-1]]).encode() if "requestBody" in operation else b""
            for each in ("GET", "HEAD") if method == "get" else (method.upper(),):
                name = f"{each} {template}"
                found[name] = Door(name, each, template.replace("{name}", usecase), body)
    return found


@dataclass(frozen=True)
class Answer:
    """What an application answered; more than one answer is an error of it."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


async def ask(app: ASGIApp, door: Door, token: str) -> Answer:
    """One request with a token, as a server in front of the application hands it over."""
    # HTTP takes the white space at a value's end away.
    headers = [(b"host", b"gateway"), (b"authorization", f"Bearer {token}".rstrip(" \t").encode("latin-1"))]
    if door.body:
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(door.body)).encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": door.method,
        "path": door.path, "raw_path": door.path.encode(), "query_string": b"", "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    coming: list[dict[str, Any]] = [{"type": "http.request", "body": door.body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return coming.pop() if coming else await asyncio.Event().wait()  # nothing more, and nobody hangs up

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    assert start["type"] == "http.response.start" and all(each["type"] == "http.response.body" for each in rest)
    return Answer(start["status"], dict(start["headers"]), b"".join(each.get("body", b"") for each in rest))


async def knock(app: ASGIApp, among: Iterable[Door], tokens: Iterable[str]) -> tuple[int, list[str]]:
    """Ask with each token, at the doors in turn.

    Returns:
        How often, and what was answered that is not 401 with a challenge, in words.
    """
    asked, wrong = 0, []
    for token, door in zip(tokens, itertools.cycle(among), strict=False):
        asked += 1
        if asked % _TURN == 0:
            await asyncio.sleep(0)
        try:
            answer = await ask(app, door, token)
        except Exception as error:
            wrong.append(f"{door.name}: {error!r} for {token}")
        else:
            if answer.status != 401 or not answer.headers.get(b"www-authenticate", b"").startswith(b"Bearer"):
                wrong.append(f"{door.name}: {answer.status} for {token}")
    return asked, wrong


def forged_tokens(platform: Platform, times: int) -> Outcome:
    """Tokens changed anywhere, or put together anew, at every door in turn: all get 401, and nothing happens.

    A rollout runs while the first half comes, and none while the second does, so that each of its routes would have
    had something to do. That good tokens then end it, and start another, shows that no forged one did.
    """
    outcome = Outcome("forged tokens")
    start, promote, abort = (f"POST /v1/usecases/{{name}}/rollout{end}" for end in ("", "/promote", "/abort"))
    with world(platform) as at, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # a log line each
        _offer_a_challenger(at)
        trial = _Trial(at, outcome)
        others = [name for name in trial.doors if name not in (start, promote, abort)]

        async def story() -> None:
            async with trial.app.parts.running():
                await trial.good(start, *others)
                await trial.forged(times // 2, seed=times)
                await trial.good(abort)
                await trial.forged(times - times // 2, seed=times + 1)
                await trial.good(start, promote, *others)

        asyncio.run(story())
    return outcome


class _Trial:
    """A gateway application, and good and forged tokens for it."""

    def __init__(self, at: World, outcome: Outcome) -> None:
        self.app = create_app(at.settings(), GatewayOptions(spool=at.folder / "spool-in-process"))
        self.doors = doors(self.app, "flights")
        self._server, self._outcome = at.server, outcome
        # They outlast every run, so that no forged one is refused for its age alone.
        expires = int(time.time()) + 86_400
        self._tokens = [at.issuer.token("flights-admin", sub=f"s{number}", exp=expires) for number in range(8)]

    async def good(self, *names: str) -> None:
        """Go through these doors in this order."""
        for token, name in zip(itertools.cycle(self._tokens), names, strict=False):
            answer = await ask(self.app, self.doors[name], token)
            if not 200 <= answer.status < 300:
                self._outcome.wrong.append(f"{name}: {answer.status} for a good token: {answer.body[:200]!r}")

    async def forged(self, count: int, seed: int) -> None:
        """Knock at all doors."""
        before = len(self._server.requests)
        asked, wrong = await knock(self.app, self.doors.values(), mutated(self._tokens, count, seed))
        self._outcome.asked += asked
        self._outcome.times += asked - len(wrong)
        self._outcome.wrong += wrong
        if len(self._server.requests) != before:
            self._outcome.wrong.append("the model server was asked")


def _offer_a_challenger(at: World) -> None:
    with opened(at.dsn) as registry, closing(Rollouts(at.dsn)) as rollouts:
        registry.register_model("flights", "/packages/y", digest=digest(2))
        rollouts.offer("flights", 2, **at.served())
