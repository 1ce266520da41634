"""What a model came from: data, code, seed and search space."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import fasttrack
from fasttrack.registry.records import Lineage
from fasttrack.usecase import UseCase, dump

#: The commit that an image was built from; a checkout is asked itself.
COMMIT = "FASTTRACK_COMMIT"


def trace(usecase: UseCase, lake_versions: dict[str, int], offsets: dict[str, list[tuple[int, int]]]) -> Lineage:
    """The lineage of a model of this run, without a parent.

    Args:
        usecase: the use case.
        lake_versions: the Delta version of each stream's table that the features were built from.
        offsets: ``[earliest, end)`` of each partition that the lake was compared with, by topic.
    """
    ends = {topic: {str(number): span[1] for number, span in enumerate(spans)} for topic, spans in offsets.items()}
    search: dict[str, Any] = {candidate.architecture: dump(candidate).get("search", {}) for candidate in usecase.models}
    return Lineage(
        lake_versions=lake_versions,
        kafka_offsets=ends,
        code_commit=code_commit(),
        seed=usecase.training.seed,
        search_space=search,
    )


def code_commit() -> str:
    """The commit of the code that runs: of the image, else of the checkout, else the released version."""
    if given := os.environ.get(COMMIT):
        return given
    root = Path(fasttrack.__file__).parents[1]
    if (root / ".git").exists():
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=30
        )
        if done.returncode == 0:
            return done.stdout.strip()
    return f"v{fasttrack.__version__}"
