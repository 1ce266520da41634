"""Where the pipeline definitions are: the rooms ``pipelines/`` and ``components/`` of a checkout, outside the wheel."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import fasttrack
from fasttrack.errors import ConfigurationError
from fasttrack.usecase import UseCase

#: Names the folder of the checkout, where the package isn't installed from it.
ROOT = "FASTTRACK_ROOT"


def checkout() -> Path:
    """The folder that holds ``pipelines/`` and ``components/``.

    Raises:
        ConfigurationError: the package was installed without its checkout, and ``FASTTRACK_ROOT`` doesn't name one.
    """
    given = os.environ.get(ROOT)
    root = Path(given).absolute() if given else Path(fasttrack.__file__).absolute().parents[1]
    if not (root / "pipelines" / "training.py").is_file():
        raise ConfigurationError(
            "no pipeline definitions are there.",
            where=str(root / "pipelines"),
            fix=f"Run from a checkout (make setup), or let {ROOT} name one.",
        )
    return root


def training_pipeline(usecase: UseCase) -> Any:
    """The training pipeline of a use case: a KFP graph component that runs locally and compiles.

    Raises:
        ConfigurationError: as for `checkout`, or the definitions can't be imported from there.
    """
    return _room("pipelines.training").training(usecase.name, usecase.gate.rounds)


def component(step: str) -> Any:
    """The KFP component of a step.

    Raises:
        ConfigurationError: as for `training_pipeline`.
    """
    return getattr(_room(f"components.{step}.component"), step)


def _room(name: str) -> Any:
    root = checkout()
    # At the end: a room's name must never hide an installed package.
    if str(root) not in sys.path:
        sys.path.append(str(root))
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"{name} can't be imported: {error}.", where=str(root), fix="Install the extra `pipelines` (make setup)."
        ) from error
    if not Path(module.__file__ or "").is_relative_to(root):
        raise ConfigurationError(
            f"another package called {name.split('.', 1)[0]!r} hides ours.",
            where=str(module.__file__),
            fix="Remove it from this Python's path.",
        )
    return module
