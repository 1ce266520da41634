"""The disk fills up, or the power fails."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from fasttrack.errors import StorageError
from fasttrack.lake.repair import repair
from tests.faults import steps
from tests.faults.outcome import Outcome
from tests.faults.powercut import Disk
from tests.faults.rig import Bench, Drain, Rig, Trip, rounds, send, wait_for

_EVENTS = 4000
_CUTS_A_LOAD = 25
_DISK_BYTES = 512 * 2**20


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Make `folder` a file system of its own; whether that is allowed (else only file sizes can be limited)."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disks(rig: Rig, times: int, events: int) -> Outcome:
    """The disk is full after some more bytes, or refuses files beyond a size; then there is room again."""
    outcome = Outcome("full disks")
    disk = rig.folder / "disk"
    with small_disk(disk) as mounted, rig.bench(0, lake=disk / "lake") as bench:
        while outcome.times < times:
            if bench.done() == len(bench.load):
                bench.produce(max(_EVENTS, events // times))
            batch = rig.chance.choice([100, 500])
            if mounted and rig.chance.random() < 0.7:
                with _ballast(disk, rig.chance):
                    outcome.times += _full(bench.drain(batch=batch))
            else:
                outcome.times += _full(bench.drain(batch=batch, file_bytes=rig.chance.randint(300, 8000)))
        outcome.judge(bench)
    return outcome.ended()


@contextmanager
def _ballast(disk: Path, chance: random.Random) -> Iterator[None]:
    """Leave little room on the disk."""
    file = disk / "ballast"
    known = os.statvfs(disk)
    room = known.f_bavail * known.f_frsize - chance.choice([0, 4096, 65_536, chance.randrange(300_000)])
    with file.open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, max(1, room))
    try:
        yield
    finally:
        file.unlink()


def _full(drain: Drain) -> int:
    """Wait for the drain; 1 if the storage refused it (it says so in one line), 0 if it had room enough."""
    said = drain.finish(0, StorageError.exit_code)
    refused = "StorageError" in said
    assert refused or "Draining" in said or not said, said
    assert "Traceback" not in said, said
    return int(refused)


def power_cuts(rig: Rig, times: int, events: int) -> Outcome:
    """All processes end at once, and the disk forgets what was not fsynced, or some of it."""
    outcome = Outcome("power cuts")
    for upto in rounds(times, _CUTS_A_LOAD):
        with rig.bench(0) as bench:
            disk = Disk(bench.lake)
            while outcome.times < upto:
                if bench.done() == len(bench.load):
                    bench.produce(max(_EVENTS, events // times))
                outcome.gone += _cut(rig, bench, disk, outcome.times)
                outcome.times += 1
            outcome.judge(bench)
    return outcome.ended()


def _cut(rig: Rig, bench: Bench, disk: Disk, number: int) -> int:
    """Cut the power of one or several drains; how many tables lack what a drain took for durable."""
    drains = _interrupted(rig, bench, number)
    if rig.chance.random() < 0.3:
        # What a killed writer left unsynced must be safe once others have gone on from it.
        drains += _interrupted(rig, bench, rig.chance.randrange(100))
    for drain in drains:
        disk.learn(drain.folder / "durable")
    disk.cut(rig.chance, survives=rig.chance.choice([0.0, 0.0, 0.5, 0.9]))
    # As the next drain does at its start; until then damaged tables can't be opened.
    for log in bench.lake.rglob("_delta_log"):
        repair(str(log.parent))
    return sum(_gone(drain) for drain in drains)


def _interrupted(rig: Rig, bench: Bench, number: int) -> list[Drain]:
    """One drain that has ended at a named step with all its processes, or two in the middle of whatever they did."""
    chance = rig.chance
    names = [steps.PARENT, *steps.STEPS[:9]]
    if number % 2 == 0:
        step = names[number // 2 % len(names)]
        drain = bench.drain(Trip(step, chance.randint(1, 4), "kill all"), batch=200, record=True)
        wait_for(lambda: drain.noted("fired") or drain.wait(0), "the step")
        drain.kill()
        return [drain]
    drains = [bench.drain(batch=100, record=True) for _ in range(2)]
    already = chance.randint(1, 30)
    wait_for(lambda: sum(len(d.noted("appended")) for d in drains) >= already or all(d.wait(0) for d in drains), "work")
    pids = [pid for drain in drains for pid in (drain.pid, *(worker.pid for worker in drain.workers()))]
    # Stopped first: no power is cut to one process after the other.
    send(signal.SIGSTOP, *pids)
    for drain in drains:
        drain.kill()
    return drains


def _gone(drain: Drain) -> int:
    """How many of the drain's tables lack an append that it took for durable."""
    newest: dict[tuple[str, str], int] = {}
    for note in drain.noted("appended"):
        newest[note["path"], note["app"]] = note["mark"]
    gone = 0
    for (path, app), mark in newest.items():
        try:
            found = DeltaTable(path).transaction_version(app) or 0
        except DeltaError:
            # The whole table can't be read any more.
            found = -1
        gone += found < mark
    return gone
