"""The audit log on a real PostgreSQL: whatever somebody with the database's password does to sealed rows is found."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fasttrack.local.platform import Platform
from fasttrack.registry.keys import load_public, new_key_pair
from fasttrack.registry.records import AuditRow
from fasttrack.registry.store import Registry
from tests.integration.registry_database import execute, opened, scratch_database

ROOT = Path(__file__).parents[2]
KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key()
START = datetime(2026, 1, 1, tzinfo=UTC)


def row(number: int) -> AuditRow:
    response = {"probability": number / 7, "big": 2**70, "text": "ł\n"} if number % 2 else None
    return AuditRow(
        trace_id=f"t{number}", route="predict", status=200, latency_ms=1 / 3 + number, usecase="orders", subject="ann",
        role="analyst", tenant="bank", model_version=3, digest="sha256:1", request_hash="aa", response=response,
        id=UUID(int=number), at=START + timedelta(seconds=number),
    )  # fmt: skip


@pytest.fixture
def log(dsn: str) -> Iterator[tuple[Registry, str]]:
    """A registry with 30 rows under three checkpoints and 5 rows that wait."""
    with scratch_database(dsn) as own, opened(own) as registry:
        registry.migrate()
        for low in (1, 11, 21):
            registry.append_audit([row(number) for number in range(low, low + 10)])
            assert registry.seal_audit(KEY) is not None
        registry.append_audit([row(number) for number in range(31, 36)])
        yield registry, own


def faults(registry: Registry, *kept: str) -> list[str]:
    return registry.verify_audit(PUBLIC, kept).faults


def test_an_untouched_log_adds_up(log: tuple[Registry, str]) -> None:
    registry, _ = log
    found = registry.verify_audit(PUBLIC)
    assert (found.sealed, found.unsealed, found.checkpoints, found.faults) == (30, 5, 3, [])
    kept = registry.audit_note()
    assert kept is not None
    made = registry.seal_audit(KEY)
    assert made is not None and made.size == 35
    assert registry.seal_audit(KEY) is None
    assert faults(registry, kept) == []


def test_a_later_version_may_add_a_column(log: tuple[Registry, str]) -> None:
    registry, dsn = log
    execute(dsn, "ALTER TABLE audit_log ADD COLUMN more text DEFAULT 'x'")
    assert registry.seal_audit(KEY) is not None
    assert faults(registry) == []


CHANGES = {
    "trace_id": "'x'", "usecase": "NULL", "subject": "'bob'", "role": "'admin'", "tenant": "'other'", "route": "'v2'",
    "status": "500", "model_version": "4", "digest": "''", "request_hash": "NULL", "latency_ms": "latency_ms + 1e-9",
    "cached": "true", "response": "'{}'", "at": "at + interval '1 microsecond'",
}  # fmt: skip


@pytest.mark.parametrize("column", CHANGES)
def test_a_changed_value_is_found_and_named(log: tuple[Registry, str], column: str) -> None:
    registry, dsn = log
    execute(dsn, f"UPDATE audit_log SET {column} = {CHANGES[column]} WHERE id = '{UUID(int=17)}'")
    assert faults(registry) == [f"row {UUID(int=17)} (number 16): it was changed after it was sealed"]


def test_a_row_and_its_leaf_changed_together_are_found_by_the_root(log: tuple[Registry, str]) -> None:
    registry, dsn = log
    execute(dsn, f"UPDATE audit_log SET status = 500 WHERE id = '{UUID(int=17)}'")
    execute(dsn, "UPDATE audit_leaves SET leaf = sha256('other') WHERE position = 16")
    assert faults(registry)[0].startswith(f"row {UUID(int=17)} (number 16)")
    assert "rows 10 to 19 are not those that the checkpoint was signed for" in faults(registry)


def test_a_removed_row_is_found(log: tuple[Registry, str]) -> None:
    registry, dsn = log
    execute(dsn, f"DELETE FROM audit_log WHERE id = '{UUID(int=5)}'")
    assert faults(registry) == [f"row {UUID(int=5)} (number 4): it was removed"]
    execute(dsn, f"DELETE FROM audit_leaves WHERE id = '{UUID(int=5)}'")
    assert faults(registry) == ["the checkpoint of 10 rows: the log has only 4 sealed ones now"]


def test_a_sealed_row_that_is_removed_and_sent_once_more_has_its_old_place(log: tuple[Registry, str]) -> None:
    registry, dsn = log
    execute(dsn, f"DELETE FROM audit_log WHERE id = '{UUID(int=5)}'")
    registry.append_audit([row(5)])
    assert registry.seal_audit(KEY) is not None
    assert faults(registry) == []


def test_a_row_that_waits_and_is_removed_is_found_and_one_that_was_slipped_in_too(log: tuple[Registry, str]) -> None:
    registry, dsn = log
    execute(dsn, f"DELETE FROM audit_log WHERE id = '{UUID(int=33)}'")
    assert faults(registry) == [f"row {UUID(int=33)}: it was removed before it was sealed"]
    # Sent once more, as from a spool, it is there again.
    registry.append_audit([row(33)])
    assert faults(registry) == []
    registry.append_audit([row(40)])
    execute(dsn, f"DELETE FROM audit_unsealed WHERE id = '{UUID(int=40)}'")
    assert f"row {UUID(int=40)}: it was added past the sealing" in faults(registry)


def test_what_was_cut_off_the_end_is_found_with_a_checkpoint_that_was_kept(log: tuple[Registry, str]) -> None:
    registry, dsn = log
    kept = registry.audit_note()
    assert kept is not None
    execute(dsn, f"DELETE FROM audit_log WHERE at > '{START + timedelta(seconds=20)}'")
    for statement in ("DELETE FROM audit_leaves WHERE position >= 20", "DELETE FROM audit_unsealed",
                      "DELETE FROM audit_checkpoints WHERE size > 20"):  # fmt: skip
        execute(dsn, statement)
    assert faults(registry) == []
    assert faults(registry, kept) == ["the kept checkpoint of 30 rows: the log has only 20 sealed ones now"]


def test_a_log_written_anew_by_somebody_with_another_key_is_found(log: tuple[Registry, str]) -> None:
    registry, dsn = log
    for table in ("audit_leaves", "audit_checkpoints"):
        execute(dsn, f"DELETE FROM {table}")
    execute(dsn, "INSERT INTO audit_unsealed SELECT id FROM audit_log ON CONFLICT DO NOTHING")
    registry.seal_audit(Ed25519PrivateKey.generate())
    assert "was not signed with the audit log's key" in faults(registry)[0]


def test_a_checkpoint_that_was_changed_or_taken_from_another_place_is_found(log: tuple[Registry, str]) -> None:
    registry, dsn = log
    execute(dsn, "UPDATE audit_checkpoints SET note = replace(note, E'\\n20\\n', E'\\n21\\n') WHERE size = 20")
    assert faults(registry)[0].startswith("checkpoint of 20 rows: the checkpoint was not signed")
    execute(
        dsn, "UPDATE audit_checkpoints SET note = (SELECT note FROM audit_checkpoints WHERE size = 10) WHERE size = 20"
    )
    assert faults(registry)[0] == "checkpoint of 20 rows: its note is that of 10 rows"


def test_several_sealers_at_once_make_one_tree(log: tuple[Registry, str]) -> None:
    registry, dsn = log
    failed: list[BaseException] = []

    def work(part: int) -> None:
        try:
            with opened(dsn) as own:
                for number in range(20):
                    own.append_audit([row(100 + part * 1000 + number)])
                    own.seal_audit(KEY)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    registry.seal_audit(KEY)
    found = registry.verify_audit(PUBLIC)
    assert (failed, found.sealed, found.unsealed, found.faults) == ([], 115, 0, [])


def test_a_local_platform_seals_its_log_by_itself(home: Path) -> None:
    platform = Platform(home)
    platform.start(["postgres"])
    settings = platform.settings()
    with opened(settings.postgres) as registry:
        registry.append_audit([row(number) for number in range(7)])
    platform.stop()
    platform.start(["postgres"])
    try:
        with opened(platform.settings().postgres) as registry:
            public = load_public(Path(settings.audit_verify_key).read_bytes())
            found = registry.verify_audit(public)
        assert (found.sealed, found.unsealed, list(found.faults)) == (7, 0, [])
    finally:
        platform.stop()


def test_the_clusters_sealer_prints_the_checkpoint_that_is_to_be_kept(
    log: tuple[Registry, str], tmp_path: Path
) -> None:
    registry, dsn = log
    registry.append_audit([row(100)])
    private, public = new_key_pair()
    key = tmp_path / "audit.pem"
    execute(
        dsn,
        "TRUNCATE audit_leaves, audit_checkpoints; INSERT INTO audit_unsealed SELECT id FROM audit_log"
        " ON CONFLICT DO NOTHING",
    )

    def seal(path: Path) -> subprocess.CompletedProcess[str]:
        environment = {"FASTTRACK_POSTGRES": dsn, "FASTTRACK_AUDIT_KEY": str(path), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, ROOT / "images/migrations/seal.py"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    missing = seal(key)
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "can't be read" in missing.stderr and "Traceback" not in missing.stderr
    key.write_bytes(private)
    made = seal(key)
    assert made.returncode == 0, made.stderr
    assert not registry.verify_audit(load_public(public), [made.stdout.rstrip("\n") + "\n"]).faults
    assert seal(key).stdout == "no row waits\n"
