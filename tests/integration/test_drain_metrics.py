"""A drain without end, as its metrics and its last words tell it; both are held against the tables."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from fasttrack.errors import ConfigurationError
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.drain import drain
from fasttrack.ingest.lateness import Watermark, moment
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.replay import replay
from fasttrack.ingest.schemas import register
from fasttrack.lake.tables import read_raw
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, parse
from tests.unit import ingest_usecase
from tests.unit.ingest_usecase import YAML, event, message

ROOT = Path(__file__).parents[2]
Metrics = dict[tuple[str, ...], float]
_SECONDS = 120


@pytest.fixture
def settings(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(ingest_usecase, "ORDERS", 600)
    # Workers are found wherever the tests are started.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return replace(platform.settings(), lake=str(tmp_path / "lake"))


@pytest.fixture
def shop(tmp_path: Path) -> UseCase:
    """The history comes ten minutes out of order, of which one is allowed."""
    text = YAML.format(name=f"shop-{uuid.uuid4().hex[:8]}", partitions=3, source="tests.unit.ingest_usecase:events")
    text = text.replace("event_time: placed_at", "event_time: placed_at\n    allowed_lateness: 1m")
    (tmp_path / "usecase.yaml").write_text(text)
    return parse(text)


class Endless:
    """``fasttrack drain --until forever`` with metrics."""

    def __init__(self, settings: Settings, file: Path) -> None:
        command = [sys.executable, "-m", "fasttrack", "--json", "drain", "-u", str(file)]
        self.process = subprocess.Popen(
            [*command, "--until", "forever", "--metrics-port", "0"],
            env={**os.environ, **settings.to_environment()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stderr is not None
        told = next(
            found for line in self.process.stderr if (found := re.search(rb"http://127\.0\.0\.1:\d+/\S+", line))
        )
        self.url = told[0].decode()

    def metrics(self) -> Metrics:
        with urllib.request.urlopen(self.url, timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return {
                (
                    sample.name.removeprefix("fasttrack_drain_"),
                    *dict(sorted(sample.labels.items())).values(),
                ): sample.value
                for family in families
                for sample in family.samples
            }

    def wait(self, total: int) -> Metrics:
        """Until so many messages are committed and none is left."""
        deadline = time.monotonic() + _SECONDS
        while True:
            found = self.metrics()
            done = sum(value for (name, *_), value in found.items() if name == "events_total")
            lags = [value for (name, *_), value in found.items() if name == "lag"]
            if done >= total and lags and not any(lags):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.1)

    def end(self, number: int) -> tuple[int, bytes]:
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=_SECONDS)
        return self.process.returncode, said


@contextmanager
def endless(settings: Settings, file: Path) -> Iterator[Endless]:
    running = Endless(settings, file)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.communicate()


def late(settings: Settings, shop: UseCase, stream: str) -> tuple[int, str | None]:
    """How many events of the table were late, and the newest watermark, by the table's own order."""
    contract = shop.streams[stream]
    rows = read_raw(settings, shop, stream, ["_partition", "_offset", contract.event_time]).sort_by("_offset")
    when = rows[contract.event_time].to_numpy().astype("datetime64[us]").astype(np.int64)
    count, marks = 0, []
    for partition in range(contract.partitions):
        watermark = Watermark(contract.allowed_lateness)
        count += watermark.pass_by(when[rows["_partition"].to_numpy() == partition])
        marks.append(watermark.at)
    return count, moment(max(mark for mark in marks if mark is not None))


def test_what_it_tells_is_what_the_tables_hold(settings: Settings, shop: UseCase, tmp_path: Path) -> None:
    sent = replay(shop, settings)
    with endless(settings, tmp_path / "usecase.yaml") as running:
        told = running.wait(sent.produced)
        proof = reconcile(shop, settings)
        assert proof.balanced and proof.total.produced == sent.produced
        for name, counts in proof.streams.items():
            outcomes = [told["events_total", kind, name] for kind in ("landed", "duplicate", "dead_letter")]
            assert outcomes == [counts.landed, counts.duplicates, counts.dead_lettered]
            assert told["late_total", name] == late(settings, shop, name)[0]
            assert told["commit_seconds_count", name] > 0 and told["commit_seconds_sum", name] > 0
        assert late(settings, shop, "placed")[0] > 0
        assert len([at for at in told if at[0] == "watermark_seconds"]) == 5
        folder = Path(settings.lake or "") / shop.name
        files = [file.stat().st_size for file in folder.rglob("part-*.parquet")]
        assert (told[("files_total",)], told[("bytes_total",)]) == (len(files), sum(files))

        # A worker that is killed is replaced, and what comes then is drained.
        assert told[("workers_restarted_total",)] == 0
        psutil.Process(running.process.pid).children()[0].kill()
        more = replay(shop, settings, seed=8)
        told = running.wait(sent.produced + more.produced)
        assert told[("workers_restarted_total",)] == 1
        code, said = running.end(signal.SIGTERM)
    assert code == 0
    report = json.loads(said)
    assert sum(stream["events"] for stream in report["streams"].values()) == sent.produced + more.produced
    for name, stream in report["streams"].items():
        assert (stream["late"], stream["watermark"]) == late(settings, shop, name)
    assert reconcile(shop, settings).balanced


def test_nothing_lags_once_all_is_in_the_lake(settings: Settings, shop: UseCase, tmp_path: Path) -> None:
    """The tables of duplicates and dead letters have nothing to write, so their marks stay behind for a while."""
    Broker(settings.kafka).create({shop.topic(name): stream.partitions for name, stream in shop.streams.items()})
    with endless(settings, tmp_path / "usecase.yaml") as running:
        producer, topic = Producer({"bootstrap.servers": settings.kafka}), shop.topic("placed")
        schema = register(settings, shop, "placed")
        for number in range(40):
            producer.produce(topic, message(event(number), schema), f"o{number}".encode(), number % 3)
        assert producer.flush(30) == 0
        told = running.wait(40)
        assert told["events_total", "landed", "placed"] == 40
        assert {at for at in told if at[0] == "lag"} == {
            ("lag", str(partition), name)
            for name, stream in shop.streams.items()
            for partition in range(stream.partitions)
        }
        assert running.end(signal.SIGTERM)[0] == 0
    assert reconcile(shop, settings).balanced


def test_ctrl_c_is_how_it_ends(settings: Settings, shop: UseCase, tmp_path: Path) -> None:
    sent = replay(shop, settings)
    with endless(settings, tmp_path / "usecase.yaml") as running:
        deadline = time.monotonic() + _SECONDS
        while not any(name == "lag" for name, *_ in running.metrics()):
            assert time.monotonic() < deadline
        code, said = running.end(signal.SIGINT)
    assert code == 0
    first = json.loads(said)["streams"]
    rest = drain(shop, settings, workers=1).streams
    assert sum(first[name]["events"] + rest[name].events for name in shop.streams) == sent.produced
    assert reconcile(shop, settings).balanced


def test_a_port_that_is_taken_is_told(settings: Settings, shop: UseCase) -> None:
    port = int((settings.kafka or "").rpartition(":")[2])
    replay(shop, settings)
    with pytest.raises(ConfigurationError, match="can't serve metrics"):
        drain(shop, settings, metrics=("127.0.0.1", port))
