"""Gateways on a real PostgreSQL and Redis, who calls them, and what a scenario of the serving chain found."""

from __future__ import annotations

import http.client
import json
import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from tests.integration.gateway_processes import Process, process, settings_for
from tests.integration.registry_database import digest, opened, scratch_database
from tests.loopback import HOST
from tests.unit.gateway_harness import ModelServer, TestIssuer, deployment, model_server

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
        settings = self.settings()
        with process(replace(settings, redis=redis or settings.redis), self.folder, self.issuer) as it:
            yield it

    def settings(self) -> Settings:
        """What a gateway needs to start."""
        return settings_for(self.platform, self.dsn, self.issuer)

    def served(self) -> dict[str, Any]:
        """How the registry is told where a version is served."""
        url, wanted = self.server.url, deployment(self.server.url, self.server.url, rate_limit=PLENTY, cache="0s")
        return {"signature": wanted.signature, "usecase_document": wanted.usecase_document, "transformer_url": url,
                "predictor_url": url, "explainer_url": url}  # fmt: skip


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
        at = World(dsn, platform, TestIssuer(folder), server, folder)
        registry.deploy("flights", 1, **at.served())
        yield at


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
