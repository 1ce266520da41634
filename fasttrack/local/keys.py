"""The key pair that signs and verifies model packages of a local home."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fasttrack.errors import IntegrityError
from fasttrack.local.part import make_folder


def ensure(folder: Path) -> tuple[Path, Path]:
    """Make the Ed25519 key pair the first time.

    Args:
        folder: where the two PEM files lie; only its owner may enter.

    Returns:
        The private key's path (mode 0600) and the public key's.

    Raises:
        IntegrityError: the private key is damaged.
        StorageError: the disk refuses.
    """
    signing, verify = make_folder(folder) / "package-signing.pem", folder / "package-verify.pem"
    if not signing.exists():
        text = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(signing, text, 0o600)
    if not verify.exists():
        try:
            key = load_pem_private_key(signing.read_bytes(), password=None)
        except ValueError as error:
            raise IntegrityError(
                "the signing key is damaged.",
                where=str(signing),
                fix="Remove it: a new pair is made, and packages must be signed anew.",
            ) from error
        _write(verify, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return signing, verify


def _write(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
    temporary.replace(path)
