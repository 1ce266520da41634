"""The keys that sign and verify packages and the audit log, read from where the settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fasttrack.errors import ConfigurationError
from fasttrack.settings import PREFIX, Settings


def read_key(settings: Settings, name: Literal["signing_key", "verify_key", "audit_key", "audit_verify_key"]) -> bytes:
    """The PEM text of a key.

    Raises:
        ConfigurationError: it isn't set, or can't be read.
    """
    path = Path(settings.require(name))
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"the key can't be read: {error.strerror}.", where=str(path), fix=f"Set {PREFIX}{name.upper()}."
        ) from error
