"""Put the audit rows that wait into the log's Merkle tree and print the signed checkpoint: what the CronJob runs.

What is printed is the part to keep where nobody who can write to the database can: the log collector does it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fasttrack.errors import ConfigurationError, FastTrackError
from fasttrack.registry.keys import load_private
from fasttrack.registry.store import Registry
from fasttrack.settings import Settings


def main() -> int:
    """Seal the log in the database of FASTTRACK_POSTGRES with FASTTRACK_AUDIT_KEY; gives the exit status."""
    settings = Settings.from_environment()
    try:
        path = Path(settings.require("audit_key"))
        try:
            key = load_private(path.read_bytes(), "FASTTRACK_AUDIT_KEY")
        except OSError as error:
            raise ConfigurationError(f"the key can't be read: {error.strerror}.", where=str(path)) from error
        registry = Registry(settings.require("postgres"))
        try:
            made = registry.seal_audit(key)
            note = registry.audit_note()
        finally:
            registry.close()
    except FastTrackError as error:
        print(f"{error.title}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    print(note if made is not None else "no row waits", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
