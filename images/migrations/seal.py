"""Put the audit rows that wait into the log's Merkle tree and print the signed checkpoint: what the CronJob runs.

What is printed is the part to keep where nobody who can write to the database can: the log collector does it.
"""

from __future__ import annotations

import sys

from fasttrack.registry.job import run
from fasttrack.registry.keys import load_private
from fasttrack.registry.store import Registry
from fasttrack.settings import Settings
from fasttrack.steps.keys import read_key


def seal(settings: Settings, registry: Registry) -> str:
    """Seal the log with FASTTRACK_AUDIT_KEY."""
    key = load_private(read_key(settings, "audit_key"), "FASTTRACK_AUDIT_KEY")
    if registry.seal_audit(key) is None:
        return "no row waits"
    return (registry.audit_note() or "").rstrip("\n")


if __name__ == "__main__":
    sys.exit(run(seal))
