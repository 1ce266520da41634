"""Homes of local platforms that leave nothing behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fasttrack.local import control
from fasttrack.local.platform import Platform


@contextmanager
def new_home() -> Iterator[Path]:
    """An empty home; its platform is stopped and all that it keeps is removed at the end."""
    # Not pytest's folder: as root, PostgreSQL's account may not pass through it.
    home = Path(tempfile.mkdtemp(prefix="fasttrack-test-"))
    try:
        yield home
    finally:
        control.down(home, wipe=True)


@contextmanager
def running_platform(parts: Sequence[str]) -> Iterator[Platform]:
    """A platform of these parts, in a new home."""
    with new_home() as home:
        platform = Platform(home)
        try:
            platform.start(parts)
            yield platform
        finally:
            platform.stop()
