"""A published model is served by real KServe processes, replaced without a gap, and served again after a restart."""

from __future__ import annotations

import json
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fasttrack import usecase as usecases
from fasttrack.errors import UnavailableError
from fasttrack.local import control
from fasttrack.local.platform import Platform
from fasttrack.registry import package
from tests.integration import serving_package


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fasttrack-test-"))
    yield folder
    control.down(folder, wipe=True)


def ready(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/v2/models/flights/ready", timeout=10) as response:
        return bool(json.load(response)["ready"])


def test_publish_replace_and_resume(home: Path, tmp_path: Path) -> None:
    control.up(home, ["redis"])
    settings = Platform(home).settings()
    usecase = usecases.load(serving_package.USECASE_FILE)
    content = serving_package.content(usecase, serving_package.synthetic_rows(usecase, 300, 0), steps=2)
    made = package.write(package.build(content, Path(settings.signing_key).read_bytes()), home / "packages")

    first = control.publish(home, "flights", serving_package.USECASE_FILE, made)
    assert all(ready(first[f"{role}_url"]) for role in ("predictor", "transformer", "explainer"))

    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in made.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes().replace(b"mlp", b"lstm"))
    with pytest.raises(UnavailableError, match=r"(?s)flights-\w+-b ended at once.*[Ii]ntegrity"):
        control.publish(home, "flights", serving_package.USECASE_FILE, damaged)
    assert ready(first["transformer_url"])

    control.down(home)
    platform = Platform(home)
    platform.start()
    try:
        states = {part.name: part.state for part in platform.status()}
        assert set(states.values()) == {"running"}
        assert {f"flights-{role}-a" for role in ("predictor", "transformer", "explainer")} <= states.keys()
        assert ready(platform._state.publications["flights"]["urls"]["transformer_url"])
        with urllib.request.urlopen(f"{platform.settings().gateway}/readyz", timeout=10) as response:
            assert json.load(response)["status"] == "ready"
    finally:
        platform.stop()
