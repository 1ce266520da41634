"""Dead letters on a real broker: searched, shown, and sent again once, wherever that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from fasttrack.cli.main import main
from fasttrack.errors import ConflictError
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.deadletters import Wanted, search
from fasttrack.ingest.drain import drain
from fasttrack.ingest.fix import Fix
from fasttrack.ingest.outbox import HEADER, Outbox, Outgoing, opened
from fasttrack.ingest.reconcile import Replayed, reconcile
from fasttrack.ingest.resend import resend
from fasttrack.ingest.scan import scan
from fasttrack.ingest.schemas import register
from fasttrack.lake.tables import read_raw
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, parse
from tests.integration.drain_oracle import check
from tests.unit.ingest_usecase import YAML, event, message, usecase

ROOT = Path(__file__).parents[2]
BROKEN = 24

_FIX = """
import json

def mend(value, key):
    if not value.startswith(b"\\0"):
        return None
    document = json.loads(value[5:])
    document["pieces"] = int(document["pieces"].split()[0])
    return value[:5] + json.dumps(document).encode()
"""

#: Replays in rounds of five, and is killed at the named moment of the first round that it begins.
_KILLED = """
import os, signal, sys
from fasttrack.ingest import outbox, resend
from fasttrack.ingest.deadletters import Wanted
from fasttrack.ingest.fix import Fix
from fasttrack.ingest.outbox import Outbox
from fasttrack.ingest.publisher import Publisher
from fasttrack.settings import Settings
from tests.unit.ingest_usecase import usecase

name, moment, fix = sys.argv[1:]
resend._ROUND = 5
intents = []

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def commit(self, state, messages, real=Outbox._commit):
    if state == "done" and intents and moment == "before the end":
        die()
    real(self, state, messages)
    if state == "intent":
        intents.append(len(messages))
        if moment == "after the intent":
            die()
    elif intents and moment == "after the end":
        die()

def send_marked(self, *arguments, real=Publisher.send_marked):
    real(self, *arguments)
    if intents and moment == "after one was sent":
        self.flush()
        die()

def flush(self, real=Publisher.flush):
    real(self)
    if intents and moment == "after all were sent":
        die()

Outbox._commit, Publisher.send_marked, Publisher.flush = commit, send_marked, flush
resend.resend(usecase(name), Settings.from_environment(), Wanted(), fix=Fix(fix))
"""
MOMENTS = ["after the intent", "after one was sent", "after all were sent", "before the end", "after the end"]


@pytest.fixture
def settings(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # Workers are found wherever the tests are started.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return replace(platform.settings(), lake=str(tmp_path / "lake"))


@pytest.fixture
def shop(settings: Settings) -> UseCase:
    made = usecase(f"shop-{uuid.uuid4().hex[:8]}")
    Broker(settings.kafka).create({made.topic(name): stream.partitions for name, stream in made.streams.items()})
    return made


@pytest.fixture
def fix(tmp_path: Path) -> str:
    (tmp_path / "fix.py").write_text(_FIX)
    return f"{tmp_path / 'fix.py'}:mend"


def send(settings: Settings, case: UseCase, messages: list[tuple[bytes, bytes]]) -> None:
    """Values and keys, each key in its partition."""
    producer = Producer({"bootstrap.servers": settings.kafka})
    for value, key in messages:
        producer.produce(case.topic("placed"), value, key, zlib.crc32(key) % case.streams["placed"].partitions)
    assert producer.flush(30) == 0


def orders(settings: Settings, case: UseCase) -> list[tuple[bytes, bytes]]:
    """Ten good events, `BROKEN` with words for a number, four that are no events at all."""
    schema = register(settings, case, "placed")
    good = [event(n) for n in range(10)]
    broken = [event(n, pieces=f"{n} pieces") for n in range(10, 10 + BROKEN)]
    sent = [(message(one, schema), one["order_id"].encode()) for one in (*good, *broken)]
    return [*sent, *((b"\xff\xfe[bold]" + bytes([n]), b"nobody") for n in range(4))]


def sent_again(settings: Settings, case: UseCase) -> Counter[bytes]:
    """The dead letters that the messages of the topic name."""
    broker = Broker(settings.kafka)
    topics = broker.topics([case.topic("placed")])
    found: Counter[bytes] = Counter()
    for (name, partition), held in broker.offsets(topics).items():
        for one in scan(broker, name, partition, held.earliest, held.latest - 1):
            found.update(value for header, value in one.headers() or [] if header == HEADER)
    return found


def landed(settings: Settings, case: UseCase) -> list[str]:
    return sorted(read_raw(settings, case, "placed", ["event_id"])["event_id"].to_pylist())


def test_killed_at_each_moment_every_event_is_there_once(settings: Settings, shop: UseCase, fix: str) -> None:
    send(settings, shop, orders(settings, shop))
    drain(shop, settings, workers=1)
    environment = {**os.environ, **settings.to_environment()}
    for number, moment in enumerate(MOMENTS):
        command = [sys.executable, "-c", _KILLED, shop.name, moment, fix]
        killed = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, timeout=120)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
        if number == 2:
            # The drain takes what was sent so far, whatever becomes of the rest.
            drain(shop, settings, workers=1)
    last = resend(shop, settings, Wanted(), fix=Fix(fix))
    assert last.resumed == 0 and last.before + last.sent == BROKEN
    assert [(row["reason"], row["count"]) for row in last.refused] == [("not fixed", 4)]

    drain(shop, settings, workers=1)
    assert landed(settings, shop) == sorted(f"placed-{n}" for n in range(10 + BROKEN))
    assert check(shop, settings) == 10 + BROKEN + 4 + BROKEN
    assert len(sent_again(settings, shop)) == BROKEN and set(sent_again(settings, shop).values()) == {1}
    proof = reconcile(shop, settings)
    assert proof.balanced and proof.total.dead_lettered == BROKEN + 4 and proof.total.duplicates == 0
    assert proof.replays["placed"] == Replayed(sent=BROKEN, landed=BROKEN)
    again = resend(shop, settings, Wanted(), fix=Fix(fix))
    assert (again.sent, again.before, again.matched) == (0, BROKEN, BROKEN + 4)


@pytest.fixture
def fasttrack(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., Any]:
    """What `fasttrack deadletters` prints, as JSON if it was asked for that."""
    for name, value in {**settings.to_environment(), "COLUMNS": "250"}.items():
        monkeypatch.setenv(name, value)

    def call(*words: str) -> Any:
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            monkeypatch.setattr(sys, "argv", ["fasttrack", "deadletters", *words])
            main()
        said = capsysbinary.readouterr()
        assert ended.value.code == 0, said.err.decode()
        return json.loads(said.out) if "--json" in words else said.out

    return call


def test_a_contract_that_was_too_tight_is_relaxed(
    settings: Settings, shop: UseCase, fasttrack: Callable[..., Any], tmp_path: Path
) -> None:
    text = YAML.format(name=shop.name, partitions=3, source="tests.unit.ingest_usecase:events")
    tight = parse(text.replace("minimum: 1, maximum: 99", "minimum: 1, maximum: 9"))
    (tmp_path / "usecase.yaml").write_text(text)
    schema = register(settings, tight, "placed")
    events = [event(n, pieces=n) for n in range(1, 15)]
    everything = [(message(one, schema), one["order_id"].encode()) for one in events]
    send(settings, tight, [*everything, (b"\xff\xfe[bold]", b"nobody")])
    assert drain(tight, settings, workers=1).streams["placed"].dead_letters == 6
    register(settings, shop, "placed")

    case = ("-u", str(tmp_path / "usecase.yaml"))
    found = fasttrack("list", *case, "--json")
    counts = {row["reason"]: (row["count"], row["replayed"]) for row in found["groups"]}
    assert counts == {"out of range": (5, 0), "no schema header": (1, 0)}
    one = fasttrack("list", *case, "--json", "--contains", '"placed-12"')["letters"]
    assert len(one) == 1 and one[0]["detail"].startswith("pieces is 12")
    place = "{topic}/{partition}/{offset}".format(**one[0])
    shown = fasttrack("show", place, *case, "--json")
    assert shown["accepted_now"] and shown["contract_version"] != shown["contract_version_now"]
    assert fasttrack("show", place, *case, "--raw") == everything[11][0]
    (odd,) = fasttrack("list", *case, "--reason", "no schema header", "--json")["letters"]
    told = fasttrack("show", "placed:{partition}:{offset}".format(**odd), *case).decode()
    assert "ff fe 5b 62 6f 6c 64 5d" in told and "refused_now: no schema header" in told

    dry = fasttrack("replay", *case, "--dry-run", "--json")
    assert (dry["sent"], dry["dry_run"], len(sent_again(settings, shop))) == (5, True, 0)
    only = fasttrack("replay", *case, "--contains", '"placed-12"', "--json")
    assert (only["matched"], only["sent"]) == (1, 1)
    rest = fasttrack("replay", *case).decode()
    assert "4 sent (0 mended), 1 replayed before, 1 still refused" in rest
    assert reconcile(shop, settings).replays["placed"] == Replayed(sent=5, pending=5)
    drain(shop, settings, workers=1)
    assert landed(settings, shop) == sorted(one["event_id"] for one in events)
    proof = reconcile(shop, settings)
    assert proof.balanced and proof.replays["placed"] == Replayed(sent=5, landed=5)
    assert {row["reason"]: row["replayed"] for row in search(shop, settings, Wanted()).groups} == {
        "out of range": 5,
        "no schema header": 0,
    }


def test_of_two_replays_at_once_one_is_refused(settings: Settings, shop: UseCase, fix: str) -> None:
    send(settings, shop, orders(settings, shop))
    drain(shop, settings, workers=1)
    broker = Broker(settings.kafka)
    topic = broker.topics([shop.topic("placed")])[shop.topic("placed")]
    one = Outgoing("placed", topic.name, topic.id, 0, 0, "", 0, 0, b"o1", b"one", True, None)
    with opened(shop, settings, broker, {"placed": topic}) as first:
        with pytest.raises(ConflictError, match="another replay"):
            resend(shop, settings, Wanted(), fix=Fix(fix))
        # And without a lock, as on another machine whose file system has none: whoever commits first.
        second = Outbox(shop, settings, broker, {"placed": topic})
        first.send([one])
        with pytest.raises(ConflictError, match="another replay"):
            second.send([replace(one, offset=1)])
    assert set(sent_again(settings, shop)) == {one.mark}
