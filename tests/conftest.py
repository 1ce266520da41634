"""Fixtures that tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local_homes import new_home
from tests.unit.gateway_harness import ModelServer, model_server


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
