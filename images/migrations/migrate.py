"""Bring the registry's tables up to date and end: what the migrations Job runs before a new version starts."""

from __future__ import annotations

import sys

from fasttrack.registry.job import run
from fasttrack.registry.store import Registry
from fasttrack.settings import Settings


def migrate(_: Settings, registry: Registry) -> str:
    """Apply what is new."""
    applied = registry.migrate()
    return f"applied: {', '.join(applied)}" if applied else "the tables are up to date"


if __name__ == "__main__":
    sys.exit(run(migrate))
