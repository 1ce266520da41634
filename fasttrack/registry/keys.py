"""Ed25519 keys that sign model packages and the audit log (RFC 8032), as PEM."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fasttrack.errors import ConfigurationError, StorageError

PRIVATE_NAME = "package-signing.pem"
PUBLIC_NAME = "package-verify.pem"


def new_key_pair() -> tuple[bytes, bytes]:
    """A fresh key pair: the private key (PKCS 8 PEM, not encrypted) and the public key (SubjectPublicKeyInfo PEM)."""
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, public_pem(private.public_key())


def public_pem(key: Ed25519PublicKey) -> bytes:
    """The public key as SubjectPublicKeyInfo PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_private(pem: bytes, setting: str = "FASTTRACK_SIGNING_KEY") -> Ed25519PrivateKey:
    """Read a private key.

    Args:
        pem: the key.
        setting: what names it, for messages.

    Raises:
        ConfigurationError: it is not an unencrypted Ed25519 private key in PEM.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable("private", setting, str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _unusable("private", setting, "it is a key of another algorithm")
    return key


def load_public(pem: bytes, setting: str = "FASTTRACK_VERIFY_KEY") -> Ed25519PublicKey:
    """Read a public key; the arguments are as for `load_private`.

    Raises:
        ConfigurationError: it is not an Ed25519 public key in PEM.
    """
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable("public", setting, str(error)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _unusable("public", setting, "it is a key of another algorithm")
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """A short name for a public key: the first 16 hex digits of the SHA-256 of its 32 raw bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def ensure(folder: Path) -> tuple[Path, Path]:
    """The paths of a folder's private and public key; the pair is made at the first call.

    Two processes may call this at once: both get the pair of whichever was first.

    Raises:
        StorageError: the folder can't be written.
        ConfigurationError: the key that is there can't be used.
    """
    private, public = folder / PRIVATE_NAME, folder / PUBLIC_NAME
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_once(private, new_key_pair()[0], 0o600)
        # The public half is always derived from the private one: the two can't come from different writers.
        derived = public_pem(load_private(private.read_bytes()).public_key())
        create_once(public, derived, 0o644)
        if public.read_bytes() != derived:
            raise ConfigurationError(
                "the public key does not belong to the private key beside it.",
                where=str(public),
                fix=f"Delete {PUBLIC_NAME} and start again; it is made anew from {PRIVATE_NAME}.",
            )
    except OSError as error:
        raise StorageError(
            f"the signing keys can't be written: {error.strerror}.",
            where=str(folder),
            fix="Free disk space, or make the folder writable for this user.",
        ) from error
    return private, public


def create_once(path: Path, content: bytes, mode: int) -> None:
    """Create a file whole, with `mode`, unless it exists; a reader never sees a part of it.

    Raises:
        OSError: the disk refused it; nothing is left behind.
    """
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # link(2) fails if the name exists, where rename(2) would replace another process's key.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink(missing_ok=True)


def _unusable(kind: str, setting: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"the {kind} key can't be used: {reason.rstrip('.')}.",
        where=setting,
        fix=f"Point {setting} at an Ed25519 {kind} key in PEM, not encrypted.",
    )
