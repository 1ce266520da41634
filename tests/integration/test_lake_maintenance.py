"""The lake's commands on a real platform; what pins a version; Spark on a compacted table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pyarrow as pa
import pytest

from fasttrack.errors import ConfigurationError, StorageError, UnavailableError
from fasttrack.features.fingerprint import Source
from fasttrack.features.raw import raw_frame
from fasttrack.ingest.drain import drain
from fasttrack.ingest.reconcile import reconcile
from fasttrack.ingest.replay import replay
from fasttrack.lake.append import Ledger
from fasttrack.lake.commits import file_names
from fasttrack.lake.compaction import compact
from fasttrack.lake.schemas import raw_schema
from fasttrack.lake.tables import ensure, load, raw_path, read
from fasttrack.local.platform import Platform
from fasttrack.registry.records import Lineage
from fasttrack.registry.store import Registry
from fasttrack.settings import Settings
from fasttrack.steps.pins import pins
from fasttrack.usecase import UseCase
from tests.integration.drain_oracle import check
from tests.integration.spark_session import started
from tests.unit import ingest_usecase, lake_rows
from tests.unit.ingest_usecase import usecase

_SECONDS = 120.0


@pytest.fixture
def shop() -> UseCase:
    return usecase(f"shop-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def settings(dsn: str, registry: Registry, tmp_path: Path) -> Settings:
    """A lake, runs, packages and a registry of the test's own."""
    for name in ("lake", "runs", "packages"):
        (tmp_path / name).mkdir()
    folders = {name: str(tmp_path / name) for name in ("lake", "runs", "packages")}
    return Settings(kafka="127.0.0.1:1", postgres=dsn, **folders)


@pytest.fixture
def filled(settings: Settings, shop: UseCase) -> str:
    """The raw table of stream ``placed``, in six files and versions."""
    path = raw_path(settings, shop, "placed")
    schema = raw_schema(shop.streams["placed"])
    ensure(path, schema)
    ledger = Ledger(path, "app:0")
    for number in range(6):
        made = {name: [None] * 3 for name in schema.names}
        made |= {"event_id": [f"a-{number}-{n}" for n in range(3)], "_topic_id": ["t"] * 3, "_partition": [0] * 3}
        made["_offset"] = list(range(3 * number, 3 * number + 3))
        ledger.append(pa.table(made, schema=schema), 3 * number + 3)
    return path


def record(settings: Settings, shop: UseCase, run: str, version: int) -> None:
    folder = Path(settings.runs, shop.name, run)
    folder.mkdir(parents=True)
    (folder / "drain.json").write_bytes(orjson.dumps({"lake_versions": {"placed": version}}))


def register(registry: Registry, shop: UseCase, version: int) -> None:
    lineage = Lineage({"placed": version}, {}, "c", 1, {})
    digest = "sha256:" + uuid.uuid4().hex * 2
    registry.register_model(shop.name, "/nowhere", digest=digest, lineage=lineage)


def command(settings: Settings, file: Path, *words: str, code: int = 0) -> Any:
    """What `fasttrack lake` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "fasttrack", "--json", "lake", *words, "-u", str(file)],
        env={**os.environ, **settings.to_environment()}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return orjson.loads(done.stdout) if code == 0 else done.stderr


@pytest.fixture
def file(shop: UseCase, tmp_path: Path) -> Path:
    made = tmp_path / "usecase.yaml"
    made.write_text(ingest_usecase.YAML.format(name=shop.name, partitions=3, source="tests.unit.ingest_usecase:events"))
    return made


def test_list_compact_and_vacuum_keep_what_runs_and_models_were_made_from(
    settings: Settings, shop: UseCase, registry: Registry, filled: str, file: Path
) -> None:
    record(settings, shop, "run-1", 2)
    register(registry, shop, 4)
    before = {version: read(filled, version=version) for version in (2, 4)}
    (listed,) = command(settings, file, "list")
    assert (listed["table"], listed["version"], listed["files"], listed["rows"], listed["small"]) == (
        *("raw/placed", 6, 6, 18, 6),
    )
    assert listed["pinned"] == {"2": ["run run-1"], "4": [f"model {shop.name}:1"]}
    would = command(settings, file, "compact", "--dry-run")["raw/placed"]
    done = command(settings, file, "compact", "--table", "raw/placed")["raw/placed"]
    assert (would["replaced"], done["replaced"], done["written"], done["rows"]) == (6, 6, 1, 18)
    assert command(settings, file, "vacuum", "--retention", "1h")["raw/placed"]["files"] == 0
    # As if the compaction had been long ago.
    log = Path(filled, "_delta_log", f"{load(filled).version():020d}.json")
    lines = [orjson.loads(line) for line in log.read_bytes().splitlines()]
    for line in lines:
        if "remove" in line:
            line["remove"]["deletionTimestamp"] -= 7_200_000
        elif "commitInfo" in line:
            line["commitInfo"]["timestamp"] -= 7_200_000
    log.write_bytes(b"\n".join(orjson.dumps(line) for line in lines))
    would = command(settings, file, "vacuum", "--retention", "1h", "--dry-run")["raw/placed"]
    done = command(settings, file, "vacuum", "--retention", "1h")["raw/placed"]
    # Version 4 has the first four files, and so has version 2 its two.
    assert would == done
    assert (done["files"], done["pinned"]) == (2, [2, 4])
    assert {version: read(filled, version=version) for version in (2, 4)} == before
    assert len(read(filled)) == 18


def test_all_that_names_a_lake_version_pins_it(
    settings: Settings, shop: UseCase, registry: Registry, filled: str
) -> None:
    record(settings, shop, "run-1", 1)
    register(registry, shop, 3)
    package = Path(settings.packages, shop.name, "sha256-ab")
    package.mkdir(parents=True)
    (package / "lineage.json").write_bytes(orjson.dumps({"lake_versions": {"placed": 4}}))
    table_id = str(load(filled).metadata().id)
    for name, tables, version in (("f1", {"placed": table_id}, 5), ("f2", {"placed": "another"}, 6)):
        build = Path(settings.lake, shop.name, "features", name)
        build.mkdir(parents=True)
        stats = {"lake_versions": {"placed": version}, "lake_tables": tables}
        (build / "_stats.json").write_bytes(orjson.dumps(stats))
    assert pins(shop, settings) == {
        "placed": {1: ["run run-1"], 3: [f"model {shop.name}:1"], 4: ["package sha256-ab"], 5: ["features f1"]}
    }


def test_where_it_can_not_be_known_what_is_pinned_nothing_is_deleted(
    settings: Settings, shop: UseCase, filled: str, file: Path
) -> None:
    compact(filled)
    files = lake_rows.on_disk(filled)
    away = replace(settings, postgres="postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(UnavailableError, match="which versions models were made from"):
        pins(shop, away)
    assert "which versions models were made from" in command(away, file, "vacuum", code=3)
    with pytest.raises(ConfigurationError, match="no such folder"):
        pins(shop, replace(settings, runs=settings.runs + "-elsewhere"))
    record(settings, shop, "torn", 1)
    Path(settings.runs, shop.name, "torn", "drain.json").write_text("{")
    with pytest.raises(StorageError, match="what it pins"):
        pins(shop, settings)
    assert "Give 1h or more" in command(settings, file, "vacuum", "--retention", "5m", code=2)
    assert lake_rows.on_disk(filled) == files


def test_spark_reads_a_compacted_table_by_both_its_readers(tmp_path: Path) -> None:
    path = lake_rows.new_table(tmp_path)
    lake_rows.fill(path, Random(5), files=6)
    version = load(path).version()
    compact(path)
    newest = load(path).version()
    rows = lake_rows.content(path).to_pylist()
    places = [(row["_partition"], row["_offset"], row["text"], row["count"]) for row in rows]
    with started() as spark:
        delta = spark.read.format("delta").load(path)
        pinned = [raw_frame(spark, Source(path, "", at, len(rows))) for at in (version, newest)]
        for frame in (*pinned, delta):
            found = frame.select("_partition", "_offset", "text", "count").orderBy("_partition", "_offset").collect()
            assert [tuple(row) for row in found] == places
        # By the files' statistics.
        assert delta.where("count > 0").count() == sum(row["count"] is not None and row["count"] > 0 for row in rows)


_FOREVER = """
import sys
from fasttrack.ingest import upkeep
from fasttrack.ingest.drain import drain
from fasttrack.settings import Settings
from fasttrack.usecase import load
upkeep.EVERY_SECONDS = 0.2
drain(load(sys.argv[1]), Settings.from_environment(), workers=2, until="forever", batch_events=20)
"""


def compacted(path: str) -> bool:
    return any(name.startswith("compacted-") for name in file_names(load(path)))


def test_a_drain_without_end_compacts_what_it_writes_and_it_adds_up(
    platform: Platform, shop: UseCase, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_usecase, "ORDERS", 1500)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    settings = replace(platform.settings(), lake=str(tmp_path / "own"))
    replay(shop, settings)
    environment = {**os.environ, **settings.to_environment()}
    process = subprocess.Popen([sys.executable, "-c", _FOREVER, str(file)], env=environment)
    try:
        path, deadline = raw_path(settings, shop, "placed"), time.monotonic() + _SECONDS
        while not (Path(path).exists() and compacted(path)):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    drain(shop, settings)
    check(shop, settings)
    assert reconcile(shop, settings).balanced
    assert compacted(path)
