"""`fasttrack ingest` of a table that others write, killed again and again: the databases' sources as they are run."""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from psycopg2.extensions import connection as Connection

from fasttrack.errors import DataLossError
from fasttrack.ingest.sources.run import ingest
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, dump, load
from tests.integration.registry_database import scratch_database
from tests.integration.replicated_orders import drop_slots
from tests.integration.source_oracle import Ingester, Sent, sent
from tests.integration.source_tables import URL, run, session, working
from tests.unit.gateway_harness import until
from tests.unit.ingest_usecase import usecase

ROWS = 300
FIELDS = {"event_id": "version", "order_id": "number", "pieces": "id", "amount": "serial"}
TABLE = """
CREATE TABLE orders (
  id bigint PRIMARY KEY, number text NOT NULL, version text NOT NULL, serial int NOT NULL, gift boolean NOT NULL,
  placed_at timestamptz NOT NULL DEFAULT '2024-05-01T10:00Z', updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE written (version text, snapshot text DEFAULT pg_current_snapshot()::text);
"""


@pytest.fixture
def settings(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return platform.settings()


@pytest.fixture
def shop(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database of orders; its slot is dropped at the end."""
    with scratch_database(settings.postgres) as url:
        monkeypatch.setenv(URL, url)
        with session(url) as mine:
            run(mine, TABLE)
        yield url
        with session(url) as mine:
            drop_slots(mine)


def declare(folder: Path, **source: Any) -> tuple[UseCase, Path]:
    document = dump(usecase(f"shop-{uuid.uuid4().hex[:8]}"))
    document["sources"] = {
        "orders": {"stream": "placed", "connection_env": URL, "table": "orders", "keys": ["id"], "fields": FIELDS}
        | source
    }
    path = folder / "usecase.yaml"
    path.write_text(yaml.safe_dump(document))
    return load(path), path


def write(number: int, serial: int, mine: Connection) -> str:
    """One more version of an order, in a transaction that takes a moment now and then."""
    version = f"v-{number:04}{serial:06}"
    run(
        mine,
        "INSERT INTO orders (id, number, version, serial, gift) VALUES (%s, %s, %s, %s, true) ON CONFLICT (id) "
        "DO UPDATE SET version = excluded.version, serial = excluded.serial, updated_at = now()",
        (number, f"o{number}", version, serial),
    )
    run(mine, "INSERT INTO written (version) VALUES (%s)", (version,))
    return version


def writer(dsn: str, numbers: range) -> Any:
    """Writes its own orders, so that writers don't wait for each other."""

    def write_all(done: threading.Event) -> None:
        rng = random.Random(numbers.start)
        serial = 0
        with session(dsn, autocommit=False) as mine:
            while not done.wait(rng.choice([0, 0.01, 0.05])):
                for number in rng.sample(numbers, rng.choice([1, 2, 10])):
                    serial += 1
                    write(number, serial, mine)
                    done.wait(rng.choice([0, 0, 0, 0.05]))
                mine.rollback() if rng.random() < 0.1 else mine.commit()

    return write_all


def killed_again_and_again(settings: Settings, case: UseCase, file: Path, dsn: str, kills: int = 5) -> list[Sent]:
    """Ingest while two writers work and the ingester is killed; what is in the topic once it is at the end."""
    rng = random.Random(7)
    with working(writer(dsn, range(ROWS // 2)), writer(dsn, range(ROWS // 2, ROWS))):
        for kill in range(kills):
            ingester = Ingester(settings, file)
            try:
                before = count(settings, case)
                until(lambda before=before: count(settings, case) > before, 120)
                threading.Event().wait(rng.uniform(0, 2.5) if kill else 0)
            finally:
                ingester.kill()
    last = Ingester(settings, file, until="end")
    _out, err = last.process.communicate(timeout=180)
    assert last.process.returncode == 0, err
    return sent(settings, case, "placed")


def count(settings: Settings, case: UseCase) -> int:
    try:
        return len(sent(settings, case, "placed"))
    except Exception:
        # The topic isn't there yet.
        return 0


def test_a_table_that_is_read_by_its_cursor(settings: Settings, shop: str, tmp_path: Path) -> None:
    case, file = declare(tmp_path, kind="postgres", cursor="updated_at", poll="100ms", batch=50)
    messages = killed_again_and_again(settings, case, file, shop)
    told = Counter(message.event["event_id"] for message in messages)
    with session(shop) as mine:
        written = {version for (version,) in run(mine, "SELECT version FROM written")}
        newest = {version for (version,) in run(mine, "SELECT version FROM orders")}
    assert [version for version, times in told.items() if times > 1] == []
    assert set(told) <= written, "a version that nobody committed"
    assert newest <= set(told), "a row's newest version is missing"
    assert len(told) > 50


def test_a_table_that_is_replicated(settings: Settings, shop: str, tmp_path: Path) -> None:
    with session(shop, autocommit=False) as mine:
        for number in range(ROWS):
            write(number, 0, mine)
        mine.commit()
    case, file = declare(tmp_path, kind="postgres_replication")
    messages = killed_again_and_again(settings, case, file, shop)
    told = Counter(message.event["event_id"] for message in messages)
    with session(shop) as mine:
        written = {version for (version,) in run(mine, "SELECT version FROM written")}
    assert [version for version, times in told.items() if times > 1] == []
    assert set(told) <= written, "a version that nobody committed"
    # Before the slot there were versions that nobody could see any more when it was made, or when a start that had
    # been killed went on; of each order the first one that is told begins a history without holes.
    history: dict[str, list[str]] = {}
    for version in sorted(written):
        history.setdefault(version[:6], []).append(version)
    for versions in history.values():
        first = next(at for at, version in enumerate(versions) if version in told)
        assert set(versions[first:]) <= set(told)
    assert len(told) > ROWS


def test_a_stream_s_other_topic_drops_no_changes_that_the_slot_holds(
    settings: Settings, shop: str, tmp_path: Path
) -> None:
    """It stops before it has replaced what was recorded: with the first topic again, it goes on as if nothing was."""
    case, _ = declare(tmp_path, kind="postgres_replication")
    elsewhere = case.model_copy(
        update={"streams": case.streams | {"placed": case.streams["placed"].model_copy(update={"topic": case.name})}}
    )
    with session(shop) as mine:
        write(1, 0, mine)
        assert ingest(case, settings, until="end").sources["orders"].sent == 1
        write(1, 1, mine)
        write(1, 2, mine)
        for _ in range(2):
            with pytest.raises(DataLossError, match="nothing is recorded of what was read"):
                ingest(elsewhere, settings, until="end")
        assert ingest(case, settings, until="end").sources["orders"].sent == 2
        assert [message.event["event_id"][-1] for message in sent(settings, case, "placed")] == ["0", "1", "2"]
        # The way that the error names: what was written by then comes with the snapshot.
        drop_slots(mine)
        assert ingest(elsewhere, settings, until="end").sources["orders"].sent == 1
