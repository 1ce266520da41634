"""A program that does one thing with the registry and ends, as a Job's pod does."""

from __future__ import annotations

import sys
from collections.abc import Callable

from fasttrack.errors import FastTrackError
from fasttrack.registry.store import Registry
from fasttrack.settings import Settings


def run(work: Callable[[Settings, Registry], str]) -> int:
    """Do `work` with the registry of FASTTRACK_POSTGRES and print what it says; gives the exit status."""
    try:
        settings = Settings.from_environment()
        registry = Registry(settings.require("postgres"))
        try:
            said = work(settings, registry)
        finally:
            registry.close()
    except FastTrackError as error:
        print(f"{error.title}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    print(said, flush=True)
    return 0
