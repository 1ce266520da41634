"""Signed checkpoints of the audit log: a tree's size and root as a text that anybody can keep and check.

The text is a checkpoint of a transparency log in a signed note (C2SP: tlog-checkpoint, signed-note), signed with
Ed25519: origin, size, root in base64, an extension line with the moment, an empty line, the signature.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fasttrack.errors import IntegrityError
from fasttrack.registry.merkle import HASH_BYTES

ORIGIN = "fasttrack/audit"
_DASH, _ED25519, _KEY_HASH_BYTES = "\u2014", b"\x01", 4


@dataclass(frozen=True)
class Checkpoint:
    """The audit log at some time.

    Attributes:
        size: how many rows were sealed.
        root: the root of their tree, 32 bytes.
        at: when it was signed (UTC).
    """

    size: int
    root: bytes
    at: datetime

    def _text(self) -> str:
        return f"{ORIGIN}\n{self.size}\n{base64.b64encode(self.root).decode()}\nat {self.at.isoformat()}\n"

    def signed(self, key: Ed25519PrivateKey) -> str:
        """The checkpoint as a signed note."""
        text = self._text()
        signature = base64.b64encode(_key_hash(key.public_key()) + key.sign(text.encode())).decode()
        return f"{text}\n{_DASH} {ORIGIN} {signature}\n"


def opened(note: str, key: Ed25519PublicKey) -> Checkpoint:
    """Read a signed note.

    Raises:
        IntegrityError: it is no checkpoint of an audit log, or was not signed with this key.
    """
    text, blank, signatures = note.partition("\n\n")
    text += "\n"
    if not blank or not any(_signed(text, line, key) for line in signatures.splitlines()):
        raise IntegrityError(
            "the checkpoint was not signed with the audit log's key, or was changed since.",
            fix="Is FASTTRACK_AUDIT_VERIFY_KEY that of the log's signer? If so, the checkpoint is forged.",
        )
    lines = text.splitlines()
    try:
        origin, size, root, at = lines
        found = Checkpoint(int(size), base64.b64decode(root, validate=True), datetime.fromisoformat(at[3:]))
    except ValueError as error:
        raise IntegrityError(f"the checkpoint can't be read: {error}.") from error
    if origin != ORIGIN or len(found.root) != HASH_BYTES or found._text() != text:
        raise IntegrityError("the text is signed, but is no checkpoint of an audit log.")
    return found


def _signed(text: str, line: str, key: Ed25519PublicKey) -> bool:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError:
        return False
    if (dash, name, blob[:_KEY_HASH_BYTES]) != (_DASH, ORIGIN, _key_hash(key)):
        return False
    try:
        key.verify(blob[_KEY_HASH_BYTES:], text.encode())
    except InvalidSignature:
        return False
    return True


def _key_hash(key: Ed25519PublicKey) -> bytes:
    return hashlib.sha256(ORIGIN.encode() + b"\n" + _ED25519 + key.public_bytes_raw()).digest()[:_KEY_HASH_BYTES]
