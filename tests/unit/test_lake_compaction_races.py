"""Compactions beside appends, other compactions, full disks and lost answers: every row stays, once."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from fasttrack.errors import StorageError
from fasttrack.lake.append import Fenced, Ledger
from fasttrack.lake.commits import file_names
from fasttrack.lake.compaction import Policy, compact
from fasttrack.lake.tables import load
from tests.unit.lake_rows import content, fill, marks, new_table, on_disk, rows


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = new_table(tmp_path)
    fill(path, Random(1), files=12)
    return path


def before_commit(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], times: int = 1) -> None:
    """Let something happen between a compaction's look at the table and its commit."""
    real, left = DeltaTable.create_write_transaction, [times]

    def interrupted(self: DeltaTable, *args: Any, **options: Any) -> None:
        if left[0] and options["commit_properties"].app_transactions is None:
            left[0] -= 1
            act()
        real(self, *args, **options)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", interrupted)


def test_an_append_in_the_middle_is_kept_and_does_not_stop_it(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, before = Ledger(table, "app:0"), len(content(table))

    def append() -> None:
        mark = ledger.mark or 0
        ledger.append(rows(Random(mark), 0, mark, 1), mark + 1)

    before_commit(monkeypatch, append, times=5)
    done = compact(table)
    assert (done.written, done.lost) == (2, 0)
    assert len(content(table)) == before + 5
    offsets = content(table).filter(pc.field("_partition") == 0)["_offset"].to_pylist()
    assert offsets == list(range(ledger.mark or 0))


def test_of_two_compactions_one_loses_and_leaves_nothing_behind(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(table)
    before_commit(monkeypatch, lambda: compact(table))
    done = compact(table)
    assert (done.replaced, done.written, done.lost) == (0, 0, 2)
    assert content(table).equals(before)
    assert len(on_disk(table)) == 12 + 2


def test_another_programs_optimize_in_the_middle_repeats_nothing(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(table)
    before_commit(monkeypatch, lambda: DeltaTable(table).optimize.compact())
    assert compact(table).lost >= 1
    assert content(table).equals(before)


def test_compactions_and_drains_at_once_keep_every_row(table: str) -> None:
    drained = threading.Event()
    failures: list[BaseException] = []

    def compacting() -> None:
        try:
            while not drained.is_set():
                compact(table, Policy(least=3))
        except BaseException as error:
            failures.append(error)

    def draining(partition: int) -> None:
        ledger = Ledger(table, f"app:{partition}")
        for number in range(25):
            mark = ledger.mark or 0
            ledger.append(rows(Random(number), partition, mark, 2), mark + 2)

    compactors = [threading.Thread(target=compacting) for _ in range(2)]
    drains = [threading.Thread(target=draining, args=(partition,)) for partition in range(2)]
    for thread in compactors + drains:
        thread.start()
    for thread in drains:
        thread.join()
    drained.set()
    for thread in compactors:
        thread.join()
    assert not failures
    for partition, mark in enumerate(marks(table)):
        held = content(table).filter(pc.field("_partition") == partition)
        assert held["_offset"].to_pylist() == list(range(mark or 0))


def test_an_answer_that_was_lost_is_looked_up(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, before = DeltaTable.create_write_transaction, content(table)

    def lost_answer(self: DeltaTable, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        raise OSError("the connection was cut")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", lost_answer)
    done = compact(table)
    assert (done.written, done.lost) == (2, 0)
    assert content(table).equals(before)


@pytest.mark.parametrize("owner", [DeltaTable, os])
def test_a_disk_that_is_full_leaves_the_table_as_it_was(
    table: str, monkeypatch: pytest.MonkeyPatch, owner: Any
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before, files = content(table), on_disk(table)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "create_write_transaction" if owner is DeltaTable else "fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            compact(table)
    assert on_disk(table) == files
    assert content(table).equals(before)


def test_it_stops_when_it_is_asked_to_and_leaves_nothing_behind(table: str) -> None:
    files, version = on_disk(table), load(table).version()
    asked = iter([False, True, True, True])
    assert compact(table, stop=lambda: next(asked)).lost == 0
    assert (on_disk(table), load(table).version()) == (files, version)


def test_marks_outlive_checkpoints_of_a_compacted_table(table: str) -> None:
    before = content(table), marks(table)
    compact(table)
    load(table).create_checkpoint()
    for log in Path(table, "_delta_log").glob("*.json"):
        log.unlink()
    assert (content(table), marks(table)) == before


def _answer_lost_then(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """An append's commit is made, its answer is lost, and something happens before it is looked up."""
    real = DeltaTable.create_write_transaction

    def cut(self: DeltaTable, *args: Any, **options: Any) -> None:
        monkeypatch.setattr(DeltaTable, "create_write_transaction", real)
        real(self, *args, **options)
        act()
        raise CommitFailedError("the answer was lost")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", cut)


def test_an_append_whose_file_was_compacted_before_it_could_look_is_in_the_table(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(table, "app:0")
    first = ledger.mark or 0
    new = rows(Random(9), 0, first, 3)
    _answer_lost_then(monkeypatch, lambda: compact(table))
    ledger.append(new, first + 3)
    assert ledger.mark == marks(table)[0] == first + 3
    version = next(v for v in range(load(table).version(), 0, -1) if len(file_names(load(table, v))) == 13)
    # The version before the compaction still names the file: it must be there.
    assert content(table, version).equals(content(table))


def test_an_append_that_somebody_followed_before_it_could_look_keeps_its_file(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(table, "app:0")
    first = ledger.mark or 0

    def follow() -> None:
        Ledger(table, "app:0").append(rows(Random(2), 0, first + 3, 2), first + 5)

    _answer_lost_then(monkeypatch, follow)
    with pytest.raises(Fenced):
        ledger.append(rows(Random(9), 0, first, 3), first + 3)
    held = content(table).filter(pc.field("_partition") == 0)
    assert held["_offset"].to_pylist() == list(range(first + 5))
