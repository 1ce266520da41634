"""A vacuum deletes what nobody needs: never a file of the newest, a recent or a pinned version."""

from __future__ import annotations

import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.errors import StorageError
from fasttrack.lake import storage as storage_module
from fasttrack.lake.append import Ledger
from fasttrack.lake.commits import file_names
from fasttrack.lake.compaction import Policy, compact
from fasttrack.lake.tables import load
from fasttrack.lake.vacuum import vacuum
from tests.unit.lake_rows import content, fill, marks, new_table, on_disk, rows

NOW = timedelta(0)


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = new_table(tmp_path)
    fill(path, Random(1), files=8)
    return path


def age(path: str, name: str, span: timedelta) -> None:
    """Make a file look old."""
    when = time.time() - span.total_seconds()
    os.utime(Path(path, name), (when, when))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_pinned_versions_stay_as_they_were_and_all_other_files_go(seed: int, data: st.DataObject) -> None:
    chance = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = new_table(Path(folder))
        for _ in range(data.draw(st.integers(1, 3))):
            fill(path, chance, files=chance.randint(1, 5))
            compact(path, Policy(least=chance.randint(2, 3)))
        newest = load(path).version()
        pins = data.draw(st.sets(st.integers(0, newest), max_size=3))
        before = {version: content(path, version) for version in {*pins, newest}}
        needed = set().union(*(file_names(load(path, version)) for version in {*pins, newest}))
        had, would = on_disk(path), vacuum(path, pins, retention=NOW, dry_run=True)
        assert on_disk(path) == had
        done = vacuum(path, pins, retention=NOW)
        assert done == would
        assert set(done.files) == had - needed
        assert on_disk(path) == needed
        assert {version: content(path, version) for version in before} == before
        assert done.pinned == sorted(pins)
        assert vacuum(path, pins, retention=NOW).files == []


def test_a_version_that_was_the_newest_within_the_retention_can_be_read(table: str) -> None:
    version, before = load(table).version(), content(table)
    compact(table)
    assert vacuum(table, [], retention=timedelta(hours=1)).files == []
    assert content(table, version).equals(before)
    assert len(vacuum(table, [], retention=NOW).files) == 8
    with pytest.raises(StorageError):
        content(table, version)
    assert content(table).equals(before)


def test_how_old_a_file_is_does_not_matter_but_when_it_was_removed(table: str) -> None:
    for name in on_disk(table):
        age(table, name, timedelta(days=100))
    compact(table)
    assert vacuum(table, []).files == []
    assert len(on_disk(table)) == 8 + 2


def test_a_file_that_a_writer_is_about_to_commit_stays_and_an_abandoned_one_goes(table: str) -> None:
    for name in ("part-new.parquet", "part-old.parquet", "compacted-older.parquet"):
        Path(table, name).write_bytes(b"some")
    age(table, "part-old.parquet", timedelta(hours=25))
    age(table, "compacted-older.parquet", timedelta(days=8))
    assert vacuum(table, []).files == ["compacted-older.parquet"]
    assert vacuum(table, [], retention=NOW).files == ["part-old.parquet"]
    assert Path(table, "part-new.parquet").exists()


def test_what_is_no_data_file_is_left_alone(table: str) -> None:
    others = ["_stats.json", "notes.txt", ".hidden", "odd name.parquet", "folder.parquet"]
    for name in others[:-1]:
        Path(table, name).write_bytes(b"some")
        age(table, name, timedelta(days=100))
    Path(table, "folder.parquet").mkdir()
    Path(table, "_delta_log", "x.parquet").write_bytes(b"some")
    age(table, "_delta_log/x.parquet", timedelta(days=100))
    compact(table)
    vacuum(table, [], retention=NOW)
    assert all(Path(table, name).exists() for name in [*others, "_delta_log/x.parquet"])


def test_a_pin_of_another_table_is_told_and_one_that_can_not_be_read_stops_it(table: str) -> None:
    newest = load(table).version()
    compact(table)
    assert vacuum(table, [newest, 999], dry_run=True).unknown == [999]
    files = on_disk(table)
    Path(table, "_delta_log", f"{newest:020d}.json").rename(Path(table, "_delta_log", "away"))
    with pytest.raises(StorageError):
        vacuum(table, [newest], retention=NOW)
    assert on_disk(table) == files


def test_a_commit_that_says_that_a_file_is_gone_and_is_lost_itself_deletes_nothing(table: str) -> None:
    compact(table)
    before, files = content(table), on_disk(table)
    load(table).create_checkpoint()
    newest = load(table).version()
    for version in (newest - 1, newest):
        Path(table, "_delta_log", f"{version:020d}.json").rename(Path(table, "_delta_log", f"{version}.damaged"))
    assert vacuum(table, [], retention=NOW).files == []
    assert on_disk(table) == files
    assert content(table).equals(before)


def test_commits_are_durable_before_the_first_file_goes(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compact(table)
    happened: list[str] = []
    real_remove, real_sync = storage_module.remove, storage_module.sync_log

    def remove(path: str, name: str) -> None:
        happened.append("remove")
        real_remove(path, name)

    def sync_log(path: str, after: int, upto: int) -> Any:
        happened.append(f"sync {after + 1} to {upto}")
        return real_sync(path, after, upto)

    monkeypatch.setattr("fasttrack.lake.vacuum.remove", remove)
    monkeypatch.setattr("fasttrack.lake.vacuum.sync_log", sync_log)
    vacuum(table, [], retention=NOW)
    assert happened == [f"sync 0 to {load(table).version()}", *["remove"] * 8]


def test_a_drain_and_a_compaction_go_on_after_it(table: str) -> None:
    ledger = Ledger(table, "app:0")
    compact(table)
    vacuum(table, [], retention=NOW)
    first = ledger.mark or 0
    ledger.append(rows(Random(3), 0, first, 2), first + 2)
    before = content(table)
    assert compact(table).replaced == 2
    assert content(table).equals(before)
    assert marks(table)[0] == first + 2
