"""Seals the audit log of a running platform every minute, and once more at its end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from fasttrack.errors import FastTrackError
from fasttrack.progress import note
from fasttrack.registry.keys import load_private
from fasttrack.registry.store import Registry

EVERY_SECONDS: Final = 60.0


class Sealer:
    """A thread that signs checkpoints of the audit log.

    Args:
        dsn: of the registry.
        key: path of the private key that signs (PEM).
        every: seconds between two looks.
    """

    def __init__(self, dsn: str, key: Path, every: float = EVERY_SECONDS) -> None:
        self._registry = Registry(dsn, pool_size=1, patience=1.0)
        self._key = load_private(key.read_bytes(), "FASTTRACK_AUDIT_KEY")
        self._every = every
        self._end = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="sealer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Seal what waits, and end; the database must still be up."""
        self._end.set()
        self._thread.join()
        self._seal()
        self._registry.close()

    def _run(self) -> None:
        while not self._end.wait(self._every):
            self._seal()

    def _seal(self) -> None:
        try:
            self._registry.seal_audit(self._key)
            self._failed = False
        except FastTrackError as error:
            # What waits is sealed when the database is back; one line tells that it is away.
            if not self._failed:
                note(f"The audit log could not be sealed: {error}")
            self._failed = True
