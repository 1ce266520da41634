"""A store that ignores the condition of a commit is found out before a row is written to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyarrow.fs import FileSelector, FileType

from fasttrack.errors import ConfigurationError, StorageError, UnavailableError
from fasttrack.ingest.broker import Topic
from fasttrack.ingest.drain import Lake
from fasttrack.lake import conditional, storage
from fasttrack.lake.conditional import require_conditional_put
from fasttrack.lake.tables import versions
from fasttrack.settings import Settings
from tests.object_store import BUCKET, ObjectStore, object_store
from tests.relay import road
from tests.unit.ingest_usecase import usecase

SHOP = usecase("shop")


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture(autouse=True)
def hurried() -> Iterator[None]:
    token = storage._patience.set(2)
    yield
    storage._patience.reset(token)


def prepare(prefix: str) -> Settings:
    """What each drain does before its workers start."""
    settings = Settings(lake=f"s3://{BUCKET}/{prefix}")
    Lake(SHOP, settings, "cluster", {name: Topic(name, name, 1) for name in SHOP.streams}).ensure()
    return settings


def objects(store: ObjectStore, prefix: str) -> list[str]:
    found = store.files().get_file_info(FileSelector(f"{BUCKET}/{prefix}", recursive=True, allow_not_found=True))
    return [file.path for file in found if file.type == FileType.File]


def test_a_store_that_lets_both_commit_gets_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    with object_store(conditional=False) as careless:
        for name, value in careless.environment().items():
            monkeypatch.setenv(name, value)
        # Each time: what was found wrong may be mended.
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="ignores `If-None-Match`") as raised:
                prepare("careless")
        assert raised.value.where == f"s3://{BUCKET}/careless/shop at {careless.environment()['AWS_ENDPOINT_URL']}"
        assert "conditional puts" in str(raised.value.fix)
        assert objects(careless, "careless") == []


def test_one_that_honours_it_is_asked_once_and_nothing_is_left(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with road(store.address) as way:
        for name, value in store.environment(way).items():
            monkeypatch.setenv(name, value)
        assert set(versions(prepare("careful"), SHOP)) == set(SHOP.streams)
        assert objects(store, "careful") and not [path for path in objects(store, "careful") if "probes" in path]
        way.weather("closed")
        require_conditional_put(f"s3://{BUCKET}/careful/shop")
        with pytest.raises(UnavailableError, match="does not answer"):
            require_conditional_put(f"s3://{BUCKET}/another/shop")


def test_a_missing_bucket_is_still_named(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match="no such bucket"):
        require_conditional_put("s3://elsewhere/shop")


def test_a_race_that_decides_nothing_is_run_again(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One writer had finished before the other one looked."""
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    real, rounds = conditional._race, []

    def late(place: str) -> list[Exception | None]:
        rounds.append(place)
        return [None, OSError("exists")] if len(rounds) < 3 else real(place)

    monkeypatch.setattr(conditional, "_race", late)
    require_conditional_put(f"s3://{BUCKET}/late/shop")
    assert len(rounds) >= 3 and "could not be tried" not in capsys.readouterr().err
