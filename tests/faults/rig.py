"""What the fault scenarios stand on: a broker to break, loads, and drains that cost little to start."""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka.admin import AdminClient
from deltalake import DeltaTable

from fasttrack.ingest import schemas
from fasttrack.ingest.broker import Broker
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from tests.faults.load import Load, produce
from tests.faults.oracle import Verdict, judge
from tests.local_homes import running_platform
from tests.object_store import BUCKET, ObjectStore
from tests.relay import Road

_ROOT = Path(__file__).parents[2]
# Only a drain that hangs is to be found: on a busy machine one on S3 takes minutes, as moto answers one at a time.
_PATIENCE_SECONDS = 400.0
_LOOK_SECONDS = 0.01


@dataclass(frozen=True)
class Trip:
    """What a worker (or with `steps.PARENT` the parent) does to itself at the n-th time that it reaches a step."""

    step: str
    nth: int = 1
    do: str = "kill"


class Drain:
    """A running drain, forked from the zygote.

    Attributes:
        pid: its parent process.
        folder: its notes.
    """

    def __init__(self, pid: int, ending: int, folder: Path) -> None:
        self.pid, self.folder, self._ending = pid, folder, ending
        self._code: int | None = None
        self._over = False

    def workers(self) -> list[psutil.Process]:
        """The worker processes that have had orders and run now."""
        found = []
        for note in self.folder.glob("worker-*"):
            try:
                process = psutil.Process(int(note.name.partition("-")[2]))
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def wait(self, seconds: float) -> bool:
        """Whether the parent process ended within so many seconds."""
        if not self._over and select.select([self._ending], [], [], seconds)[0]:
            said = os.read(self._ending, 16)
            self._code, self._over = int(said) if said else None, True
            os.close(self._ending)
        return self._over

    def finish(self, *codes: int) -> str:
        """Wait for its end, which must be with one of these exit codes (default 0); what it said."""
        assert self.wait(_PATIENCE_SECONDS), f"the drain does not end: {self.said()}"
        assert self._code in (codes or (0,)), f"the drain ended with {self._code}: {self.said()}"
        return self.said()

    def said(self) -> str:
        """Its messages so far."""
        return (self.folder / "stderr").read_text()

    def noted(self, kind: str) -> list[dict[str, Any]]:
        """What its processes noted."""
        notes = self.folder / kind
        return [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    def kill(self) -> None:
        """kill -9 the parent and its workers."""
        send(signal.SIGKILL, self.pid, *(worker.pid for worker in self.workers()))
        assert self.wait(_PATIENCE_SECONDS)
        wait_for(lambda: not self.workers(), "the workers' end")

    def terminate(self) -> None:
        """Ask it to end."""
        send(signal.SIGTERM, self.pid)


def send(number: int, *pids: int) -> None:
    """Send a signal to processes that may have ended."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def wait_for(
    condition: Callable[[], Any], what: str, seconds: float = _PATIENCE_SECONDS, every: float = _LOOK_SECONDS
) -> None:
    """Wait until `condition` holds, which is asked for every so many seconds.

    Raises:
        AssertionError: it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"in vain waited for: {what}"
        time.sleep(every)


def rounds(times: int, most: int) -> Iterator[int]:
    """How often a fault is to have happened by the end of each load, if a load stands it `most` times.

    A table that grew over all of them would be read again, whole, by every drain that starts.
    """
    number = -(-times // most)
    yield from (times * (n + 1) // number for n in range(number))


class Bench:
    """A load with its topics and its lake.

    Args:
        rig: where.
        load: what.
        lake: the folder of the tables, or a prefix of the rig's object store.
    """

    def __init__(self, rig: Rig, load: Load, lake: Path | str) -> None:
        self.rig, self.load, self.lake = rig, load, lake
        #: What deltalake needs to look into the lake.
        self.options = rig.store.options() if rig.store and isinstance(lake, str) else None
        self.settings = replace(rig.settings, lake=str(lake))
        self.topics: dict[str, str] = {}
        self._groups = itertools.count()

    def open(self) -> None:
        """Make the topics, register the schemas."""
        usecase, broker = self.load.usecase, Broker(self.settings.kafka)
        broker.create({usecase.topic(name): stream.partitions for name, stream in usecase.streams.items()})
        found = broker.require([usecase.topic(name) for name in usecase.streams])
        self.topics = {name: found[usecase.topic(name)].id for name in usecase.streams}
        self.load.schemas = {name: schemas.register(self.settings, usecase, name) for name in usecase.streams}

    def delete_topics(self) -> None:
        """Delete the topics."""
        admin = AdminClient({"bootstrap.servers": self.settings.kafka, "log_level": 0})
        names = [self.load.usecase.topic(name) for name in self.load.usecase.streams]
        for future in admin.delete_topics(names).values():
            future.result(60)
        wait_for(lambda: not Broker(self.settings.kafka).topics(names), "the topics' end")

    def produce(self, count: int, duplicates: float = 0.05, bad: float = 0.02) -> None:
        """Send about `count` messages more."""
        produce(self.settings.kafka, self.load, self.load.plan(count, duplicates, bad))

    @contextmanager
    def producing(self, count: int) -> Iterator[None]:
        """Send about `count` messages more, meanwhile."""
        failures: list[BaseException] = []

        def run() -> None:
            try:
                self.produce(count)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        assert not failures, failures

    def drain(
        self,
        *trips: Trip,
        group: str = "",
        workers: int = 1,
        until: str = "end",
        batch: int = 500,
        record: bool = False,
        file_bytes: int = 0,
        folder: Path | None = None,
    ) -> Drain:
        """Start a drain.

        Args:
            trips: what happens to it.
            group: the consumer group; a new one by default, as a group whose members were killed waits for their
                session to end.
            workers, until, batch: as for the product's `drain`.
            record: note what is fsynced.
            file_bytes: no file may grow beyond this many bytes (0: no limit).
            folder: another lake.
        """
        settings = replace(self.settings, lake=str(folder or self.lake))
        environment = settings.to_environment() | (self.rig.environment if self.options else {})
        return self.rig.fork(
            usecase=self.load.usecase.name, settings=environment, until=until, workers=workers,
            group=group or f"{self.load.usecase.name}-{next(self._groups)}", batch_events=batch, record=record,
            file_bytes=file_bytes, steps=[vars(trip) for trip in trips],
        )  # fmt: skip

    def marks(self, *kinds: str) -> dict[tuple[str, int], int]:
        """For each partition the first offset that a table (of these kinds, default all) has not decided on."""
        root = f"{self.lake}/{self.load.usecase.name}"
        found = dict.fromkeys(self.load.partitions, 0)
        names = {stream: [f"raw/{stream}", "duplicates", "dead_letters"] for stream in self.topics}
        opened: dict[str, DeltaTable] = {}
        for stream, partition in self.load.partitions:
            app = f"{self.rig.cluster}:{self.topics[stream]}:{partition}"
            wanted = [name for name in names[stream] if not kinds or name.partition("/")[0] in kinds]
            for name in wanted:
                if name not in opened:
                    # Not `load`: what the product's code hides must not be hidden here. No table: nothing is done yet.
                    if not DeltaTable.is_deltatable(f"{root}/{name}", self.options):
                        return found
                    opened[name] = DeltaTable(f"{root}/{name}", storage_options=self.options)
            found[stream, partition] = min(opened[name].transaction_version(app) or 0 for name in wanted)
        return found

    def done(self) -> int:
        """How many messages all tables have decided on."""
        return sum(self.marks().values())

    def moves(self, than: int) -> int:
        """Wait until more messages than that are decided on; how many are."""
        # moto answers one request at a time: who asks all the time is all that it does.
        wait_for(lambda: self.done() > than, "progress", every=0.3 if self.options else _LOOK_SECONDS)
        return self.done()

    def judge(self) -> Verdict:
        """Drain what is left, undisturbed, and judge everything."""
        self.drain(workers=2, batch=20_000).finish()
        return judge(self.load, self.settings.kafka, str(self.lake), self.topics, self.options)

    def close(self) -> None:
        """Remove topics and lake."""
        self.delete_topics()
        if isinstance(self.lake, Path):
            shutil.rmtree(self.lake)


class Rig:
    """A platform with a broker and a schema registry, and the zygote.

    Args:
        platform: running.
        folder: for lakes and notes.
        seed: of everything that is chosen.
    """

    def __init__(self, platform: Platform, folder: Path, seed: int) -> None:
        self.platform, self.folder, self.seed = platform, folder, seed
        self.settings: Settings = platform.settings()
        self.chance = random.Random(seed)
        self.cluster = Broker(self.settings.kafka).cluster_id()
        #: Where lakes are, if not in folders; and what drains need to reach it, perhaps by a detour.
        self.store: ObjectStore | None = None
        self.environment: dict[str, str] = {}
        self._count = itertools.count()
        self._drains: list[Drain] = []
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.faults.zygote", str(theirs.fileno())]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        self._zygote = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, cwd=_ROOT)
        theirs.close()

    def close(self) -> None:
        """End the zygote, and the drains that a failed scenario left."""
        for drain in self._drains:
            if not drain.wait(0):
                drain.kill()
        self._orders.close()
        self._zygote.wait(30)

    def fork(self, **order: Any) -> Drain:
        """Start a drain by the zygote's order."""
        folder = self.folder / f"drain-{next(self._count)}"
        folder.mkdir()
        ours, theirs = os.pipe()
        socket.send_fds(self._orders, [json.dumps(order | {"folder": str(folder)}).encode()], [theirs])
        os.close(theirs)
        (folder / "stderr").touch()
        self._drains = [drain for drain in self._drains if not drain.wait(0)]
        self._drains.append(Drain(int(self._orders.recv(32)), ours, folder))
        return self._drains[-1]

    @contextmanager
    def on(self, store: ObjectStore, way: Road | None = None) -> Iterator[None]:
        """Within the block lakes are in an object store, which drains reach by a road."""
        self.store, self.environment = store, store.environment(way)
        try:
            yield
        finally:
            self.store, self.environment = None, {}

    @contextmanager
    def bench(self, events: int, *, lake: Path | None = None, **shares: float) -> Iterator[Bench]:
        """A new use case whose topics hold about so many messages; removed at the end unless something failed."""
        number = next(self._count)
        load = Load(f"shop-{number}-{self.chance.getrandbits(24):06x}", self.seed + number)
        home = f"s3://{BUCKET}/lake-{number}" if self.store else self.folder / f"lake-{number}"
        bench = Bench(self, load, lake or home)
        if isinstance(bench.lake, Path):
            bench.lake.mkdir(exist_ok=True)
        bench.open()
        if events:
            bench.produce(events, **shares)
        yield bench
        bench.close()
        for notes in self.folder.glob("drain-*"):
            shutil.rmtree(notes, ignore_errors=True)

    def part_pid(self, part: str) -> int:
        """The process of a part of the platform that runs now."""
        found: list[int] = []
        wait_for(lambda: found.extend(s.pid for s in self.platform.status() if s.name == part and s.pid) or found, part)
        for run in self.platform._processes.runs() if self.platform._processes else []:
            # Whoever asks kills it; the platform, which gives up on what crashes often, must not count that.
            run.restarts = 0
        return found[0]


@contextmanager
def running_rig(seed: int) -> Iterator[Rig]:
    """A rig on a platform of its own, in temporary folders; after a failure its lakes are left to be looked at."""
    with running_platform(["kafka", "schema_registry"]) as platform:
        folder = Path(tempfile.mkdtemp(prefix="fasttrack-faults-"))
        rig = Rig(platform, folder, seed)
        try:
            yield rig
        finally:
            rig.close()
        shutil.rmtree(folder)
