"""Whatever kills a compaction, the table has every row once, older versions included, and the next one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from fasttrack.ingest.drain import drain
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.replay import replay
from fasttrack.lake.append import Ledger
from fasttrack.lake.commits import file_names
from fasttrack.lake.compaction import Policy, compact
from fasttrack.lake.datafiles import table_paths
from fasttrack.lake.repair import repair
from fasttrack.lake.tables import load
from fasttrack.lake.vacuum import vacuum
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.faults.compacting import STEPS
from tests.integration.drain_oracle import check
from tests.local_homes import running_platform
from tests.unit import ingest_usecase
from tests.unit.ingest_usecase import usecase
from tests.unit.lake_rows import content, fill, marks, new_table, on_disk, rows

_SEED = 20130101
_KILLS = 8
_ROOT = str(Path(__file__).parents[2])


class Forge:
    """Makes compacting processes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, path: str, step: str = "") -> int:
        """The id of a new one."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\t{step}\n")
        self._process.stdin.flush()
        return self._answer()

    def ended(self) -> int:
        """The exit code of the last one, once it has ended."""
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    command = [sys.executable, "-m", "tests.faults.compacting"]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Forge(process)


def test_a_kill_at_any_step_leaves_the_table_as_it_was_or_as_it_shall_be(tmp_path: Path, forge: Forge) -> None:
    path = new_table(tmp_path)
    for number, step in enumerate(STEPS):
        fill(path, Random(number), files=4, partitions=1)
        before, held, version = content(path), marks(path), load(path).version()
        forge.start(path, step)
        assert forge.ended() == -signal.SIGKILL, step
        assert repair(path) == []
        assert content(path).equals(before), step
        assert content(path, version).equals(before), step
        assert marks(path) == held, step
        committed = number >= STEPS.index("committed, not synced")
        assert (load(path).version() > version) == committed, step
        compact(path)
        assert len(file_names(load(path))) == 1
        assert content(path).equals(before), step
    # What the killed ones left is in nobody's way, and goes with the first vacuum that finds it old enough.
    vacuum(path, [], retention=timedelta(0), abandoned=timedelta(0))
    assert on_disk(path) == file_names(load(path))


def test_compactions_killed_at_random_beside_a_writer_lose_nothing(tmp_path: Path, forge: Forge) -> None:
    chance = Random(_SEED)
    path = new_table(tmp_path)
    ended = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            ledger = Ledger(path, "app:0")
            while not ended.is_set():
                mark = ledger.mark or 0
                ledger.append(rows(chance, 0, mark, 5), mark + 5)
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(_KILLS):
            process = forge.start(path)
            time.sleep(chance.uniform(0, 1.5))
            os.kill(process, signal.SIGKILL)
            assert forge.ended() == -signal.SIGKILL
        # One is let live until something of it is in the table, so that the kills before were of working ones.
        process = forge.start(path)
        while not any(name.startswith("compacted-") for name in file_names(load(path))):
            time.sleep(0.05)
        os.kill(process, signal.SIGKILL)
        assert forge.ended() == -signal.SIGKILL
    finally:
        ended.set()
        writer.join()
    assert not failures
    assert repair(path) == []
    landed = marks(path, 1)[0]
    assert content(path)["_offset"].to_pylist() == list(range(landed or 0))
    for version in range(1, load(path).version(), 7):
        offsets = content(path, version)["_offset"]
        assert offsets.to_pylist() == list(range(len(offsets)))


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> UseCase:
    monkeypatch.setattr(ingest_usecase, "ORDERS", 3000)
    monkeypatch.setenv("PYTHONPATH", _ROOT)
    return usecase("compacted")


def _tend(settings: Settings, shop: UseCase, ended: threading.Event, failures: list[BaseException]) -> None:
    """Compact and vacuum all tables until the end."""
    try:
        while not ended.is_set():
            for path in table_paths(settings, shop).values():
                compact(path, Policy(least=3))
                vacuum(path, [], retention=timedelta(seconds=5))
    except BaseException as error:
        failures.append(error)


def test_drains_that_are_killed_while_their_tables_are_compacted_and_vacuumed_add_up(
    tmp_path: Path, shop: UseCase
) -> None:
    chance = Random(_SEED)
    file = tmp_path / "usecase.yaml"
    file.write_text(
        ingest_usecase.YAML.format(name="compacted", partitions=3, source="tests.unit.ingest_usecase:events")
    )
    program = (
        "import sys; from fasttrack.usecase import load; from fasttrack.settings import Settings; "
        "from fasttrack.ingest.drain import drain; "
        "drain(load(sys.argv[1]), Settings.from_environment(), workers=2, batch_events=50)"
    )
    with running_platform(["kafka", "schema_registry"]) as platform:
        settings = replace(platform.settings(), lake=str(tmp_path / "lake"))
        replay(shop, settings)
        ended, failures = threading.Event(), list[BaseException]()
        tending = threading.Thread(target=_tend, args=(settings, shop, ended, failures))
        tending.start()
        try:
            for _ in range(5):
                command = [sys.executable, "-c", program, str(file)]
                process = subprocess.Popen(
                    command, env={**os.environ, **settings.to_environment()}, stderr=subprocess.DEVNULL
                )
                time.sleep(chance.uniform(2.5, 5))
                # The parent; the workers notice and end in the middle of what they do.
                process.kill()
                process.wait()
            drain(shop, settings, batch_events=50)
        finally:
            ended.set()
            tending.join()
        assert not failures
        for path in table_paths(settings, shop).values():
            compact(path)
        assert any(
            name.startswith("compacted-")
            for path in table_paths(settings, shop).values()
            for name in file_names(load(path))
        )
        check(shop, settings)
        found = reconcile(shop, settings)
        assert found.balanced
        assert (found.total.missing, found.total.repeated) == (0, 0)
