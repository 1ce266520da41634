"""Ledgers on S3: one writer wins each version, whatever becomes of requests and answers on their way."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError
from pyarrow.fs import FileSelector

from fasttrack.errors import ConfigurationError, FastTrackError, StorageError, UnavailableError
from fasttrack.lake import storage
from fasttrack.lake.append import Fenced, Ledger
from fasttrack.lake.tables import ensure, load, read
from tests.object_store import BUCKET, ObjectStore, object_store
from tests.relay import Road, Weather, road

SCHEMA = pa.schema([("name", pa.string()), ("number", pa.int64())])
APP = "cluster:topic:0"


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture
def way(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Road]:
    """The road by which this process reaches the store."""
    with road(store.address) as running:
        for name, value in store.environment(running).items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def hurried() -> Iterator[None]:
    """Two seconds of patience."""
    token = storage._patience.set(2)
    yield
    storage._patience.reset(token)


@pytest.fixture
def table(way: Road, request: pytest.FixtureRequest) -> str:
    path = f"s3://{BUCKET}/{request.node.name}"
    ensure(path, SCHEMA)
    return path


def rows(*numbers: int) -> pa.Table:
    return pa.table({"name": [f"n{n}" for n in numbers], "number": list(numbers)}, schema=SCHEMA)


def numbers(path: str) -> list[int]:
    return sorted(read(path, ["number"])["number"].to_pylist())


def files(store: ObjectStore, path: str) -> list[str]:
    found = store.files().get_file_info(FileSelector(path.removeprefix("s3://")))
    return [file.base_name for file in found if file.base_name.endswith(".parquet")]


def test_of_many_commits_at_once_one_wins(table: str) -> None:
    options = storage.storage_options(table)
    handles = [DeltaTable(table, storage_options=options) for _ in range(8)]

    def commit(handle: DeltaTable) -> bool:
        properties = CommitProperties(app_transactions=[Transaction(APP, 1)])
        try:
            handle.create_write_transaction([], "append", handle.schema(), commit_properties=properties)
        except CommitFailedError:
            return False
        return True

    with ThreadPoolExecutor(len(handles)) as at_once:
        assert sum(at_once.map(commit, handles)) == 1
    assert load(table).version() == 1


def test_rows_marks_and_schema_are_kept(table: str, store: ObjectStore) -> None:
    ledger = Ledger(table, APP)
    assert ledger.append(rows(0, 1), 2) > 0
    assert ledger.append(None, 5) == 0
    assert ledger.append(rows(5), 6) > 0
    ensure(table, pa.schema([*SCHEMA, pa.field("city", pa.string())]))
    assert (Ledger(table, APP).mark, Ledger(table, "other").mark, numbers(table)) == (6, None, [0, 1, 5])
    assert read(table)["city"].null_count == 3
    again = [
        row for batch in Ledger(table, APP).batches(["number"], pa.dataset.field("number") > 0) for row in batch[0]
    ]
    assert sorted(value.as_py() for value in again) == [1, 5]
    assert len(files(store, table)) == 2


def test_a_zombie_is_fenced_and_leaves_no_file(table: str, store: ObjectStore) -> None:
    zombie, successor = Ledger(table, APP), Ledger(table, APP)
    successor.append(rows(0, 1), 2)
    with pytest.raises(Fenced):
        zombie.append(rows(0), 1)
    assert numbers(table) == [0, 1]
    assert len(files(store, table)) == 1


def test_two_writers_of_different_partitions_do_not_hinder_each_other(table: str) -> None:
    def write(app: int) -> None:
        ledger = Ledger(table, f"p{app}")
        for n in range(5):
            ledger.append(rows(100 * app + n), n + 1)

    with ThreadPoolExecutor(3) as at_once:
        list(at_once.map(write, range(3)))
    assert numbers(table) == [100 * app + n for app in range(3) for n in range(5)]


def test_requests_that_break_off_neither_lose_nor_repeat(table: str, way: Road) -> None:
    way.weather("cut")
    ledger: Ledger | None = None
    at = 0
    while at < 40:
        try:
            ledger = ledger or Ledger(table, APP)
            at = ledger.mark or 0
            ledger.append(rows(at), at + 1)
            at += 1
        except (Fenced, UnavailableError):
            ledger = None
    way.weather("open")
    assert way.cuts > 5
    assert numbers(table) == list(range(40))


@pytest.mark.usefixtures("hurried")
def test_a_store_that_is_away_is_named_and_nothing_is_lost(table: str, way: Road) -> None:
    ledger = Ledger(table, APP)
    ledger.append(rows(0), 1)
    weathers: tuple[Weather, ...] = ("closed", "silent")
    for weather in weathers:
        way.weather(weather)
        for action in (lambda: ledger.append(rows(1), 2), lambda: load(table), lambda: ensure(table, SCHEMA)):
            with pytest.raises(UnavailableError, match="does not answer") as raised:
                action()
            assert str(raised.value.where).startswith(table)
        way.weather("open")
    assert Ledger(table, APP).append(rows(1), 2) > 0
    assert numbers(table) == [0, 1]


@pytest.mark.usefixtures("hurried")
def test_a_commit_that_was_sent_and_not_answered_keeps_its_file(
    table: str, way: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost and the store goes away: nobody can say whether the file is named, so it stays."""
    real = DeltaTable.create_write_transaction

    def unanswered(self: DeltaTable, *args: object, **options: object) -> None:
        real(self, *args, **options)  # type: ignore[arg-type]
        way.weather("closed")
        raise OSError("Generic S3 error: connection closed before message completed")

    ledger = Ledger(table, APP)
    monkeypatch.setattr(DeltaTable, "create_write_transaction", unanswered)
    with pytest.raises(UnavailableError):
        ledger.append(rows(0, 1), 2)
    way.weather("open")
    assert (Ledger(table, APP).mark, numbers(table)) == (2, [0, 1])


@pytest.mark.usefixtures("hurried", "way")
@pytest.mark.parametrize(
    ("name", "value", "kind", "what"),
    [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", UnavailableError, "does not answer"),
        ("AWS_ACCESS_KEY_ID", None, ConfigurationError, "no credentials"),
    ],
)
def test_what_is_wrong_with_the_surroundings_is_said(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, kind: type[FastTrackError], what: str
) -> None:
    # Nobody but this machine is asked for credentials.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    if value is None:
        monkeypatch.delenv(name)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(kind, match=what):
        ensure(f"s3://{BUCKET}/surroundings", SCHEMA)


@pytest.mark.usefixtures("way")
def test_a_missing_bucket_is_named() -> None:
    with pytest.raises(StorageError, match="no such bucket"):
        ensure("s3://elsewhere/table", SCHEMA)


def test_denied_access_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Some requests make the bucket.
    with object_store(allowed=3) as strict:
        for name, value in strict.environment().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StorageError, match=r"does not accept the credentials|denies access"):
            ensure(f"s3://{BUCKET}/table", SCHEMA)
