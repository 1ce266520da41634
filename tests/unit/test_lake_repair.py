"""A table whose last files were lost in a power cut opens again, with everything that was promised."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from fasttrack.errors import StorageError
from fasttrack.lake.append import Ledger
from fasttrack.lake.repair import repair
from fasttrack.lake.tables import ensure, load

ROWS = pa.table({"n": pa.array([1, 2, 3])})


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A table with commits 0 (made) to 4."""
    path = str(tmp_path / "table")
    ensure(path, ROWS.schema)
    ledger = Ledger(path, "app")
    for mark in range(1, 5):
        ledger.append(ROWS, mark)
    return path


def commit(table: str, version: int) -> Path:
    return Path(table) / "_delta_log" / f"{version:020d}.json"


def half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def nothing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [half, empty, zeros])
def test_a_damaged_newest_commit_is_set_aside(table: str, damage: object) -> None:
    assert callable(damage)
    damage(commit(table, 4))
    ensure(table, ROWS.schema)
    assert load(table).transaction_version("app") == 3
    assert Ledger(table, "app").append(ROWS, 4) > 0
    assert len(load(table).to_pyarrow_table()) == 12
    assert commit(table, 4).with_name(commit(table, 4).name + ".damaged").exists()


@pytest.mark.parametrize("damage", [half, empty, zeros, nothing])
def test_what_was_built_on_a_damaged_commit_is_set_aside_too(table: str, damage: object) -> None:
    assert callable(damage)
    damage(commit(table, 3))
    assert commit(table, 4).name in repair(table)
    assert load(table).transaction_version("app") == 2


@pytest.mark.parametrize("damage", [half, empty, zeros])
@pytest.mark.parametrize("pointer", [True, False])
def test_a_damaged_checkpoint_costs_nothing(table: str, damage: object, pointer: bool) -> None:
    assert callable(damage)
    DeltaTable(table).create_checkpoint()
    (checkpoint,) = Path(table, "_delta_log").glob("*.checkpoint.parquet")
    damage(checkpoint)
    if not pointer:
        damage(Path(table, "_delta_log", "_last_checkpoint"))
    repair(table)
    assert load(table).transaction_version("app") == 4
    assert len(load(table).to_pyarrow_table()) == 12


def test_a_table_that_was_being_made_is_made_anew(tmp_path: Path) -> None:
    path = str(tmp_path / "table")
    ensure(path, ROWS.schema)
    empty(commit(path, 0))
    ensure(path, ROWS.schema)
    assert load(path).version() == 0


def test_sound_tables_are_left_alone(table: str) -> None:
    DeltaTable(table).create_checkpoint()
    before = sorted(Path(table, "_delta_log").iterdir())
    assert repair(table) == []
    assert sorted(Path(table, "_delta_log").iterdir()) == before


def test_a_commit_that_its_killed_writer_never_synced_is_synced_by_the_next(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr("fasttrack.lake.durability.sync_file", lambda path: synced.append(Path(path).name))
    Ledger(table, "other").append(ROWS, 1)
    # Its own and every one below it: without one of them the table could not be opened after a power cut.
    assert {commit(table, version).name for version in range(6)} <= set(synced)


def test_a_refused_repair_says_so(table: str) -> None:
    empty(commit(table, 4))
    commit(table, 4).with_name(commit(table, 4).name + ".damaged").mkdir()
    with pytest.raises(StorageError):
        ensure(table, ROWS.schema)
