"""Appends carry an offset: data and mark are one commit, made by one writer."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from fasttrack.errors import ConfigurationError, NotFoundError, StorageError
from fasttrack.lake.append import Fenced, Ledger
from fasttrack.lake.tables import ensure, load, raw_path, read
from fasttrack.settings import Settings
from tests.unit.ingest_usecase import usecase

SCHEMA = pa.schema([("name", pa.string()), ("number", pa.int64())])
APP = "cluster:topic:0"


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = str(tmp_path / "lake" / "table")
    ensure(path, SCHEMA)
    return path


def rows(*numbers: int) -> pa.Table:
    return pa.table({"name": [f"n{n}" for n in numbers], "number": list(numbers)}, schema=SCHEMA)


def numbers(path: str) -> list[int]:
    return sorted(read(path, ["number"])["number"].to_pylist())


def test_rows_and_mark_are_one_commit(table: str) -> None:
    ledger = Ledger(table, APP)
    assert ledger.mark is None
    assert ledger.append(rows(0, 1), 2) > 0
    assert ledger.append(None, 5) == 0
    assert ledger.append(rows(5), 6) > 0
    assert (Ledger(table, APP).mark, Ledger(table, "other").mark, numbers(table)) == (6, None, [0, 1, 5])


def test_two_writers_of_different_partitions_do_not_hinder_each_other(table: str) -> None:
    one, other = Ledger(table, "p0"), Ledger(table, "p1")
    for n in range(5):
        one.append(rows(n), n + 1)
        other.append(rows(100 + n), n + 1)
    assert numbers(table) == [0, 1, 2, 3, 4, 100, 101, 102, 103, 104]


def test_a_zombie_with_an_old_handle_is_fenced_and_leaves_no_file(table: str) -> None:
    zombie, successor = Ledger(table, APP), Ledger(table, APP)
    successor.append(rows(0, 1), 2)
    with pytest.raises(Fenced):
        zombie.append(rows(0), 1)
    assert numbers(table) == [0, 1]
    assert len(list(Path(table).glob("*.parquet"))) == 1


def test_a_zombie_that_wakes_between_commits_is_fenced(table: str) -> None:
    zombie = Ledger(table, APP)
    zombie.append(rows(0), 1)
    Ledger(table, APP).append(rows(1, 2), 3)
    with pytest.raises(Fenced):
        zombie.append(rows(1), 2)
    assert numbers(table) == [0, 1, 2]


def test_a_writer_paused_between_check_and_commit_is_fenced(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    zombie = Ledger(table, APP)
    real = DeltaTable.transaction_version

    def paused(self: DeltaTable, app: str) -> Any:
        found = real(self, app)
        monkeypatch.undo()
        Ledger(table, APP).append(rows(0, 1), 2)
        return found

    monkeypatch.setattr(DeltaTable, "transaction_version", paused)
    with pytest.raises(Fenced):
        zombie.append(rows(0, 1, 2), 3)
    assert numbers(table) == [0, 1]


def test_a_commit_with_an_unknown_outcome_is_looked_up_not_repeated(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DeltaTable.create_write_transaction

    def lost_answer(self: DeltaTable, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        raise OSError("the connection was cut")

    ledger = Ledger(table, APP)
    monkeypatch.setattr(DeltaTable, "create_write_transaction", lost_answer)
    ledger.append(rows(0, 1), 2)
    monkeypatch.undo()
    ledger.append(rows(2), 3)
    assert numbers(table) == [0, 1, 2]


def test_the_file_of_a_commit_that_nobody_can_look_up_is_kept(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = DeltaTable.create_write_transaction

    def lost_answer(self: DeltaTable, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        raise OSError("the connection was cut")

    def unreadable(path: str) -> DeltaTable:
        raise StorageError("the storage refused: it is gone.", where=path)

    ledger = Ledger(table, APP)
    monkeypatch.setattr(DeltaTable, "create_write_transaction", lost_answer)
    monkeypatch.setattr("fasttrack.lake.append.load", unreadable)
    with pytest.raises(StorageError, match="it is gone"):
        ledger.append(rows(0, 1), 2)
    monkeypatch.undo()
    assert (Ledger(table, APP).mark, numbers(table)) == (2, [0, 1])


def test_a_conflict_that_is_nobodys_fault_is_tried_again(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, tries = DeltaTable.create_write_transaction, []

    def twice_refused(self: DeltaTable, *args: Any, **options: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise CommitFailedError("metadata changed since last commit")
        real(self, *args, **options)

    ledger = Ledger(table, APP)
    monkeypatch.setattr(DeltaTable, "create_write_transaction", twice_refused)
    ledger.append(rows(0), 1)
    assert (len(tries), numbers(table)) == (3, [0])


def test_a_refused_commit_is_a_storage_error_and_loses_nothing(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    ledger = Ledger(table, APP)
    monkeypatch.setattr(DeltaTable, "create_write_transaction", refuse)
    with pytest.raises(StorageError, match="Free space"):
        ledger.append(rows(0), 1)
    monkeypatch.undo()
    assert list(Path(table).glob("*.parquet")) == []
    ledger.append(rows(0), 1)
    assert numbers(table) == [0]


def test_a_data_file_that_can_not_be_made_durable_is_not_committed(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    ledger = Ledger(table, APP)
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError):
        ledger.append(rows(0), 1)
    monkeypatch.undo()
    assert (numbers(table), Ledger(table, APP).mark) == ([], None)


def test_a_gap_in_the_log_is_read_again(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger(table, APP).append(rows(0), 1)
    first, second = (Path(table) / "_delta_log" / f"{n:020d}.json" for n in (0, 1))
    hidden = first.with_suffix(".hidden")
    first.rename(hidden)
    naps: list[float] = []

    def wake(seconds: float) -> None:
        naps.append(seconds)
        if hidden.exists():
            hidden.rename(first)

    monkeypatch.setattr("fasttrack.lake.tables.time.sleep", wake)
    assert load(table).version() == 1
    assert naps
    assert second.exists()


@pytest.mark.parametrize("name", ["a[b", "a]b", "a\\b", "a%20b"])
def test_a_folder_that_the_delta_library_would_take_for_another_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can't hold Delta tables"):
        raw_path(Settings(lake=str(tmp_path / name)), usecase("shop"), "placed")


def test_a_missing_table_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load(str(tmp_path / "nothing"))


def test_a_contract_grows_by_a_nullable_field(table: str) -> None:
    Ledger(table, APP).append(rows(0), 1)
    wider = SCHEMA.append(pa.field("extra", pa.float64()))
    ensure(table, wider)
    Ledger(table, APP).append(pa.table({"name": ["n1"], "number": [1], "extra": [0.5]}, schema=wider), 2)
    assert sorted(read(table, ["number", "extra"]).to_pylist(), key=lambda r: r["number"]) == [
        {"number": 0, "extra": None},
        {"number": 1, "extra": 0.5},
    ]


def test_a_field_that_changes_its_type_is_refused(table: str) -> None:
    with pytest.raises(StorageError, match="new name"):
        ensure(table, pa.schema([("name", pa.string()), ("number", pa.float64())]))


MOMENT = datetime(2013, 1, 1, 0, 0, 0, 1234, tzinfo=UTC)
F = ds.field


@pytest.mark.parametrize(
    ("where", "count"),
    [
        (F("s") == "a", 1), (F("s") != "a", 4), (F("s").is_null(), 1), (F("s").is_valid(), 5), (F("n") == 3, 1),
        (F("n").is_null(), 1), (F("n") > 7, 2), (F("f") == 1.5, 2), (F("f").is_null(), 1), (F("b") == True, 4),  # noqa: E712
        (F("b").is_null(), 1), (F("t") == pa.scalar(MOMENT, pa.timestamp("us", "UTC")), 5), (F("t").is_null(), 1),
        (F("z").is_null(), 3), (F("z") == "b", 1), (F("z").is_valid(), 3), (F("x") == b"1", 2), (F("x").is_null(), 1),
    ],
)  # fmt: skip
def test_skipping_files_by_their_statistics_never_hides_a_row(where: ds.Expression, count: int, tmp_path: Path) -> None:
    moment = pa.timestamp("us", "UTC")
    kinds = {
        "s": pa.string(),
        "n": pa.int64(),
        "f": pa.float64(),
        "b": pa.bool_(),
        "t": moment,
        "x": pa.binary(),
        "z": pa.string(),
    }
    schema = pa.schema(list(kinds.items()))
    path = str(tmp_path / "table")
    ensure(path, schema)
    ledger = Ledger(path, APP)
    first = [["a", None, "c"], [1, None, 3], [1.5, None, float("nan")], [True, None, False], [MOMENT, None, MOMENT],
             [b"1", None, b"2"], [None] * 3]  # fmt: skip
    second = [["q", "r", "s"], [7, 8, 9], [1.5, 2.0, 3.0], [True] * 3, [MOMENT] * 3, [b"1", b"", b"2"], ["a", "b", "c"]]
    for mark, columns in enumerate((first, second), 1):
        ledger.append(
            pa.table([pa.array(c, k) for c, k in zip(columns, kinds.values(), strict=True)], schema=schema), mark
        )
    assert read(path, None, where).num_rows == count
