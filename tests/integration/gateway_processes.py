"""The gateway as the process that it is in production."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from tests.loopback import HOST, free_port
from tests.unit.gateway_harness import AUDIENCE, ISSUER, TestIssuer, until

ROOT = Path(__file__).parents[2]


@dataclass
class Process:
    """A `python -m api_gateway` and how to ask it.

    Attributes:
        trusted: for HTTPS: whom its callers trust.
    """

    popen: subprocess.Popen[bytes]
    port: int
    issuer: TestIssuer
    output: Path
    trusted: ssl.SSLContext | None = None

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, Any]:
        """One request; status and body."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Content-Type": "application/json"} if body is not None else {}
        with closing(self._connection()) as connection:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def _connection(self) -> http.client.HTTPConnection:
        if self.trusted is None:
            return http.client.HTTPConnection(HOST, self.port, timeout=20)
        return http.client.HTTPSConnection(HOST, self.port, timeout=20, context=self.trusted)

    def predict(self, name: str, number: int) -> tuple[int, Any]:
        """One prediction for a made-up flight; status and body."""
        body = {"entity": {"flight_id": f"f-{number}"}}
        return self.ask("POST", f"/v1/usecases/{name}/predict", body, self.issuer.token("flights-predictor"))

    def ready(self) -> str:
        """What /readyz says, or why nothing comes."""
        try:
            return str(self.ask("GET", "/readyz")[1]["status"])
        except OSError as error:
            return str(error)


@contextmanager
def process(
    settings: Settings, folder: Path, issuer: TestIssuer, *flags: str, trusted: ssl.SSLContext | None = None
) -> Iterator[Process]:
    """Start a gateway and wait until it is ready; it is killed at the end if it hasn't ended."""
    port = free_port()
    environment = {**os.environ, **settings.to_environment(), "PYTHONPATH": str(ROOT)}
    environment["FASTTRACK_GATEWAY_SPOOL"] = str(folder / "spool")
    output = folder / f"gateway-{port}.log"
    with output.open("wb") as log:
        arguments = [sys.executable, "-m", "api_gateway", "--host", HOST, "--port", str(port), *flags]
        popen = subprocess.Popen(arguments, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    running = Process(popen, port, issuer, output, trusted)
    try:
        until(lambda: running.ready() == "ready" or popen.poll() is not None, 60)
        assert popen.poll() is None, output.read_text()
        yield running
    finally:
        popen.kill()
        popen.wait()


def settings_for(platform: Platform, dsn: str, issuer: TestIssuer) -> Settings:
    """The platform's settings, with another database and the test's issuer."""
    return replace(
        platform.settings(), postgres=dsn, jwks=str(issuer.path), issuer=ISSUER, audience=AUDIENCE, gateway=""
    )


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A gateway that is to end by itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTTRACK_")}
    return subprocess.run(
        [sys.executable, "-m", "api_gateway", *arguments],
        env={**kept, **environment, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
