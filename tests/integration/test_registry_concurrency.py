"""The registry when many threads and processes write at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fasttrack.errors import (
    UnavailableError,
)
from fasttrack.registry.store import Registry
from tests.integration.registry_database import digest, opened


def test_threads_registering_the_same_and_different_packages(registry: Registry) -> None:
    barrier = threading.Barrier(8)

    def work(thread: int) -> list[tuple[int, int]]:
        barrier.wait()
        # Every package is registered by four threads; the order differs from thread to thread.
        numbers = [(n * (thread + 1)) % 11 for n in range(1, 11)]
        return [(n, registry.register_model("raced", f"/{n}", digest=digest(n)).version) for n in numbers]

    with ThreadPoolExecutor(8) as pool:
        found = {pair for result in pool.map(work, range(8)) for pair in result}
    assert len(found) == 10, "a package has one version, whoever asked"
    assert sorted(version for _, version in found) == list(range(1, 11)), "no number is skipped or given twice"
    assert len(registry.list("raced")) == 10


def test_processes_registering_the_same_and_different_packages(dsn: str, registry: Registry) -> None:
    script = (
        "import sys; from fasttrack.registry.store import Registry\n"
        "registry = Registry(sys.argv[1]); registry.migrate()\n"
        "for n in range(20):\n"
        "    mine = n if n % 2 else n + 100 * int(sys.argv[2])\n"
        "    print(mine, registry.register_model('raced', f'/{mine}', digest=f'sha256:{mine:064x}').version)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, dsn, str(n)], stdout=subprocess.PIPE, text=True)
        for n in range(1, 4)
    ]
    found = set()
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0
        found |= {tuple(map(int, line.split())) for line in output.splitlines()}
    assert len(found) == 10 + 3 * 10
    assert sorted(version for _, version in found) == list(range(1, 41))


def test_there_is_never_a_second_champion(registry: Registry) -> None:
    for number in range(1, 9):
        registry.register_model("crown", f"/{number}", digest=digest(number))
    barrier = threading.Barrier(8)

    def crown(number: int) -> None:
        barrier.wait()
        registry.set_stage("crown", number, "champion", "ann", "mine")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(crown, range(1, 9)))
    stages = [version.stage for version in registry.list("crown")]
    assert sorted(stages) == ["archived"] * 7 + ["champion"]


def test_readers_see_one_deployment_or_the_other(registry: Registry) -> None:
    for number in (1, 2):
        registry.register_model("served", f"/{number}", digest=digest(number))

    def deploy(number: int) -> None:
        url = f"http://127.0.0.1:{number}"
        document = {"number": number}
        registry.deploy(
            "served",
            number,
            signature=document,
            usecase_document=document,
            transformer_url=url,
            predictor_url=url,
            explainer_url=url,
        )

    deploy(1)
    stop = threading.Event()
    mixed: list[Any] = []

    def read() -> None:
        while not stop.is_set():
            seen = registry.deployment("served")
            numbers = {seen.version, int(seen.uri[1:]), seen.signature["number"], seen.usecase_document["number"]}
            numbers |= {int(url[-1]) for url in (seen.transformer_url, seen.predictor_url, seen.explainer_url)}
            if len(numbers) != 1:
                mixed.append(seen)

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for number in range(200):
                deploy(number % 2 + 1)
        finally:
            stop.set()
        for reader in readers:
            reader.result()
    assert mixed == []


def test_more_threads_than_connections(registry: Registry) -> None:
    registry.register_model("busy", "/a", digest=digest(1))
    with ThreadPoolExecutor(16) as pool:
        assert len({v.version for v in pool.map(lambda _: registry.get("busy", 1), range(200))}) == 1


def test_exhausted_pool_is_an_error_not_a_hang(dsn: str) -> None:
    with opened(dsn, pool_size=1, patience=0.05) as registry:
        registry.migrate()
        with registry._connections.transaction(), pytest.raises(UnavailableError, match="all 1 connections"):
            registry.list()
        assert registry.list() == ()


def test_forked_child_has_connections_of_its_own(registry: Registry) -> None:
    registry.register_model("forked", "/a", digest=digest(1))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if all(registry.get("forked", 1).version == 1 for _ in range(50)) else 1
        finally:
            os._exit(code)
    for _ in range(50):
        assert registry.get("forked", 1).version == 1
    assert os.waitpid(child, 0)[1] == 0
    assert registry.get("forked", 1).version == 1
