"""Fixtures that tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.integration.certificates import Authority
from tests.local_homes import new_home
from tests.unit.gateway_harness import ModelServer, model_server

# A busy machine is no fault of the code: no test asserts a time.
settings.register_profile("fasttrack", deadline=None)
settings.load_profile("fasttrack")


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty home for a platform, removed at the end."""
    with new_home() as folder:
        yield folder


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    """A server that answers as transformer, predictor and explainer."""
    with model_server() as it:
        yield it


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The certificate authority that everybody trusts."""
    return Authority(tmp_path / "ours")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """One that nobody trusts."""
    return Authority(tmp_path / "strangers")
