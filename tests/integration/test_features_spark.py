"""The Spark job on real Delta tables, against the slow reference; and its reuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from deltalake import write_deltalake

from fasttrack.errors import NotFoundError, StepError
from fasttrack.features.job import FeatureTable, build
from fasttrack.features.plan import table_schema
from fasttrack.lake.tables import raw_path, read
from fasttrack.local.jars import delta_jars
from fasttrack.local.jvm import java_home
from fasttrack.settings import Settings
from tests.features_histories import assert_same, merged, random_histories, shop, write_lake
from tests.features_reference import Histories, Row, minutes, reference_rows
from tests.integration.spark_session import started

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SHOP = shop()


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    """One session for all tests here, started as the job starts its own."""
    with started() as found:
        yield found


@pytest.fixture(scope="module")
def many() -> Histories:
    """Random histories with customers and orders of their own, so that they don't touch each other in one lake."""
    return merged([random_histories(seed, orders=3 + seed, events=5 * seed, prefix=f"{seed}-") for seed in range(12)])


def rows_of(table: FeatureTable) -> dict[str, Row]:
    found = read(table.path)
    assert found.schema.equals(table_schema(SHOP))
    return {row["_event_id"]: row for row in found.to_pylist()}


def assert_rows(table: FeatureTable, histories: Histories) -> dict[str, Row]:
    """The table is what the reference says, which is returned."""
    expected, found = reference_rows(SHOP, histories), rows_of(table)
    assert found.keys() == expected.keys()
    orders = {event["event_id"]: event["order_id"] for event in histories["orders"]}
    for event_id, row in expected.items():
        assert_same(found[event_id], row | {"order_id": orders[event_id]})
    return expected


def test_the_table_equals_the_reference(spark: SparkSession, many: Histories, tmp_path: Path) -> None:
    settings = write_lake(SHOP, tmp_path, many)
    seen: list[str] = []
    table = build(SHOP, settings, spark=spark, on_progress=lambda phase, done, total: seen.append(phase))
    expected = assert_rows(table, many)
    assert len(expected) > 40
    assert (table.rows, table.stats["dropped"]) == (len(expected), len(many["orders"]) - len(expected))
    assert {"compute", "describe"} <= set(seen)
    assert sum(row["_label"] is not None for row in expected.values()) > 10


def test_the_future_changes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    history = random_histories(77, orders=40, events=60)
    cut = minutes(400)
    changed: Histories = {"orders": history["orders"]}
    for stream, field in (("visits", "seen_at"), ("parcels", "scanned_at")):
        past = [event for event in history[stream] if event[field] < cut]
        moved = [
            event | {field: event[field] + timedelta(minutes=9)}
            for event in history[stream][::2]
            if event[field] >= cut
        ]
        changed[stream] = [*past, *moved, *(event | {field: cut} for event in random_histories(78)[stream])]
    before = rows_of(build(SHOP, write_lake(SHOP, tmp_path / "a", history), spark=spark))
    after = rows_of(build(SHOP, write_lake(SHOP, tmp_path / "b", changed), spark=spark))
    early = [key for key, row in before.items() if row["_prediction_time"] <= cut]
    assert len(early) > 3
    features = [name for name in table_schema(SHOP).names if not name.startswith("_label")]
    for key in early:
        assert repr([before[key][name] for name in features]) == repr([after[key][name] for name in features])


def test_an_unchanged_table_is_reused_and_one_event_more_makes_a_new_one(spark: SparkSession, tmp_path: Path) -> None:
    history = random_histories(5)
    settings = write_lake(SHOP, tmp_path, history)
    first = build(SHOP, settings, spark=spark)
    again = build(SHOP, settings, spark=spark)
    assert (first.reused, again.reused) == (False, True)
    assert (again.path, again.rows, again.lake_versions) == (first.path, first.rows, first.lake_versions)
    write_lake(SHOP, tmp_path, {"visits": [history["visits"][0] | {"event_id": "one more"}]})
    more = build(SHOP, settings, spark=spark)
    assert not more.reused
    assert more.path != first.path
    assert more.lake_versions["visits"] == first.lake_versions["visits"] + 1
    pinned = build(SHOP, settings, spark=spark, versions=first.lake_versions)
    assert (pinned.reused, pinned.path) == (True, first.path)


def test_an_empty_stream_and_no_prediction_events_make_an_empty_table(spark: SparkSession, tmp_path: Path) -> None:
    history = random_histories(9)
    settings = write_lake(SHOP, tmp_path, history)
    write_lake(SHOP, tmp_path, {"orders": [history["orders"][0] | {"due_at": None}]}, mode="overwrite")
    table = build(SHOP, settings, spark=spark)
    assert (table.rows, table.stats["dropped"]) == (0, 1)
    assert rows_of(table) == {}


def test_a_stream_without_a_table_is_named(spark: SparkSession, tmp_path: Path) -> None:
    settings = write_lake(SHOP, tmp_path, {"orders": random_histories(1)["orders"]})
    with pytest.raises(NotFoundError, match="parcels"):
        build(SHOP, settings, spark=spark)


def test_a_file_of_the_lake_that_is_gone_fails_the_job_and_leaves_no_table(spark: SparkSession, tmp_path: Path) -> None:
    settings: Settings = write_lake(SHOP, tmp_path, random_histories(2))
    for file in Path(raw_path(settings, SHOP, "visits")).glob("*.parquet"):
        file.unlink()
    with pytest.raises(StepError, match="Spark job failed"):
        build(SHOP, settings, spark=spark)
    assert not list((tmp_path / "shop").glob("features/*/*"))


def test_a_lake_in_a_folder_of_any_name_is_read(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "the lake {of} Adaé, 100% #1 a*?"
    folder.mkdir()
    histories = random_histories(11)
    assert_rows(build(SHOP, write_lake(SHOP, folder, histories), spark=spark), histories)


def test_a_table_that_is_more_than_its_files_is_read_by_delta(spark: SparkSession, tmp_path: Path) -> None:
    histories = random_histories(12)
    settings = write_lake(SHOP, tmp_path, histories)
    path = raw_path(settings, SHOP, "visits")
    rows = read(path)
    shutil.rmtree(path)
    # The files of a partitioned table lack the column that their folders are named after.
    write_deltalake(path, rows, partition_by=["store"])
    assert_rows(build(SHOP, settings, spark=spark), histories)


_APART = """
import psutil, sys, threading, time
from fasttrack.features.job import build
from fasttrack.settings import Settings
from tests.features_histories import shop

mapped = set()

def look():
    while True:
        for process in psutil.Process().children(recursive=True):
            try:
                if process.name() == "java":
                    mapped.update(map.path for map in process.memory_maps() if map.path.endswith(".jsa"))
            except psutil.Error:
                continue
        time.sleep(0.2)

threading.Thread(target=look, daemon=True).start()
print(build(shop(), Settings(lake=sys.argv[1])).rows)
print(len(psutil.Process().children(recursive=True)))
print(*sorted(mapped))
"""


def build_apart(lake: str, folder: Path, classes: Path | None = None) -> list[str]:
    """Build in a process of its own, since this one has a session already: rows, processes left, archives mapped."""
    jars = os.environ.get("FASTTRACK_SPARK_JARS") or ",".join(map(str, delta_jars()))
    home = os.environ.get("JAVA_HOME") or str(java_home())
    environment = os.environ | {"JAVA_HOME": home, "FASTTRACK_SPARK_JARS": jars, "FASTTRACK_SPARK_CORES": "1"}
    environment["FASTTRACK_SPARK_CLASSES"] = str(classes) if classes else ""
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", _APART, lake]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "WARN" not in done.stderr
    assert "ERROR" not in done.stderr
    return done.stdout.split()


def test_the_session_of_its_own_ends_with_its_java(tmp_path: Path) -> None:
    settings = write_lake(SHOP, tmp_path, random_histories(4))
    expected = str(len(reference_rows(SHOP, random_histories(4))))
    assert build_apart(settings.lake, tmp_path) == [expected, "0"]


def test_spark_keeps_its_loaded_classes_for_the_next_start(tmp_path: Path) -> None:
    lakes = [write_lake(SHOP, tmp_path / str(n), random_histories(4)).lake for n in range(3)]
    expected = [str(len(reference_rows(SHOP, random_histories(4)))), "0"]
    classes = tmp_path / "classes"
    _, *first = build_apart(lakes[0], tmp_path, classes)
    base, spark = sorted(classes.iterdir())
    assert first == ["0", str(base)]
    assert build_apart(lakes[1], tmp_path, classes) == [*expected, str(base), str(spark)]
    # A damaged archive costs time, nothing else.
    spark.chmod(0o600)
    os.truncate(spark, spark.stat().st_size // 2)
    assert build_apart(lakes[2], tmp_path, classes)[:2] == expected
