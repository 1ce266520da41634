"""Compaction and vacuum of tables on S3."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from deltalake import DeltaTable
from pyarrow.fs import FileSelector

from fasttrack.lake.append import Ledger
from fasttrack.lake.commits import file_names
from fasttrack.lake.compaction import compact
from fasttrack.lake.tables import ensure, load
from fasttrack.lake.vacuum import vacuum
from tests.object_store import BUCKET, ObjectStore, object_store
from tests.relay import road
from tests.unit.lake_rows import SCHEMA, content, fill, marks, rows


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture
def table(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A table of eight files, reached over a road of its own."""
    with road(store.address) as way:
        for name, value in store.environment(way).items():
            monkeypatch.setenv(name, value)
        path = f"s3://{BUCKET}/{request.node.name}"
        ensure(path, SCHEMA)
        fill(path, Random(1), files=8)
        yield path


def objects(store: ObjectStore, path: str) -> set[str]:
    found = store.files().get_file_info(FileSelector(path.removeprefix("s3://")))
    return {file.base_name for file in found if file.base_name.endswith(".parquet")}


def test_rows_and_marks_stay_and_what_nobody_needs_goes(table: str, store: ObjectStore) -> None:
    before, held, version = content(table), marks(table), load(table).version()
    done = compact(table)
    assert (done.replaced, done.written, done.rows, done.lost) == (8, 2, len(before), 0)
    assert (content(table).equals(before), marks(table)) == (True, held)
    assert vacuum(table, []).files == []
    pinned = version - 3
    old, needed = content(table, pinned), file_names(load(table)) | file_names(load(table, pinned))
    assert len(vacuum(table, [pinned], retention=timedelta(0)).files) == 3
    assert objects(store, table) == needed
    assert content(table, pinned).equals(old)
    assert content(table).equals(before)


def test_an_append_or_a_compaction_in_the_middle_repeats_nothing(
    table: str, monkeypatch: pytest.MonkeyPatch, store: ObjectStore
) -> None:
    real, ledger, before = DeltaTable.create_write_transaction, Ledger(table, "app:0"), len(content(table))
    first = ledger.mark or 0
    happens = iter([lambda: ledger.append(rows(Random(3), 0, first, 2), first + 2), lambda: compact(table)])

    def interrupted(self: DeltaTable, *args: Any, **options: Any) -> None:
        if options["commit_properties"].app_transactions is None:
            next(happens, lambda: 0)()
        real(self, *args, **options)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", interrupted)
    done = compact(table)
    assert done.lost >= 1
    assert len(content(table)) == before + 2
    assert file_names(load(table)) <= objects(store, table)
    assert len(objects(store, table)) == 8 + 1 + len([n for n in objects(store, table) if n.startswith("compacted")])
