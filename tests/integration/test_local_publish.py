"""A published model is served by real KServe processes, replaced without a gap, and served again after a restart."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from fasttrack import usecase as usecases
from fasttrack.errors import UnavailableError
from fasttrack.local import control
from fasttrack.local.home import Home
from fasttrack.local.platform import Platform
from fasttrack.registry import package
from fasttrack.registry.package import Package
from tests.integration import serving_package
from tests.integration.serving_processes import post

ROLES = ("predictor", "transformer", "explainer")
#: The features that a row must have.
ROW = {
    "carrier": "AA", "origin": "JFK", "destination": "LAX", "distance": 2475, "hour": 9, "weekday": "1", "month": 11,
}  # fmt: skip


def ready(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/v2/models/flights/ready", timeout=10) as response:
        return bool(json.load(response)["ready"])


def made(home: Path, seed: int) -> Package:
    """A package that the home's servers trust; each seed gives another."""
    usecase = usecases.load(serving_package.USECASE_FILE)
    content = serving_package.content(usecase, serving_package.synthetic_rows(usecase, 300, seed), steps=2, seed=seed)
    return package.build(content, Path(Platform(home).settings().signing_key).read_bytes())


def who_answers(urls: dict[str, str]) -> tuple[str, Any, Any]:
    """Version as the protocol and as the parameters have it, and digest, as the transformer and predictor say them."""
    inputs = [
        {"name": name, "datatype": "BYTES" if isinstance(value, str) else "FP64", "shape": [1], "data": [value]}
        for name, value in ROW.items()
    ]
    status, answer, _ = post(f"{urls['transformer_url']}/v2/models/flights/infer", {"inputs": inputs})
    assert status == 200, answer
    return answer["model_version"], answer["parameters"]["model_version"], answer["parameters"]["digest"]


def states(platform: Platform) -> dict[str, str]:
    return {part.name: part.state for part in platform.status()}


def test_publish_replace_and_resume(home: Path, tmp_path: Path) -> None:
    control.up(home, ["redis"])
    built = made(home, 0)
    place = package.write(built, home / "packages")

    first = control.publish(home, "flights", serving_package.USECASE_FILE, place, version=7, digest=built.digest)
    assert all(ready(first[f"{role}_url"]) for role in ROLES)
    assert who_answers(first) == ("7", "7", built.digest)

    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in place.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes().replace(b"mlp", b"lstm"))
    with pytest.raises(UnavailableError, match=r"(?s)flights-\w+-b ended at once.*[Ii]ntegrity"):
        control.publish(home, "flights", serving_package.USECASE_FILE, damaged)
    assert ready(first["transformer_url"])

    control.down(home)
    # As a home of before versions were remembered.
    state = Home(home).state()
    del state.publications["flights"]["version"], state.publications["flights"]["digest"]
    Home(home).remember(state)
    with Platform(home) as platform:
        found = states(platform)
        assert set(found.values()) == {"running"}
        assert {f"flights-{role}-a" for role in ROLES} <= found.keys()
        urls = platform._state.publications["flights"]["urls"]
        assert ready(urls["transformer_url"])
        part_of_digest = built.digest.removeprefix("sha256:")[:12]
        assert who_answers(urls) == (part_of_digest, part_of_digest, built.digest)
        with urllib.request.urlopen(f"{platform.settings().gateway}/readyz", timeout=10) as response:
            assert json.load(response)["status"] == "ready"


def test_a_package_that_was_swapped_is_refused_at_restart(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    control.up(home, ["redis"])
    built, other = made(home, 0), made(home, 1)
    place, elsewhere = package.write(built, home / "packages"), package.write(other, home / "packages")
    control.publish(home, "flights", serving_package.USECASE_FILE, place, version=1, digest=built.digest)
    control.down(home)
    # Validly signed, but not what was registered and approved.
    shutil.rmtree(place)
    shutil.copytree(elsewhere, place)

    with Platform(home) as platform:
        found = states(platform)
        assert {found.pop(f"flights-{role}-a") for role in ROLES} <= {"failed", "stopped"}
        assert platform._processes is not None
        assert platform._processes.get("flights-explainer-a").part.argv[-2:] == ("--model_version", "1")
        assert set(found.values()) == {"running"}
        said = capfd.readouterr().err
        assert "Model 'flights' is not served. Publish it again" in said
        assert built.digest in said and other.digest in said
        # What can be published, is.
        urls = platform.publish("flights", serving_package.USECASE_FILE, elsewhere, version=2, digest=other.digest)
        assert who_answers(urls) == ("2", "2", other.digest)


def test_with_the_model_in_the_transformer_there_is_no_predictor(home: Path, tmp_path: Path) -> None:
    control.up(home, ["redis"])
    built = made(home, 0)
    place = package.write(built, home / "packages")
    document = usecases.dump(usecases.load(serving_package.USECASE_FILE))
    document["serving"]["in_process"] = True
    alone = tmp_path / "usecase.yaml"
    alone.write_text(usecases.canonical_text(usecases.UseCase.model_validate(document)))

    urls = control.publish(home, "flights", alone, place, version=1, digest=built.digest)
    assert urls["predictor_url"] == urls["transformer_url"]
    assert who_answers(urls) == ("1", "1", built.digest)
    control.down(home)
    with Platform(home) as platform:
        assert {name for name in states(platform) if name.startswith("flights-")} == {
            "flights-transformer-a", "flights-explainer-a",
        }  # fmt: skip
        urls = platform._state.publications["flights"]["urls"]
        assert who_answers(urls) == ("1", "1", built.digest)
        # A use case that changed its mind gets a predictor again.
        urls = platform.publish("flights", serving_package.USECASE_FILE, place, version=2, digest=built.digest)
        assert urls["predictor_url"] != urls["transformer_url"]
        assert states(platform)["flights-predictor-b"] == "running"
        assert who_answers(urls) == ("2", "2", built.digest)
