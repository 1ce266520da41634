"""The gateway as a process on real stores: PostgreSQL cut off, SIGTERM under load, wrong settings."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from fasttrack.local.platform import Platform
from fasttrack.registry.store import Registry
from tests.integration.gateway_processes import ROOT, process, run, settings_for
from tests.integration.registry_database import opened
from tests.loopback import cable_to
from tests.unit.gateway_harness import (
    DIGEST,
    ModelServer,
    TestIssuer,
    deployment,
    until,
)

PLENTY = {"requests": 1_000_000, "per": "1m", "burst": 100_000}


@pytest.fixture
def registry(dsn: str, server: ModelServer) -> Iterator[Registry]:
    """A registry with one deployment, of the test's model server."""
    wanted = deployment(server.url, server.url, rate_limit=PLENTY, cache="0s")
    with opened(dsn) as found:
        found.migrate()
        version = found.register_model("flights", "/packages/x", digest=DIGEST).version
        found.deploy(
            "flights",
            version,
            signature=wanted.signature,
            usecase_document=wanted.usecase_document,
            transformer_url=server.url,
            predictor_url=server.url,
            explainer_url=server.url,
        )
        yield found


def stored(dsn: str, table: str) -> set[str]:
    """The trace ids in a table, each of which must be there once."""
    with closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT trace_id FROM {table}")
        found = [row[0] for row in cursor.fetchall()]
    assert len(found) == len(set(found))
    return set(found)


def test_rows_of_an_outage_arrive_after_it(platform: Platform, dsn: str, registry: Registry, tmp_path: Path) -> None:
    issuer = TestIssuer(tmp_path)
    with cable_to(dsn) as (cable, through), process(settings_for(platform, through, issuer), tmp_path, issuer) as it:
        traces = set()
        for number in range(60):
            if number == 20:
                cable.cut()
            status, body = it.predict("flights", number)
            assert status == 200, body
            traces.add(body["trace_id"])
        until(lambda: it.ready() == "degraded")
        assert len(stored(dsn, "audit_log")) < 60
        cable.mend()
        until(lambda: stored(dsn, "audit_log") == traces, 60)
        until(lambda: stored(dsn, "predictions") == traces, 60)
        until(lambda: it.ready() == "ready")
    row = registry.audit(next(iter(traces)))[0]
    assert (row.subject, row.tenant, row.status) == ("alice", "acme", 200)
    assert row.response is not None


def test_sigterm_ends_what_is_under_way_and_writes_every_row(
    platform: Platform, dsn: str, registry: Registry, server: ModelServer, tmp_path: Path
) -> None:
    issuer = TestIssuer(tmp_path)
    with process(settings_for(platform, dsn, issuer), tmp_path, issuer) as it:
        answered: list[str] = []
        failed: list[Any] = []
        lock = threading.Lock()

        def ask(start: int) -> None:
            for number in range(start, start + 100_000):
                try:
                    status, body = it.predict("flights", number)
                except OSError:
                    # Refused: it listens no more. A connection that was accepted must be answered.
                    return
                with lock:
                    if status == 200:
                        answered.append(body["trace_id"])
                    else:
                        failed.append(body)

        threads = [threading.Thread(target=ask, args=(n * 100_000,)) for n in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(answered) > 100)
        it.popen.send_signal(signal.SIGTERM)
        assert it.popen.wait(30) == 0
        for thread in threads:
            thread.join()
        assert not failed
        assert stored(dsn, "audit_log") >= set(answered)
        assert stored(dsn, "predictions") >= set(answered)
        assert not list((tmp_path / "spool").glob("*.jsonl"))
        assert "eyJ" not in it.output.read_text()


def test_rows_that_can_not_be_delivered_at_the_end_wait_for_the_next_gateway(
    platform: Platform, dsn: str, registry: Registry, tmp_path: Path
) -> None:
    issuer = TestIssuer(tmp_path)
    with cable_to(dsn) as (cable, through):
        settings = settings_for(platform, through, issuer)
        with process(settings, tmp_path, issuer) as first:
            cable.cut()
            traces = {first.predict("flights", number)[1]["trace_id"] for number in range(10)}
            first.popen.send_signal(signal.SIGTERM)
            assert first.popen.wait(40) == 0
        assert not stored(dsn, "audit_log") & traces
        cable.mend()
        with process(settings, tmp_path, issuer):
            until(lambda: stored(dsn, "audit_log") >= traces)
            until(lambda: stored(dsn, "predictions") >= traces)


def test_wrong_settings_are_named(platform: Platform, tmp_path: Path) -> None:
    nothing = run({})
    assert nothing.returncode == 2
    assert "FASTTRACK_POSTGRES is not set" in nothing.stderr
    good = {**settings_for(platform, platform.settings().postgres, TestIssuer(tmp_path)).to_environment()}
    good["FASTTRACK_GATEWAY_SPOOL"] = str(tmp_path / "spool")
    assert "FASTTRACK_REDIS" in run({**good, "FASTTRACK_REDIS": "http://x"}).stderr
    assert "FASTTRACK_GATEWAY_MAX_HEADERS" in run({**good, "FASTTRACK_GATEWAY_MAX_HEADERS": "many"}).stderr
    (tmp_path / "file").write_text("")
    assert run({**good, "FASTTRACK_GATEWAY_SPOOL": str(tmp_path / "file" / "x")}).returncode == 6
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run(good, "--port", str(taken.getsockname()[1]))
        assert result.returncode == 3
        assert "address already in use" in result.stderr + result.stdout


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, api_gateway.__main__;"
        "heavy = {'torch', 'pyspark', 'kserve', 'feast', 'numpy', 'pandas', 'pyarrow'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
