"""The model servers as the processes that they are in production, on free ports of this machine."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.loopback import free_ports

ROOT = Path(__file__).resolve().parents[2]
NAME = "flights"


@dataclass
class Running:
    """A server process and where it answers.

    Attributes:
        trusted: for HTTPS: whom its callers trust, and who they are.
    """

    process: subprocess.Popen[bytes]
    http: int
    grpc: int
    log: Path
    trusted: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"http{'s' if self.trusted else ''}://127.0.0.1:{self.http}"

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of its log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without its FASTTRACK_ variables, and with `settings`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTTRACK_")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **settings}


@contextmanager
def started(
    role: str,
    package: Path,
    settings: Mapping[str, str],
    folder: Path,
    *flags: str,
    trusted: ssl.SSLContext | None = None,
) -> Iterator[Running]:
    """Start a server through its container entry point; it may not be ready yet."""
    http, grpc = free_ports(2)
    argv = [sys.executable, str(ROOT / f"kserve/{role}/main.py"), "--model_name", NAME, "--package", str(package)]
    argv += ["--http_port", str(http), "--grpc_port", str(grpc), *flags]
    log = folder / f"{role}-{http}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(argv, env=environment(settings), stdout=out, stderr=subprocess.STDOUT)
    try:
        yield Running(process, http, grpc, log, trusted)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_ready(server: Running, seconds: float = 120) -> None:
    """Until the model answers that it is ready.

    Raises:
        AssertionError: the process ended, or time is up; with its log.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert server.process.poll() is None, server.log.read_text()
        try:
            url = f"{server.url}/v2/models/{NAME}/ready"
            with urllib.request.urlopen(url, timeout=5, context=server.trusted) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise AssertionError(f"not ready after {seconds} s:\n{server.log.read_text()}")


def refused(role: str, package: Path, settings: Mapping[str, str], *flags: str) -> tuple[int, str]:
    """Start a server that should refuse to; its exit code and what it printed to standard error."""
    argv = [sys.executable, str(ROOT / f"kserve/{role}/main.py"), "--model_name", NAME, "--package", str(package)]
    done = subprocess.run([*argv, *flags], env=environment(settings), capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


def post(url: str, body: Any, headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any], dict[str, str]]:
    """POST JSON (or bytes as they are); status, document, headers."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, dict(headers or {}), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.loads(response.read()), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), dict(error.headers)
