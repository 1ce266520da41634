"""Callers that go on asking gateways for predictions, each for another flight, and remember what came."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.integration.gateway_processes import Process
from tests.loopback import HOST

PATH = "/v1/usecases/flights/predict"
INFER = "/v2/models/flights/infer"


@dataclass
class Traffic:
    """What callers got.

    Attributes:
        answers: moment (monotonic seconds), status, arm ("": no rollout), flight.
        broken: connections that gave no answer, by gateway's port.
    """

    answers: list[tuple[float, int, str, str]] = field(default_factory=list)
    broken: list[int] = field(default_factory=list)

    def arms(self, since: float = 0.0) -> list[str]:
        """The arms that answered since a moment."""
        return [arm for at, _, arm, _ in self.answers if at >= since]

    def failures(self) -> list[int]:
        """Statuses other than 200."""
        return [status for _, status, _, _ in self.answers if status != 200]

    def last(self, arm: str) -> float:
        """When an arm answered last."""
        return max(at for at, _, found, _ in self.answers if found == arm)


@contextmanager
def traffic(
    gateways: Sequence[Process], callers: int = 6, flights: int = 10**9, paths: Sequence[str] = (PATH,)
) -> Iterator[Traffic]:
    """Ask all gateways until the block ends; there are so many `flights`, asked for one after the other.

    Args:
        gateways: callers are spread over them.
        callers: how many ask at a time.
        flights: how many there are.
        paths: each caller goes from one to the next: `PATH`, `INFER`.
    """
    found, stop, numbers = Traffic(), threading.Event(), itertools.count()

    def call(gateway: Process) -> None:
        turns = itertools.cycle(paths)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {_token(gateway)}"}
        connection = http.client.HTTPConnection(HOST, gateway.port, timeout=20)
        while not stop.is_set():
            flight, path = f"f-{next(numbers) % flights}", next(turns)
            try:
                connection.request("POST", path, json.dumps(asked(path, flight)), headers)
                answer = connection.getresponse()
                body: Any = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                connection.close()
                found.broken.append(gateway.port)
                time.sleep(0.2)
                continue
            arm = (body.get("experiment") or {}).get("arm", "") or said(answer.headers.get("X-Experiment", ""))
            found.answers.append((time.monotonic(), answer.status, arm, flight))
        connection.close()

    threads = [threading.Thread(target=call, args=(gateways[n % len(gateways)],)) for n in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            with suppress(RuntimeError):
                thread.join()


def asked(path: str, flight: str) -> dict[str, Any]:
    """The body that asks about one flight."""
    if path == PATH:
        return {"entity": {"flight_id": flight}}
    return {"inputs": [{"name": "flight_id", "datatype": "BYTES", "shape": [1], "data": [flight]}]}


def said(header: str) -> str:
    """The arm in `X-Experiment`; empty where no rollout runs."""
    return header.rpartition("arm=")[2]


def _token(gateway: Process) -> str:
    return gateway.issuer.token("flights-admin")
