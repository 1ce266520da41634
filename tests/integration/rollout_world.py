"""What rollout tests stand on: two versions with servers of their own, and a registry that knows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrack.registry.store import Registry
from fasttrack.rollout.plan import Plan
from fasttrack.rollout.store import Rollouts
from tests.integration.registry_database import digest, opened
from tests.unit.gateway_harness import ModelServer, TestIssuer, deployment, model_server

PLENTY = {"requests": 10_000_000, "per": "1m", "burst": 1_000_000}
WHO: dict[str, Any] = {"who": "alice", "why": "a test"}
#: Steps that take seconds, on as little evidence as is sound.
QUICK = Plan(steps=(30, 60), dwell_seconds=1, keys=50, tolerance=0.2, slow_ratio=30)
LONG = Plan(steps=(50,), dwell_seconds=3600)


@dataclass
class World:
    """Two versions with servers of their own, a registry, and whatever gateways a test starts."""

    dsn: str
    registry: Registry
    rollouts: Rollouts
    issuer: TestIssuer
    champion: ModelServer
    challenger: ModelServer


@contextmanager
def world(dsn: str, folder: Path) -> Iterator[World]:
    """A registry with a champion and an offered challenger in an empty database; keys are in `folder`."""
    with ExitStack() as stack:
        ours, theirs = stack.enter_context(model_server()), stack.enter_context(model_server())
        registry = stack.enter_context(opened(dsn))
        registry.migrate()
        rollouts = Rollouts(dsn, pool_size=8)
        stack.callback(rollouts.close)
        for number, server in ((1, ours), (2, theirs)):
            server.version, server.digest = number, digest(number)
            registry.register_model("flights", f"/packages/{number}", digest=digest(number))
        registry.deploy("flights", 1, **served(ours))
        registry.set_stage("flights", 1, "champion", "alice", "the first")
        rollouts.offer("flights", 2, **served(theirs))
        yield World(dsn, registry, rollouts, TestIssuer(folder), ours, theirs)


def served(server: ModelServer) -> dict[str, Any]:
    """How a version with this server is deployed."""
    wanted = deployment(server.url, server.url, rate_limit=PLENTY, cache="0s")
    return {"signature": wanted.signature, "usecase_document": wanted.usecase_document, "transformer_url": server.url,
            "predictor_url": server.url, "explainer_url": server.url}  # fmt: skip


def begin(world: World, plan: Plan) -> None:
    """Start the rollout of the challenger."""
    world.rollouts.start("flights", 2, plan, **WHO)


def state(world: World) -> str:
    """The status of the newest rollout."""
    return world.rollouts.newest("flights").status
