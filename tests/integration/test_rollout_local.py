"""`fasttrack rollout` on the local platform: real model servers of two versions behind the real gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from fasttrack.client import Gateway
from fasttrack.errors import FastTrackError
from fasttrack.local import control
from fasttrack.local.home import Home
from fasttrack.local.issuer import mint
from fasttrack.local.platform import Platform
from fasttrack.registry import package
from fasttrack.registry.store import Registry
from fasttrack.usecase import dump, load
from tests.integration import serving_package
from tests.integration.test_local_publish import ROW, made
from tests.unit.gateway_harness import until

PARTS = ["postgres", "redis", "gateway"]


def command(home: Path, *words: str) -> Any:
    """What `fasttrack rollout ...` prints as JSON."""
    found = _run(home, *words)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def refused(home: Path, *words: str) -> str:
    """What it says where it ends with an error."""
    found = _run(home, *words)
    assert found.returncode and "Traceback" not in found.stderr, found.stdout
    return found.stderr


def _run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTTRACK_")}
    argv = [sys.executable, "-m", "fasttrack", "--json", "--home", str(home), "rollout", *words]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=400, check=False)


@pytest.fixture
def digests(home: Path) -> list[str]:
    """Two registered versions, of which the first is published."""
    control.up(home, PARTS)
    document, found = dump(load(serving_package.USECASE_FILE)), []
    document["serving"]["rate_limit"] = {"requests": 100_000, "per": "1m", "burst": 10_000}
    with closing(Registry(Platform(home).settings().postgres)) as registry:
        registry.migrate()
        for number in (1, 2):
            built = made(home, number)
            place = package.write(built, home / "packages")
            registry.register_model("flights", str(place), digest=built.digest)
            found.append(built.digest)
            if number == 1:
                urls = control.publish(
                    home, "flights", serving_package.USECASE_FILE, place, version=1, digest=built.digest
                )
                signature = json.loads((place / "signature.json").read_bytes())
                served = {name: url for name, url in urls.items() if name.endswith("_url")}
                registry.deploy("flights", 1, signature=signature, usecase_document=document, **served)
                registry.set_stage("flights", 1, "champion", "test", "the first")
    return found


def test_start_compare_promote_and_go_on_after_a_restart(home: Path, digests: list[str]) -> None:
    settings = Platform(home).settings()
    token = mint(home, subject="a", roles=["flights-predictor"], tenant="t", audience=settings.audience)
    gateway = Gateway(settings.gateway, token)

    def answers(count: int) -> list[tuple[str, str]]:
        """Arm and digest of predictions, each for another flight."""
        found = [gateway.predict("flights", {"features": {**ROW, "distance": 100 + n}}) for n in range(count)]
        return [((each.get("experiment") or {}).get("arm", ""), each["model"]["digest"]) for each in found]

    def known() -> bool:
        with suppress(FastTrackError):
            return answers(1)[0] == ("", digests[0])
        return False

    until(known)
    started = command(home, "start", "flights", "2", "--mode", "ab", "--why", "it is newer")
    assert (started["status"], started["champion"], started["challenger"]) == ("running", 1, 2)
    until(lambda: {arm for arm, _ in answers(20)} == {"champion", "challenger"})
    assert set(answers(40)) == {("champion", digests[0]), ("challenger", digests[1])}

    # A restart of the whole platform in the middle: both versions are there again.
    control.down(home)
    control.up(home)
    until(lambda: {arm for arm, _ in answers(20)} == {"champion", "challenger"}, 60)

    ended = command(home, "promote", "flights", "--why", "seen enough")
    assert (ended["status"], [event["action"] for event in ended["events"]]) == ("promoted", ["start", "promote"])
    until(lambda: set(answers(10)) == {("", digests[1])})
    # The former champion's servers are stopped, and the new one is what a restart would start.
    former = [f"flights-{role}-a" for role in ("predictor", "transformer", "explainer")]
    until(lambda: not {part.name for part in control.status(home)} & set(former), 60)
    kept = Home(home).state().publications["flights"]
    assert (kept["version"], kept["digest"], "beside" in kept) == (2, digests[1], False)


def test_an_aborted_challenger_s_servers_are_stopped(home: Path, digests: list[str]) -> None:
    # What the gateway refuses leaves no servers behind, and what runs keeps its own.
    assert "--steps: " in refused(home, "start", "flights", "2", "--steps", "5,x", "--why", "to compare")
    with closing(Registry(Platform(home).settings().postgres)) as registry:
        registry.approve("flights", 2, who="bob", why="leaks", decision="rejected")
        assert "rejected by bob: leaks" in refused(home, "start", "flights", "2", "--why", "to compare")
        registry.approve("flights", 2, who="bob", why="mended")
    until(lambda: not [part for part in control.status(home) if part.name.endswith("-b")], 60)
    command(home, "start", "flights", "2", "--mode", "shadow", "--why", "to compare")
    before = {part.name: part.pid for part in control.status(home)}
    assert "the rollout of version 2 runs" in refused(home, "start", "flights", "2", "--why", "again")
    assert {part.name: part.pid for part in control.status(home)} == before
    ended = command(home, "abort", "flights", "--why", "compared")
    assert ended["status"] == "aborted"
    until(lambda: not [part for part in control.status(home) if part.name.endswith("-b")], 60)
    assert Home(home).state().publications["flights"]["version"] == 1
    assert "beside" not in Home(home).state().publications["flights"]
