"""Drains as processes of their own, to be killed, stopped and starved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from fasttrack.ingest.broker import Broker
from fasttrack.ingest.drain import Lake
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase

ROOT = Path(__file__).parents[2]
_SCRIPT = """
import sys
from fasttrack.errors import FastTrackError
from fasttrack.ingest.drain import drain
from fasttrack.settings import Settings
from tests.unit.ingest_usecase import usecase

name, group, workers, until, batch = sys.argv[1:]
try:
    settings = Settings.from_environment()
    drain(usecase(name), settings, workers=int(workers), until=until, group=group, batch_events=int(batch))
except FastTrackError as error:
    print(type(error).__name__, error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class DrainProcess:
    """A drain of the test use case, with its workers.

    Args:
        settings, shop: what is drained where.
        group: the consumer group. A group whose members were killed waits for their session to end before it goes on,
            so tests that need not show that use a new one each time.
        prefix: a command that it runs under.
    """

    def __init__(
        self,
        settings: Settings,
        shop: UseCase,
        group: str,
        *,
        workers: int = 2,
        until: str = "end",
        batch: int = 200,
        prefix: Sequence[str] = (),
    ) -> None:
        arguments = [shop.name, group, str(workers), until, str(batch)]
        environment = {**os.environ, **settings.to_environment(), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _SCRIPT, *arguments], env=environment, stderr=subprocess.PIPE, text=True
        )

    def workers(self) -> list[psutil.Process]:
        """The worker processes that run now."""
        try:
            return psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> str:
        """kill -9 the parent and every worker, in this order; what they had said."""
        family = [self.process.pid, *(worker.pid for worker in self.workers())]
        for pid in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                # It ended by itself in this moment.
                continue
        return self.process.communicate()[1]

    def finish(self, seconds: float = 120.0) -> tuple[int, str]:
        """Wait for its end: exit code and what it said."""
        try:
            _, said = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self.process.returncode, said


def landed(settings: Settings, shop: UseCase) -> int:
    """How many offsets all tables have decided on."""
    broker = Broker(settings.kafka)
    topics = {name: broker.require([shop.topic(name)])[shop.topic(name)] for name in shop.streams}
    lake = Lake(shop, settings, broker.cluster_id(), topics)
    lake.ensure()
    return sum(lake.marks({(n, p): 0 for n, t in topics.items() for p in range(t.partitions)}).values())


def wait_until_more(settings: Settings, shop: UseCase, than: int, seconds: float = 60.0) -> int:
    """Wait until more than so many offsets are decided on; how many there are then."""
    deadline = time.monotonic() + seconds
    while (now := landed(settings, shop)) <= than:
        assert time.monotonic() < deadline, "the drain does not move"
        time.sleep(0.02)
    return now
