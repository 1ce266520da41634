"""Whatever dies, stops or fills up while it drains: nothing is lost, nothing is there twice."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from fasttrack.errors import DataLossError, UnavailableError
from fasttrack.ingest.drain import drain
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.replay import replay
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.faults.drain_rig import ROOT, DrainProcess, landed, wait_until_more
from tests.integration.drain_oracle import check
from tests.local_homes import running_platform
from tests.unit import ingest_usecase
from tests.unit.ingest_usecase import usecase

KILLS = int(os.environ.get("FASTTRACK_FAULT_KILLS", "8"))
ZOMBIES = int(os.environ.get("FASTTRACK_FAULT_ZOMBIES", "1"))
ORDERS = 4000
SEED = 20130101


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """A broker of our own, as it is killed, and a schema registry."""
    with running_platform(["kafka", "schema_registry"]) as running:
        yield running


@pytest.fixture
def settings(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(ingest_usecase, "ORDERS", ORDERS)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return replace(platform.settings(), lake=str(tmp_path / "lake"))


@pytest.fixture
def shop() -> UseCase:
    return usecase(f"shop-{uuid.uuid4().hex[:8]}")


def kafka_pid(platform: Platform) -> int:
    return next(part.pid for part in platform.status() if part.name == "kafka" and part.pid)


def test_kill_9_at_random_moments(settings: Settings, shop: UseCase) -> None:
    sent = replay(shop, settings)
    moments = random.Random(SEED)
    done = kills = 0
    while kills < KILLS and done < sent.produced:
        running = DrainProcess(settings, shop, f"{shop.name}-{kills}", batch=100)
        done = wait_until_more(settings, shop, done)
        time.sleep(moments.uniform(0, 0.2))
        victims = running.workers()
        if moments.random() < 0.5 or not victims:
            running.kill()
        else:
            # One worker alone: its parent notices, starts another, and is killed a little later.
            os.kill(moments.choice(victims).pid, signal.SIGKILL)
            time.sleep(moments.uniform(0, 0.2))
            running.kill()
        kills += 1
        done = landed(settings, shop)
    assert kills >= 3
    code, said = DrainProcess(settings, shop, shop.name, batch=1000).finish()
    assert code == 0, said
    assert check(shop, settings) == sent.produced
    assert reconcile(shop, settings).balanced


def test_workers_end_when_their_parent_is_killed(settings: Settings, shop: UseCase) -> None:
    replay(shop, settings)
    running = DrainProcess(settings, shop, shop.name, until="forever")
    wait_until_more(settings, shop, 0)
    workers = running.workers()
    assert len(workers) == 2
    running.process.kill()
    running.process.communicate()
    for worker in workers:
        worker.wait(30)


def test_sigterm_ends_it_cleanly_with_all_tables_at_one_mark(settings: Settings, shop: UseCase) -> None:
    sent = replay(shop, settings)
    running = DrainProcess(settings, shop, shop.name, until="forever", batch=100)
    wait_until_more(settings, shop, 0)
    running.process.terminate()
    code, said = running.finish(60)
    assert code == 0, said
    before = reconcile(shop, settings).total
    # What was committed is settled in all three tables, so the next drain reads nothing again.
    assert landed(settings, shop) == before.landed + before.duplicates + before.dead_lettered
    drain(shop, settings, workers=1)
    assert check(shop, settings) == sent.produced


def test_zombies_write_nothing_twice(settings: Settings, shop: UseCase) -> None:
    sent = replay(shop, settings)
    done = 0
    for _ in range(ZOMBIES):
        first = DrainProcess(settings, shop, shop.name, workers=1, batch=50)
        done = wait_until_more(settings, shop, done)
        (zombie,) = first.workers()
        zombie.suspend()
        held = landed(settings, shop)
        assert held < sent.produced
        # The second drain gets the partitions once the broker has given the silent worker up.
        second = DrainProcess(settings, shop, shop.name, workers=1, batch=50)
        code, said = second.finish()
        assert code == 0, said
        assert landed(settings, shop) == sent.produced
        zombie.resume()
        code, said = first.finish()
        assert code == 0, said
    assert check(shop, settings) == sent.produced


def test_a_second_drain_started_by_mistake_is_harmless(settings: Settings, shop: UseCase) -> None:
    sent = replay(shop, settings)
    both = [DrainProcess(settings, shop, group, workers=1, batch=100) for group in (shop.name, f"{shop.name}-other")]
    for one in both:
        code, said = one.finish()
        assert code == 0, said
    assert check(shop, settings) == sent.produced


def test_the_broker_is_killed_in_the_middle_of_a_drain(settings: Settings, shop: UseCase, platform: Platform) -> None:
    sent = replay(shop, settings)
    running = DrainProcess(settings, shop, shop.name, batch=50)
    wait_until_more(settings, shop, 0)
    os.kill(kafka_pid(platform), signal.SIGKILL)
    code, said = running.finish()
    assert code == 0, said
    assert check(shop, settings) == sent.produced


def test_the_broker_is_killed_in_the_middle_of_a_replay(settings: Settings, shop: UseCase, platform: Platform) -> None:
    pids = [kafka_pid(platform)]
    seen = [0]

    def progress(count: int) -> None:
        seen[0] += count
        if seen[0] > 4000 and pids:
            os.kill(pids.pop(), signal.SIGKILL)

    report = replay(shop, settings, rate=4000.0, on_progress=progress)
    assert not pids
    drain(shop, settings)
    assert check(shop, settings) == report.produced
    assert reconcile(shop, settings).total.landed == ORDERS + ORDERS // 2


def test_a_topic_deleted_in_the_middle_stops_it_loudly(
    settings: Settings, shop: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay(shop, settings)
    admin = AdminClient({"bootstrap.servers": settings.kafka})

    def delete() -> None:
        wait_until_more(settings, shop, 0)
        for future in admin.delete_topics([shop.topic("placed")]).values():
            future.result(30)

    deleting = threading.Thread(target=delete)
    deleting.start()
    try:
        with pytest.raises((DataLossError, UnavailableError)) as caught:
            drain(shop, settings, workers=1, batch_events=20)
    finally:
        deleting.join()
    assert isinstance(caught.value, DataLossError)
    assert "deleted" in caught.value.what


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder that takes 1 MiB: a file system of its own where that is allowed, else a limit on file sizes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield folder, 0 if mounted else 6000
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(
    settings: Settings, shop: UseCase, small_disk: tuple[Path, int], tmp_path: Path
) -> None:
    folder, file_limit = small_disk
    sent = replay(shop, settings)
    if not file_limit:
        (folder / "ballast").write_bytes(bytes(700 * 1024))
    full = replace(settings, lake=str(folder / "lake"))
    arguments = ["prlimit", f"--fsize={file_limit}"] if file_limit else []
    assert not arguments or shutil.which("prlimit")
    running = DrainProcess(full, shop, shop.name, batch=500, prefix=arguments)
    code, said = running.finish()
    assert code == 6, said
    assert "StorageError" in said
    if not file_limit:
        (folder / "ballast").unlink()
    moved = replace(settings, lake=str(tmp_path / "lake"))
    shutil.copytree(full.lake, moved.lake)
    drain(shop, moved)
    assert check(shop, moved) == sent.produced
