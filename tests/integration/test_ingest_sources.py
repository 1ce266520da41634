"""Files and a REST API into a real Kafka, with kill -9 in between: each record exactly once, nothing lost."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from fasttrack.errors import (
    ConfigurationError,
    ConflictError,
    DataQualityError,
    RateLimitError,
    UnavailableError,
    UseCaseError,
)
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.drain import drain
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.sources.checkpoints import Checkpoints
from fasttrack.ingest.sources.metrics import Metrics
from fasttrack.ingest.sources.run import ingest
from fasttrack.lake.tables import read_raw
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, load
from tests.integration.source_oracle import ROOT, Ingester, once, sent, wait_for
from tests.unit.ingest_usecase import YAML
from tests.unit.rest_api import Api, send, serving

SEED = 20130101
FILES, ROWS = 12, 4000
START = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return replace(platform.settings(), lake=str(tmp_path / "lake"))


@pytest.fixture
def api() -> Iterator[Api]:
    with serving(Api("cursor", page=50)) as it:
        yield it


def declare(folder: Path, **sources: dict[str, Any]) -> Path:
    """A use case with sources, as a file."""
    file = folder / "usecase.yaml"
    text = YAML.format(name=f"shop-{uuid.uuid4().hex[:8]}", partitions=3, source="tests.unit.ingest_usecase:events")
    file.write_text(text + "sources: " + json.dumps(sources) + "\n")
    return file


def folder(path: Path, format: str = "csv", **more: Any) -> dict[str, Any]:
    path.mkdir(exist_ok=True)
    constants = {"amount": 1.5, "gift": False}
    return {"kind": "files", "stream": "placed", "path": str(path), "format": format, "settle": "0s", "poll": "100ms",
            "fields": {"order_id": "order"}, "constants": constants, **more}  # fmt: skip


def write(path: Path, first: int, count: int, broken: dict[int, str] | None = None) -> list[str]:
    """A CSV file of orders, the columns not in the contract's order; the identities of its rows."""
    lines = ["pieces,order,placed_at,event_id,remark"]
    for n in range(first, first + count):
        moment = START + timedelta(seconds=n)
        lines.append((broken or {}).get(n, f'{n % 99 + 1},o{n % 50},{moment},placed-{n},"a, b"'))
    hidden = path.with_name("." + path.name)
    hidden.write_text("\n".join(lines) + "\n")
    hidden.rename(path)
    return [f"orders:{path.name}:{row + 1}" for row in range(count)]


def rest(api: Api) -> dict[str, Any]:
    return {"kind": "rest", "stream": "paid", "url": api.url, "records": "data.items", "cursor": "next.cursor",
            "identity": ["id"], "fields": {"event_id": "id", "order_id": "order.number"}, "poll": "50ms"}  # fmt: skip


def payment(n: int) -> dict[str, Any]:
    return {"id": f"paid-{n}", "order": {"number": f"o{n}"}, "paid_at": "2020-01-01T10:00:00+01:00", "delay": n / 2}


def in_order(case: UseCase, settings: Settings) -> None:
    """Assert that the orders of each key follow each other as they do in the files."""
    events = sorted(
        (m.event["order_id"], m.partition, m.offset, m.event["event_id"]) for m in sent(settings, case, "placed")
    )
    for _, of_key in groupby(events, lambda each: each[0]):
        numbers = [int(event_id.split("-")[1]) for *_, event_id in of_key]
        assert numbers == sorted(numbers)


def landed(case: UseCase, settings: Settings, *, placed: int, paid: int = 0, dead: int = 0) -> None:
    """Drain, and assert that it all adds up without a duplicate."""
    broker = Broker(settings.kafka)
    broker.create({case.topic(name): stream.partitions for name, stream in case.streams.items()})
    drain(case, settings, workers=1)
    found = reconcile(case, settings)
    assert found.balanced
    total = found.total
    assert (total.landed, total.duplicates, total.dead_lettered) == (placed + paid, 0, dead)


def total(settings: Settings, case: UseCase) -> int:
    """How many messages all topics hold."""
    broker = Broker(settings.kafka)
    return sum(o.latest for o in broker.offsets(broker.topics(map(case.topic, case.streams))).values())


def scraped(metrics: Metrics) -> dict[str, float]:
    """What Prometheus reads, without the use case's name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    told = [re.sub(r',usecase="[^"]*"', "", line).rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in told}


def succeeded(metrics: Metrics, source: str) -> float:
    """When a source was last read to its end, or a batch of it confirmed."""
    return scraped(metrics)[f'fasttrack_source_last_success_timestamp{{source="{source}"}}']


def more_than(settings: Settings, case: UseCase, count: int) -> bool:
    return total(settings, case) > count


def test_kill_9_at_random_moments(settings: Settings, tmp_path: Path, api: Api) -> None:
    file = declare(tmp_path, orders=folder(tmp_path / "in"), payments=rest(api))
    case, moments = load(file), random.Random(SEED)
    api.fault = lambda number, handler: time.sleep(0.01) is not None
    identities: list[str] = []
    for number in range(FILES):
        path = tmp_path / "in" / f"{number:02}.csv"
        identities += write(path, number * ROWS, ROWS)
        os.utime(path, (number, number))
    api.records = [payment(n) for n in range(2500)]
    kills = 0
    while kills < 3:
        before = total(settings, case)
        running = Ingester(settings, file)
        wait_for(partial(more_than, settings, case, before), "messages", running)
        time.sleep(moments.uniform(0, 0.3))
        running.kill()
        kills += 1
        # There is always something to come.
        identities += write(tmp_path / "in" / f"more-{kills}.csv", (FILES + kills) * ROWS, ROWS)
        api.records += [payment(10_000 * kills + n) for n in range(200)]
    code, out, err = Ingester(settings, file, until="end").finish()
    assert code == 0, err
    assert json.loads(out)["complete"]
    once(sent(settings, case, "placed"), identities)
    in_order(case, settings)
    payments = sent(settings, case, "paid")
    assert sorted(m.event["event_id"] for m in payments) == sorted(r["id"] for r in api.records)
    assert len({m.source for m in payments}) == len(payments)
    landed(case, settings, placed=len(identities), paid=len(api.records))
    rows = read_raw(settings, case, "placed").to_pylist()
    assert all(r["placed_at"] == START + timedelta(seconds=int(r["event_id"].split("-")[1])) for r in rows)
    assert all((r["amount"], r["gift"], r["city"]) == (1.5, False, None) for r in rows)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_everything_recorded(
    settings: Settings, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    file = declare(tmp_path, orders=folder(tmp_path / "in"))
    case = load(file)
    identities = write(tmp_path / "in" / "a.csv", 0, 30_000)
    running = Ingester(settings, file)
    wait_for(partial(more_than, settings, case, 0), "messages", running)
    running.process.send_signal(number)
    ended, out, err = running.finish(60)
    assert ended == code, err
    said = json.loads(out)["sources"]["orders"]
    assert said["read"] == said["sent"] == len(sent(settings, case, "placed"))
    # All of it was recorded: the next one meets nothing again.
    report = ingest(case, settings, until="end").sources["orders"]
    assert (report.skipped, report.sent) == (0, len(identities) - said["sent"])
    once(sent(settings, case, "placed"), identities)


def test_it_goes_on_as_files_and_records_come_and_tells_how_it_is(
    settings: Settings, tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasttrack.ingest.sources.session._LAG_SECONDS", 0.1)
    file = declare(tmp_path, orders=folder(tmp_path / "in"), payments=rest(api))
    case = load(file)
    identities = write(tmp_path / "in" / "a.csv", 0, 10)
    metrics = Metrics(case.name, "127.0.0.1", 0)
    seen: list[int] = []
    stop = threading.Event()
    running = threading.Thread(
        target=ingest, args=(case, settings), kwargs={"on_progress": seen.append, "metrics": metrics, "stop": stop}
    )
    running.start()
    try:
        wait_for(lambda: sum(seen) == 10, "the first file")
        identities += write(tmp_path / "in" / "b.csv", 10, 10)
        api.records = [payment(n) for n in range(120)]
        wait_for(lambda: sum(seen) == 140, "the second file and the API")
        told = scraped(metrics)
        assert told['fasttrack_source_records_total{outcome="sent",source="orders"}'] == 20
        assert told['fasttrack_source_lag{source="orders"}'] == 0
        assert 'fasttrack_source_errors_total{source="orders"}' not in told
        # A file that can't be read waits, and each attempt at it is counted.
        (tmp_path / "in" / "c.csv").write_bytes(b"a,a\n1,2\n")
        wait_for(lambda: scraped(metrics)['fasttrack_source_lag{source="orders"}'] == 1, "the broken file")
        told = scraped(metrics)
        assert told['fasttrack_source_errors_total{source="orders"}'] >= 1
        # It is not at its end meanwhile, as the API is.
        wait_for(lambda: succeeded(metrics, "payments") > succeeded(metrics, "orders") + 1, "the API")
        identities += write(tmp_path / "in" / "c.csv", 20, 10)
        mended = time.time()
        wait_for(lambda: scraped(metrics)['fasttrack_source_lag{source="orders"}'] == 0, "the mended file")
        wait_for(lambda: succeeded(metrics, "orders") > mended, "the end")
    finally:
        stop.set()
        running.join(60)
        metrics.close()
    assert not running.is_alive()
    once(sent(settings, case, "placed"), identities)
    landed(case, settings, placed=30, paid=120)


def test_what_is_malformed_becomes_a_dead_letter_with_its_bytes(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = declare(tmp_path, orders=folder(tmp_path / "in"))
    case = load(file)
    broken = {3: "no,such,row", 5: '"open,o5,2020-01-01 00:00:05+00:00,placed-5,x', 7: "many,o7,then,placed-7,x"}
    identities = write(tmp_path / "in" / "a.csv", 0, 10, broken)
    (tmp_path / "in" / "b.csv").write_bytes(b"a,a\n1,2\n")
    identities += write(tmp_path / "in" / "c.csv", 10, 10)
    code, out, err = Ingester(settings, file, until="end").finish()
    assert code == 7, err
    told = json.loads(out)["sources"]["orders"]
    assert (told["read"], told["unparsable"], list(told["broken"])) == (20, 2, ["b.csv"])
    assert "b.csv: can't be read: the first row does not name each column once." in err
    assert told["errors"] >= 1
    once(sent(settings, case, "placed"), identities)
    by_source = {m.source: m for m in sent(settings, case, "placed")}
    assert by_source["orders:a.csv:4"].value == broken[3].encode()
    assert by_source["orders:a.csv:6"].value == broken[5].encode()
    assert by_source["orders:a.csv:8"].event["pieces"] == "many"
    landed(case, settings, placed=17, dead=3)
    # Mended, the file is read like any other.
    identities += write(tmp_path / "in" / "b.csv", 20, 5)
    assert ingest(case, settings, until="end").complete
    once(sent(settings, case, "placed"), identities)
    # One that grows after it was read has rows that nobody reads: that is no complete end.
    write(tmp_path / "in" / "b.csv", 20, 7)
    report = ingest(case, settings, until="end")
    assert not report.complete and report.sources["orders"].broken == {"b.csv": "has changed since it was read."}


def test_an_api_that_fails_now_and_then_loses_nothing(settings: Settings, tmp_path: Path, api: Api) -> None:
    file = declare(tmp_path, payments=rest(api))
    case = load(file)
    api.records = [payment(n) for n in range(500)]
    faults = {2: (503, b"", {"Retry-After": "1"}), 4: (200, b"<html>", {}), 6: (500, b"", {}), 9: (200, b"[", {})}

    def fault(number: int, handler: Any) -> bool:
        if number in faults:
            send(handler, *faults[number])
        return number in faults

    api.fault = fault
    report = ingest(case, settings, until="end")
    assert report.complete and report.sources["payments"].errors == 4
    assert [m.event["event_id"] for m in sorted(sent(settings, case, "paid"), key=lambda m: m.event["delay"])] == [
        f"paid-{n}" for n in range(500)
    ]
    assert ingest(case, settings, until="end").sources["payments"].read == 0


def test_a_server_that_goes_on_refusing_is_counted_and_given_up_at_the_end(
    settings: Settings, tmp_path: Path, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasttrack.ingest.broker.PATIENCE_SECONDS", 3.0)
    case = load(declare(tmp_path, payments=rest(api)))
    api.records = [payment(n) for n in range(120)]
    # The third page is refused.
    api.fault = lambda number, handler: number > 2 and (send(handler, 429, b"", {"Retry-After": "0"}) or True)
    metrics = Metrics(case.name, "127.0.0.1", 0)
    try:
        before = time.time()
        with pytest.raises(RateLimitError, match="status 429"):
            ingest(case, settings, until="end", metrics=metrics)
        assert 3 < time.time() - before < 60 and 4 <= len(api.headers) < 10
        told = scraped(metrics)
        assert told['fasttrack_source_errors_total{source="payments"}'] == len(api.headers) - 2
        # When the second page was confirmed, and not since.
        assert succeeded(metrics, "payments") < time.time() - 3
    finally:
        metrics.close()
    api.fault = lambda number, handler: False
    assert ingest(case, settings, until="end").sources["payments"].sent == 20


def lose_checkpoints(settings: Settings, case: UseCase) -> None:
    """Delete the topic that they are in."""
    topic = f"{case.name}.sources"
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    admin.delete_topics([topic])[topic].result(30)
    wait_for(lambda: not Broker(settings.kafka).topics([topic]), "the topic's end")


def test_a_checkpoint_that_was_lost_costs_nothing(settings: Settings, tmp_path: Path) -> None:
    file = declare(tmp_path, orders=folder(tmp_path / "in"))
    case = load(file)
    identities = write(tmp_path / "in" / "a.csv", 0, 5000)
    ingest(case, settings, until="end")
    lose_checkpoints(settings, case)
    identities += write(tmp_path / "in" / "b.csv", 5000, 10)
    report = ingest(case, settings, until="end").sources["orders"]
    assert (report.skipped, report.sent) == (5000, 10)
    once(sent(settings, case, "placed"), identities)


def test_an_older_file_that_comes_after_a_crash_repeats_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasttrack.ingest.sources.session._BEHIND_THE_LAST", 3000)
    file = declare(tmp_path, orders=folder(tmp_path / "in"))
    case = load(file)
    identities = write(tmp_path / "in" / "b.csv", 0, 2000)
    ingest(case, settings, until="end")
    # As if it had been killed before it could record anything.
    lose_checkpoints(settings, case)
    # Copied with its time (cp -p, tar, rsync -t), so it is read first.
    identities += write(tmp_path / "in" / "a.csv", 2000, 9000)
    os.utime(tmp_path / "in" / "a.csv", (1, 1))
    report = ingest(case, settings, until="end").sources["orders"]
    assert (report.skipped, report.sent) == (2000, 9000)
    once(sent(settings, case, "placed"), identities)


def test_a_topic_that_was_made_again_gets_everything_again(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = declare(tmp_path, orders=folder(tmp_path / "in"))
    case = load(file)
    identities = write(tmp_path / "in" / "a.csv", 0, 100)
    ingest(case, settings, until="end")
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    admin.delete_topics([case.topic("placed")])[case.topic("placed")].result(30)
    wait_for(lambda: not Broker(settings.kafka).topics([case.topic("placed")]), "the topic's end")
    assert ingest(case, settings, until="end").sources["orders"].sent == 100
    assert "is not the one that it was sent to before" in capfd.readouterr().err
    once(sent(settings, case, "placed"), identities)


def test_an_ingester_that_was_overtaken_stops_loudly(settings: Settings, tmp_path: Path) -> None:
    file = declare(tmp_path, orders=folder(tmp_path / "in"))
    case = load(file)
    running = Ingester(settings, file)
    write(tmp_path / "in" / "a.csv", 0, 10)
    wait_for(partial(more_than, settings, case, 9), "messages", running)
    other = Checkpoints(Broker(settings.kafka), case.name, "orders", "files", owner="other")
    newest = other.newest()
    assert newest is not None
    topic = Broker(settings.kafka).require([case.topic("placed")])[case.topic("placed")]
    other.write(newest.position, topic, newest.offsets)
    write(tmp_path / "in" / "b.csv", 10, 10)
    code, _, err = running.finish(60)
    assert code == ConflictError.exit_code
    assert "source orders: another ingester has taken it over." in err


def test_a_name_keeps_its_kind(settings: Settings, tmp_path: Path, api: Api) -> None:
    file = declare(tmp_path, orders=folder(tmp_path / "in"))
    case = load(file)
    ingest(case, settings, until="end")
    changed = case.model_copy(
        update={"sources": {"orders": load(declare(tmp_path, orders=rest(api))).sources["orders"]}}
    )
    with pytest.raises(ConflictError, match="was of kind files before"):
        ingest(changed, settings, until="end")


def test_a_record_that_kafka_does_not_take_stops_it(settings: Settings, tmp_path: Path) -> None:
    file = declare(tmp_path, orders=folder(tmp_path / "in", "jsonl"))
    case = load(file)
    (tmp_path / "in" / "a.jsonl").write_text(json.dumps({"event_id": "x" * 2_000_000}) + "\n")
    with pytest.raises(DataQualityError, match=r"orders:a\.jsonl:1.*more than the topic takes"):
        ingest(case, settings, until="end")


def test_wrong_use_is_told(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = folder(tmp_path / "in") | {"path": str(tmp_path / "nowhere")}
    case = load(declare(tmp_path, orders=missing, hook={"kind": "webhook", "stream": "paid", "secret_env": "S"}))
    with pytest.raises(UseCaseError, match="did you mean 'orders'"):
        ingest(case, settings, ["order"])
    with pytest.raises(UseCaseError, match="others send to it"):
        ingest(case, settings, ["hook"])
    with pytest.raises(ConfigurationError, match="nowhere: is no folder"):
        ingest(case, settings, until="forever")
    monkeypatch.setattr("fasttrack.ingest.broker.GREETING_SECONDS", 0.2)
    with pytest.raises(UnavailableError, match="Kafka broker does not answer"):
        ingest(case, replace(settings, kafka="127.0.0.1:9"), until="end")
