"""Signatures of webhooks: HMAC-SHA256 over id, timestamp and body, as Standard Webhooks 1.0.0 has it."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fasttrack.errors import AuthenticationError, ConfigurationError

#: How far a request's timestamp may be from now.
TOLERANCE_SECONDS: Final = 300
_PREFIX: Final = "whsec_"
_LEAST_BYTES: Final = 24
# No dots: `a.1` with timestamp 2 would be signed as `a` with timestamp 1 and a body that begins with `2.`.
_ID: Final = re.compile(r"[!-\-/-~]{1,256}")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
_FIX: Final = "Sign as Standard Webhooks says."


@dataclass(frozen=True, slots=True)
class Envelope:
    """What the headers of a webhook say.

    Attributes:
        id: ``webhook-id``: the same whenever the same message is sent again.
        timestamp: ``webhook-timestamp``: Unix seconds of this attempt, as it was written.
        signatures: the ``v1`` ones of ``webhook-signature``, in base64.
    """

    id: str
    timestamp: str
    signatures: tuple[str, ...]


def envelope(fields: Mapping[bytes, str], now: float) -> Envelope:
    """Read the headers.

    Args:
        fields: header values by lower-case name.
        now: Unix time.

    Raises:
        AuthenticationError: one is missing or malformed, or the timestamp is more than five minutes from `now`.
    """
    found = {name: fields.get(f"webhook-{name}".encode(), "") for name in ("id", "timestamp", "signature")}
    for name, text in found.items():
        if not text:
            raise _refused("is missing.", name)
    if not _ID.fullmatch(found["id"]):
        raise _refused("is not 1 to 256 printable ASCII characters without blanks and dots.", "id")
    if not _TIMESTAMP.fullmatch(found["timestamp"]):
        raise _refused("is not a whole number of Unix seconds.", "timestamp")
    if abs(now - int(found["timestamp"])) > TOLERANCE_SECONDS:
        raise _refused("is more than five minutes from now.", "timestamp")
    parts = [each.partition(",") for each in found["signature"].split(" ")]
    signatures = tuple(text for version, _, text in parts if version == "v1" and text)
    if not signatures:
        raise _refused("has no signature of version v1.", "signature")
    return Envelope(found["id"], found["timestamp"], signatures)


def _refused(what: str, name: str) -> AuthenticationError:
    return AuthenticationError(f"webhook-{name} {what}", where=f"header webhook-{name}", fix=_FIX)


def secrets(text: str) -> tuple[bytes, ...]:
    """The secrets in a variable: base64, with or without ``whsec_``; several (while they are changed) with blanks.

    Raises:
        ConfigurationError: one is not base64, or shorter than 24 bytes.
    """
    found = []
    for word in text.split():
        encoded = word.removeprefix(_PREFIX).rstrip("=")
        try:
            secret = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ConfigurationError("is not base64.", fix=f"Give {_PREFIX} and base64.") from error
        if len(secret) < _LEAST_BYTES:
            raise ConfigurationError("is too short.", fix=f"Give at least {_LEAST_BYTES} random bytes.")
        found.append(secret)
    return tuple(found)


def signature(secret: bytes, id: str, timestamp: str, body: bytes) -> str:
    """The signature in base64, without its version."""
    code = hmac.new(secret, f"{id}.{timestamp}.".encode(), hashlib.sha256)
    code.update(body)
    return b64encode(code.digest()).decode()


def verified(given: Envelope, body: bytes, keys: Sequence[bytes]) -> bool:
    """Whether one of the signatures is of one of the keys; takes as long for any of them, and for none."""
    good = False
    for key in keys:
        expected = signature(key, given.id, given.timestamp, body).encode()
        for text in given.signatures:
            good |= hmac.compare_digest(expected, text.encode("latin-1"))
    return good
