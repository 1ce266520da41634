"""The limits on a feature table: each can fail a run, and all breaches are told at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fasttrack.errors import DataQualityError, NotFoundError, StorageError
from fasttrack.features import parts, stats
from fasttrack.features.fingerprint import fingerprint, sources
from fasttrack.features.plan import table_schema
from fasttrack.features.quality import check, measure
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.features_histories import random_histories, shop, write_lake
from tests.features_reference import Row, minutes, reference_rows

LIMITS = "quality: {max_missing: 1.0, min_rows: 1, max_label_missing: 1.0}"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A complete table of a random history, put together without Spark."""
    return make_table(shop(), tmp_path, [])


def make_table(usecase: UseCase, folder: Path, extra: list[Row]) -> Path:
    """Write a history and the reference's feature table of it, with extra rows, and its statistics."""
    histories = random_histories(3, orders=20, events=40)
    settings = write_lake(usecase, folder / "lake", histories)
    lake = sources(usecase, settings)
    rows = [row | {"_event_id": key, "order_id": key} for key, row in reference_rows(usecase, histories).items()]
    path = str(folder / "table")
    schema = table_schema(usecase)
    batch = parts.write_part(path, pa.Table.from_pylist([*rows, *extra], schema)).to_pylist()[0]
    parts.commit(path, schema, [(batch["path"], batch["size"], batch["stats"])])
    stats.store(path, stats.measure(usecase, path, lake, "f" * 64))
    return Path(path)


def limited(text: str) -> UseCase:
    return shop(**{LIMITS: "quality: {" + text + "}"})


def test_a_good_table_passes_and_is_described(table: Path) -> None:
    report = check(shop(), str(table))
    found = stats.require(str(table))
    assert report.breaches == ()
    assert report.rows == found["rows"] > 5
    assert report.rows + report.dropped == 20
    assert set(report.missing) == {column.name for column in shop().columns()}
    spent = found["columns"]["spending_mean_7d"]
    assert spent["minimum"] <= spent["quantiles"]["0.5"] <= spent["maximum"]
    assert found["columns"]["channel"]["distinct"] == 2
    assert set(found["columns"]["recent"]["channels"]) == {"spent", "returned", "age_hours"}


def test_all_breaches_are_listed(table: Path) -> None:
    strict = limited("max_missing: 0.0, allow_missing: {spending: 1.0}, min_rows: 500, max_label_missing: 0.0")
    with pytest.raises(DataQualityError) as error:
        check(strict, str(table))
    text = str(error.value)
    assert "min_rows is 500" in text
    assert "the label is missing" in text
    assert "column 'channel' is missing in" in text
    assert "spending_mean" not in text
    assert len(measure(strict, str(table)).breaches) > 5


def test_a_limit_of_a_column_goes_before_its_definitions(table: Path) -> None:
    one = limited(
        "max_missing: 1.0, min_rows: 1, max_label_missing: 1.0, allow_missing: {spending: 1.0, spending_std_30m: 0.0}"
    )
    breaches = measure(one, str(table)).breaches
    assert len(breaches) == 1
    assert "spending_std_30m" in breaches[0]


def test_labels_count_only_up_to_the_splits_end(tmp_path: Path) -> None:
    late = {
        "_event_id": "late",
        "order_id": "late",
        "_prediction_time": minutes(60 * 24 * 400),
        "recent": [None] * 9,
        "recent_length": 0,
    }
    path = make_table(shop(), tmp_path, [late])
    unlabelled = make_table(shop(), tmp_path / "b", [late | {"_prediction_time": minutes(5)}])
    assert measure(shop(), str(path)).label_missing < measure(shop(), str(unlabelled)).label_missing


@pytest.mark.parametrize("days", [3, -3])
def test_a_stream_that_lags_or_a_table_that_does_is_told(tmp_path: Path, days: int) -> None:
    usecase = limited("max_missing: 1.0, min_rows: 1, max_label_missing: 1.0, freshness: 1d")
    path = make_table(usecase, tmp_path, [])
    found: dict[str, Any] = stats.require(str(path))
    found["newest_row"] = (minutes(300) + timedelta(days=days)).isoformat()
    stats.store(str(path), found)
    breaches = measure(usecase, str(path)).breaches
    assert len(breaches) == (3 if days > 0 else 1)
    assert "freshness is 24h" in breaches[0]


def test_an_unfinished_table_is_no_table(table: Path) -> None:
    (table / stats.STATS_FILE).unlink()
    with pytest.raises(NotFoundError, match="no complete feature table"):
        check(shop(), str(table))


def test_damaged_statistics_are_refused(table: Path) -> None:
    (table / stats.STATS_FILE).write_bytes(b"{")
    with pytest.raises(StorageError, match="build again"):
        check(shop(), str(table))


def test_an_event_that_is_in_the_lake_twice_is_refused(tmp_path: Path) -> None:
    row = {"_event_id": "o", "order_id": "o", "_prediction_time": minutes(5), "recent": [None] * 9, "recent_length": 0}
    with pytest.raises(DataQualityError, match="holds an event id twice"):
        make_table(shop(), tmp_path, [row, row])


def test_a_new_commit_replaces_the_rows_of_an_earlier_attempt(table: Path) -> None:
    from fasttrack.lake.tables import read

    schema = table_schema(shop())
    row = {"_event_id": "o", "order_id": "o", "_prediction_time": minutes(5), "recent": [None] * 9, "recent_length": 0}
    batch = parts.write_part(str(table), pa.Table.from_pylist([row], schema)).to_pylist()[0]
    parts.commit(str(table), schema, [(batch["path"], batch["size"], batch["stats"])])
    assert read(str(table), ["_event_id"]).to_pylist() == [{"_event_id": "o"}]


def test_what_a_build_left_over_is_swept_and_nothing_else(table: Path) -> None:
    before = set(table.glob("*.parquet"))
    row = {"_event_id": "o", "order_id": "o", "_prediction_time": minutes(5), "recent": [None] * 9, "recent_length": 0}
    rows = pa.Table.from_pylist([row], table_schema(shop()))
    kept, _ = (parts.write_part(str(table), rows, "a-").to_pylist()[0]["path"] for _ in range(2))
    parts.write_part(str(table), rows, "b-")
    parts.sweep(str(table), "a-", [kept])
    left = {file.name for file in set(table.glob("*.parquet")) - before}
    assert kept in left
    assert len(left) == 2


def test_the_fingerprint_follows_data_and_definitions_only(tmp_path: Path) -> None:
    histories = random_histories(1)
    settings: Settings = write_lake(shop(), tmp_path, histories)

    def print_of(usecase: UseCase, versions: dict[str, int] | None = None) -> str:
        return fingerprint(usecase, sources(usecase, settings, versions))

    first = print_of(shop())
    assert print_of(limited("min_rows: 7")) == first
    assert print_of(shop(**{"max_age: 3h": "max_age: 4h"})) != first
    assert print_of(shop(**{"lead: 30m": "lead: 31m"})) != first
    write_lake(shop(), tmp_path, {"visits": histories["visits"][:1]})
    assert print_of(shop()) != first
    assert print_of(shop(), {"orders": 0, "visits": 0, "parcels": 0}) == first
    with pytest.raises(NotFoundError, match="parcels"):
        print_of(shop(), {"orders": 0, "visits": 0})
