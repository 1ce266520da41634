"""Webhooks while the broker is killed and the gateway is stopped: what was answered with 202 is in the lake, once."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from fasttrack.ingest.broker import Broker
from fasttrack.ingest.drain import drain
from fasttrack.ingest.reconcile import reconcile
from fasttrack.lake.tables import read_raw
from fasttrack.local.platform import Platform
from fasttrack.usecase import UseCase, load
from tests.integration.gateway_processes import Process, process
from tests.local_homes import running_platform
from tests.unit.gateway_harness import AUDIENCE, ISSUER, TestIssuer, until
from tests.unit.ingest_usecase import YAML, event
from tests.unit.webhook_sender import SECRET, Sender

SEED = 20130101
SENDERS, EACH = 4, 150
HOOKS = {
    "orders": {"kind": "webhook", "stream": "placed", "secret_env": "TEST_HOOK_SECRET"},
    "payments": {"kind": "webhook", "stream": "paid", "secret_env": "TEST_HOOK_SECRET"},
}


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """A broker of our own, as it is killed; the platform starts it again."""
    with running_platform(["kafka", "schema_registry", "postgres", "redis"]) as running:
        yield running


@pytest.fixture
def case(tmp_path: Path) -> UseCase:
    """Orders in JSON, payments in Avro."""
    text = YAML.format(name=f"shop-{uuid.uuid4().hex[:8]}", partitions=3, source="tests.unit.ingest_usecase:events")
    text = text.replace("    event_time: paid_at\n", "    event_time: paid_at\n    encoding: avro\n")
    text += "serving: {rate_limit: {requests: 1000000, burst: 100000}}\n"
    file = tmp_path / "usecases" / "shop.yaml"
    file.parent.mkdir()
    file.write_text(text + f"sources: {json.dumps(HOOKS)}\n")
    return load(file)


@dataclass
class Traffic:
    """Senders that try each message until it is answered with 202; some are given up on after one try."""

    case: UseCase
    port: int = 0
    answered: set[str] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)
    refused: int = 0
    broken: int = 0

    def run(self, number: int) -> None:
        """One sender's messages, in order, all of one key."""
        moments = random.Random(SEED + number)
        for message in range(EACH):
            events = [self._event(number, message * 10 + place) for place in range(moments.choice([1, 1, 3]))]
            ids = {each["event_id"] for each in events}
            self.tried |= ids
            patience = 1 if moments.random() < 0.1 else 10_000
            for _ in range(patience):
                if self._deliver(number, f"m-{number}-{message}", events if len(events) > 1 else events[0]):
                    self.answered |= ids
                    break
                time.sleep(0.05)
            time.sleep(0.01)

    def _event(self, number: int, place: int) -> dict[str, Any]:
        name = f"sender{chr(97 + number)}-{place}"
        if number % 2:
            return {"event_id": name, "order_id": f"o{number}", "paid_at": "2020-01-01T10:00:00Z", "delay": place / 2}
        return event(event_id=name, order_id=f"o{number}")

    def _deliver(self, number: int, id: str, document: Any) -> bool:
        hook = "payments" if number % 2 else "orders"
        try:
            status, _, answer = Sender(self.port, f"/v1/usecases/{self.case.name}/webhooks/{hook}").send(id, document)
        except (OSError, http.client.HTTPException):
            self.broken += 1
            return False
        assert status in (202, 503), answer
        self.refused += status == 503
        return status == 202


def kill_broker(platform: Platform) -> None:
    def running() -> list[int]:
        """Its process, once it is up again after the kill before."""
        return [part.pid for part in platform.status() if part.name == "kafka" and part.state == "running" and part.pid]

    until(lambda: bool(running()), 120)
    (pid,) = running()
    os.kill(pid, signal.SIGKILL)


def stop(gateway: Process) -> None:
    gateway.popen.send_signal(signal.SIGTERM)
    assert gateway.popen.wait(60) == 0


def test_what_was_answered_is_in_the_lake_once(
    platform: Platform, case: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_HOOK_SECRET", SECRET)
    monkeypatch.setenv("FASTTRACK_GATEWAY_USECASES", str(tmp_path / "usecases"))
    monkeypatch.setenv("FASTTRACK_GATEWAY_WEBHOOK_SECONDS", "0.5")
    # There is no other gateway that callers could go to meanwhile.
    monkeypatch.setenv("FASTTRACK_GATEWAY_LEAVE_SECONDS", "0")
    issuer = TestIssuer(tmp_path)
    settings = replace(platform.settings(), jwks=str(issuer.path), issuer=ISSUER, audience=AUDIENCE, gateway="")
    traffic = Traffic(case)
    with ExitStack() as stack:
        gateway = stack.enter_context(process(settings, tmp_path, issuer))
        traffic.port = gateway.port
        threads = [threading.Thread(target=traffic.run, args=(number,)) for number in range(SENDERS)]
        for thread in threads:
            thread.start()
        for share, faults in ((0.2, "broker"), (0.4, "gateway"), (0.6, "broker gateway"), (0.8, "broker")):
            while len(traffic.tried) < share * SENDERS * EACH and any(map(threading.Thread.is_alive, threads)):
                time.sleep(0.01)
            if "broker" in faults:
                kill_broker(platform)
            if "gateway" in faults:
                stop(gateway)
                gateway = stack.enter_context(process(settings, tmp_path, issuer))
                traffic.port = gateway.port
        for thread in threads:
            thread.join()
        stop(gateway)
    assert traffic.refused and traffic.broken, "the faults were not felt"
    check(replace(settings, lake=str(tmp_path / "lake")), case, traffic)


def check(settings: Any, case: UseCase, traffic: Traffic) -> None:
    """Drain, and compare what is in the lake with what was answered."""
    Broker(settings.kafka).create({case.topic(name): stream.partitions for name, stream in case.streams.items()})
    drain(case, settings, workers=1)
    found = reconcile(case, settings)
    assert found.balanced and found.total.dead_lettered == 0
    rows = [row for stream in case.streams for row in read_raw(settings, case, stream).to_pylist()]
    ids = [row["event_id"] for row in rows]
    assert len(ids) == len(set(ids)) == found.total.landed
    assert traffic.answered - set(ids) == set(), "answered and lost"
    assert set(ids) - traffic.tried == set(), "never sent"
    for number in range(SENDERS):
        mine = sorted((r["_partition"], r["_offset"], r["event_id"]) for r in rows if r["order_id"] == f"o{number}")
        places = [int(name.split("-")[1]) for _, _, name in mine]
        assert places == sorted(places), "a sender's events keep their order"
