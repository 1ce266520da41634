"""Bring the registry's tables up to date and end: what the migrations Job runs before a new version starts."""

from __future__ import annotations

import sys

from fasttrack.errors import FastTrackError
from fasttrack.registry.store import Registry
from fasttrack.settings import Settings


def main() -> int:
    """Apply what is new in the database of FASTTRACK_POSTGRES; gives the exit status."""
    try:
        registry = Registry(Settings.from_environment().require("postgres"))
        try:
            applied = registry.migrate()
        finally:
            registry.close()
    except FastTrackError as error:
        print(f"{error.title}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    print(f"applied: {', '.join(applied)}" if applied else "the tables are up to date", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
