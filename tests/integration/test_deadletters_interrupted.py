"""Replays of dead letters that are killed, stopped, overtaken and hidden: each message is in the topic once.

The events are a year older than the newest, so that the drain knows none of them by its id any more: what was sent
twice would land twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from fasttrack.ingest import outbox
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.deadletters import Wanted, replayed
from fasttrack.ingest.drain import drain
from fasttrack.ingest.fix import Fix
from fasttrack.ingest.reconcile import Replayed, reconcile
from fasttrack.ingest.resend import Resent, resend
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.integration.deadletter_shop import (
    GOOD,
    NO_EVENTS,
    ROOT,
    fix_file,
    landed,
    new_shop,
    orders,
    send,
    sent_again,
)
from tests.integration.drain_oracle import check
from tests.unit.ingest_usecase import usecase

BROKEN = 36
OLD = "2019-01-01T10:00:00Z"

#: Replays in rounds of five; at the named moment of the first round that it begins (or: resumes) it gets a signal.
_HALTED = """
import os, signal, sys
from pathlib import Path
from fasttrack.ingest import outbox, resend, rounds
from fasttrack.ingest.deadletters import Wanted
from fasttrack.ingest.fix import Fix
from fasttrack.ingest.outbox import Outbox
from fasttrack.ingest.transaction import Transaction
from fasttrack.settings import Settings
from tests.unit.ingest_usecase import usecase

name, moment, fix, how, lock = sys.argv[1:]
rounds._ROUND = 5
outbox._lock = lambda path: Path(lock)
begun = [True] if moment.startswith("resumed: ") else []

def now(what):
    if begun and what == moment.removeprefix("resumed: "):
        begun.clear()
        os.kill(os.getpid(), signal.Signals[how])

def commit(self, state, *arguments, real=Outbox._commit):
    now("before the end") if state == "done" else begun.append(True)
    real(self, state, *arguments)
    now("after the end" if state == "done" else "after the intent")

def queue(self, message, note, real=Transaction._queue):
    real(self, message, note)
    if begun and moment == "after one was sent" and message.headers:
        self._producer.flush(5)
        now("after one was sent")

def send(self, messages, real=Transaction.send):
    found = real(self, messages)
    now("after all were sent" if messages[0].headers else "")
    return found

def decide(self, real=Transaction.commit):
    now("before the commit")
    real(self)
    now("after the commit")

Outbox._commit, Transaction._queue, Transaction.send, Transaction.commit = commit, queue, send, decide
resend.resend(usecase(name), Settings.from_environment(), Wanted(), fix=Fix(fix))
"""
MOMENTS = ["after the intent", "after one was sent", "after all were sent", "before the commit", "after the commit",
           "before the end"]  # fmt: skip


@pytest.fixture
def settings(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # Workers are found wherever the tests are started.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return replace(platform.settings(), lake=str(tmp_path / "lake"))


@pytest.fixture
def shop(settings: Settings) -> UseCase:
    """With `BROKEN` old events and `NO_EVENTS` in the dead letters."""
    made = new_shop(settings)
    send(settings, made, orders(settings, made, BROKEN, placed_at=OLD))
    drain(made, settings, workers=1)
    return made


@pytest.fixture
def fix(tmp_path: Path) -> str:
    return fix_file(tmp_path)


@contextmanager
def halted(settings: Settings, case: UseCase, moment: str, fix: str, how: str) -> Iterator[subprocess.Popen[bytes]]:
    """A replay on another machine, whose locks nobody here sees, after the signal."""
    lock = f"{settings.lake}.{uuid.uuid4().hex}"
    command = [sys.executable, "-c", _HALTED, case.name, moment, fix, how, lock]
    environment = {**os.environ, **settings.to_environment()}
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE) as process:
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            process.returncode = None if os.WIFSTOPPED(status) else os.waitstatus_to_exitcode(status)
            stopped = process.returncode is None if how == "SIGSTOP" else process.returncode == -signal.SIGKILL
            assert stopped, process.stderr.read().decode() if process.stderr else ""
            yield process
        finally:
            if process.returncode is None:
                process.kill()


@contextmanager
def foreign(settings: Settings, case: UseCase) -> Iterator[None]:
    """Another producer's transaction, undecided within the block, in each partition of the topic."""
    name = f"foreign-{uuid.uuid4().hex}"
    producer = Producer(
        {"bootstrap.servers": settings.kafka, "transactional.id": name, "transaction.timeout.ms": 600_000}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for partition in range(case.streams["placed"].partitions):
        producer.produce(case.topic("placed"), b"never", b"nobody", partition)
    assert producer.flush(30) == 0
    yield
    producer.abort_transaction(30)


def rest(settings: Settings, case: UseCase, fix: str) -> Resent:
    """A replay of all that is left."""
    return resend(case, settings, Wanted(), fix=Fix(fix))


def assert_once(settings: Settings, case: UseCase) -> None:
    drain(case, settings, workers=1)
    counts = sent_again(settings, case)
    assert len(counts) == BROKEN and set(counts.values()) == {1}
    assert landed(settings, case) == sorted(f"placed-{n}" for n in range(GOOD + BROKEN))
    assert check(case, settings) == GOOD + BROKEN + NO_EVENTS + BROKEN
    proof = reconcile(case, settings)
    assert proof.balanced and proof.total.dead_lettered == BROKEN + NO_EVENTS and proof.total.duplicates == 0
    assert proof.replays["placed"] == Replayed(sent=BROKEN, landed=BROKEN)


def test_killed_at_each_moment_each_is_sent_once(settings: Settings, shop: UseCase, fix: str) -> None:
    for number, moment in enumerate(["after the end", *MOMENTS]):
        with halted(settings, shop, moment, fix, "SIGKILL"):
            pass
        if number == 3:
            # The drain takes what was sent so far, whatever becomes of the rest.
            drain(shop, settings, workers=1)
            # The one that finishes it is killed, too, and the one after it.
            for again in ("resumed: before the commit", "resumed: after the commit"):
                with halted(settings, shop, again, fix, "SIGKILL"):
                    pass
    last = rest(settings, shop, fix)
    assert last.resumed > 0 and last.before + last.sent == BROKEN
    assert [(row["reason"], row["count"]) for row in last.refused] == [("not fixed", NO_EVENTS)]
    assert_once(settings, shop)
    again = rest(settings, shop, fix)
    assert (again.sent, again.before, again.matched) == (0, BROKEN, BROKEN + NO_EVENTS)


def test_overtaken_on_another_machine_while_a_foreign_transaction_hides_all_each_is_sent_once(
    settings: Settings, shop: UseCase, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In vain here, until the foreign transaction ends.
    monkeypatch.setattr(outbox, "_APPEAR_SECONDS", 0)
    with foreign(settings, shop):
        for moment in MOMENTS:
            with halted(settings, shop, moment, fix, "SIGSTOP") as first:
                finished = resend(shop, settings, Wanted(reason="none has it"))
                assert finished.resumed > 0 and finished.sent == 0
                os.kill(first.pid, signal.SIGCONT)
                _, said = first.communicate(timeout=120)
                assert first.returncode == 1 and b"another replay of dead letters" in said, said.decode()
        last = rest(settings, shop, fix)
        assert (last.resumed, last.before + last.sent) == (0, BROKEN)
    assert_once(settings, shop)


@pytest.mark.parametrize("moment", ["after all were sent", "after the commit"])
def test_of_a_topic_made_again_meanwhile_only_what_was_not_sent_goes_to_the_new_one(
    settings: Settings, shop: UseCase, fix: str, moment: str
) -> None:
    name, broker = shop.topic("placed"), Broker(settings.kafka)
    before = broker.topics([name])[name]
    with halted(settings, shop, moment, fix, "SIGKILL"):
        pass
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    admin.delete_topics([name])[name].result(30)
    # With another number of partitions, so that keys are elsewhere.
    smaller = usecase(shop.name, partitions=2)
    broker.create({name: 2})
    assert resend(smaller, settings, Wanted(reason="none has it")).resumed == 5
    done = replayed(smaller, settings)
    committed = moment == "after the commit"
    ids = {before.id} if committed else {broker.topics([name])[name].id}
    assert set(done["sent_topic_id"].to_pylist()) == ids and done.num_rows == 5
    assert sum(sent_again(settings, smaller).values()) == (0 if committed else 5)
    assert rest(settings, smaller, fix).sent == BROKEN - 5
    drain(smaller, settings, workers=1)
    check_landed = landed(settings, smaller)
    assert len(check_landed) == len(set(check_landed)) == GOOD + BROKEN - (5 if committed else 0)
