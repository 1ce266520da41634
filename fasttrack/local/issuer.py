"""A token issuer for development: its keys, its JSON Web Key Set, and tokens signed with ES256 (RFC 7519, 7517, 7518).

Under ``<home>/keys``: ``token-signing.pem`` (the private key, mode 0600), ``jwks.json`` (public keys, the signing
one first) and ``issuer`` (the ``iss`` of this platform's tokens). On a cluster a real issuer takes its place.
"""

from __future__ import annotations

import fcntl
import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fasttrack.errors import ConfigurationError, InvalidRequestError, StorageError
from fasttrack.registry.keys import create_once

ALGORITHM: Final = "ES256"
LONGEST: Final = timedelta(days=30)
_KEY: Final = "token-signing.pem"
_JWKS: Final = "jwks.json"
_ISSUER: Final = "issuer"


def ensure(home: Path) -> tuple[Path, str]:
    """The path of the platform's key set and its issuer; keys and issuer are made at the first call.

    Raises:
        StorageError: the folder can't be written.
        ConfigurationError: what is there can't be used.
    """
    with _locked(home) as folder:
        create_once(folder / _KEY, _new_pem(), 0o600)
        create_once(folder / _ISSUER, f"https://fasttrack.local/{uuid4()}".encode(), 0o644)
        jwk = _public_jwk(_read_key(folder))
        known = _read_jwks(folder)
        # Also mends a rotation that was cut off, and a key set that somebody deleted.
        if not known or known[0] != jwk:
            _write_jwks(folder, [jwk, *(each for each in known if each["kid"] != jwk["kid"])])
        return folder / _JWKS, _read_issuer(folder)


def rotate(home: Path, *, keep: int = 1) -> str:
    """Sign with a new key from now on and return its key id; tokens of the `keep` keys before it stay valid.

    ``keep=0`` makes every token that was minted so far invalid, once verifiers have read the key set again.

    Raises:
        StorageError, ConfigurationError: as for `ensure`.
    """
    ensure(home)
    with _locked(home) as folder:
        pem = _new_pem()
        jwk = _public_jwk(_parse_key(pem, folder))
        # Published before it is used: whoever sees a token of the new key can find that key.
        _write_jwks(folder, [jwk, *_read_jwks(folder)[:keep]])
        _replace(folder / _KEY, pem, 0o600)
        return str(jwk["kid"])


def mint(
    home: Path,
    *,
    subject: str,
    roles: Sequence[str],
    tenant: str = "default",
    ttl: timedelta = timedelta(hours=1),
    audience: str,
) -> str:
    """A signed token that says who the bearer is and which roles it has.

    Args:
        home: the platform's data folder.
        subject: becomes ``sub``.
        roles: role names of the use case.
        tenant: whose data and cache the bearer uses.
        ttl: how long it is valid, at most `LONGEST`.
        audience: becomes ``aud``, such as `Settings.audience`.

    Raises:
        InvalidRequestError: an argument is empty, or `ttl` is not positive or too long.
        StorageError, ConfigurationError: as for `ensure`.
    """
    _check(subject, roles, tenant, ttl, audience)
    _, issuer = ensure(home)
    with _locked(home) as folder:
        key = _read_key(folder)
    now = datetime.now(UTC)
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "roles": list(roles),
        "tenant": tenant,
        "iat": now,
        "nbf": now,
        "exp": now + ttl,
        "jti": uuid4().hex,
    }
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": _public_jwk(key)["kid"]})


def _check(subject: str, roles: Sequence[str], tenant: str, ttl: timedelta, audience: str) -> None:
    for text, what in ((subject, "subject"), (tenant, "tenant"), (audience, "audience")):
        if not text.strip():
            raise InvalidRequestError(f"the token's {what} is empty.", where=what, fix=f"Give a {what}.")
    if isinstance(roles, str) or not roles or not all(isinstance(role, str) and role.strip() for role in roles):
        raise InvalidRequestError(
            "a token needs at least one role.", where="roles", fix="Give role names of the use case, as a list."
        )
    # `exp` counts whole seconds: anything shorter would be expired when it is issued.
    if not timedelta(seconds=1) <= ttl <= LONGEST:
        raise InvalidRequestError(
            f"a token can't be valid for {ttl}.", where="ttl", fix=f"Use one second to {LONGEST.days} days."
        )


@contextmanager
def _locked(home: Path) -> Iterator[Path]:
    """The folder of keys, which no other process changes meanwhile; OSErrors become StorageError."""
    folder = home / "keys"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    except OSError as error:
        raise StorageError(
            f"the token issuer's keys can't be read or written: {error.strerror or error}.",
            where=str(folder),
            fix="Free disk space, or make the folder writable for this user.",
        ) from error


def _new_pem() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_key(folder: Path) -> ec.EllipticCurvePrivateKey:
    return _parse_key((folder / _KEY).read_bytes(), folder)


def _parse_key(pem: bytes, folder: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(folder / _KEY, str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _unusable(folder / _KEY, "it is not a P-256 key")
    return key


def _public_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    """The public key as a JWK; its ``kid`` is its thumbprint (RFC 7638), so equal keys have equal ids."""
    numbers = key.public_key().public_numbers()
    members = {
        "crv": "P-256",
        "kty": "EC",
        "x": _base64url(numbers.x.to_bytes(32, "big")),
        "y": _base64url(numbers.y.to_bytes(32, "big")),
    }
    thumbprint = hashlib.sha256(orjson.dumps(members, option=orjson.OPT_SORT_KEYS)).digest()
    return {**members, "kid": _base64url(thumbprint), "use": "sig", "alg": ALGORITHM}


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _read_jwks(folder: Path) -> list[dict[str, Any]]:
    """The published keys, newest first; none if there is no key set yet."""
    path = folder / _JWKS
    try:
        keys = orjson.loads(path.read_bytes())["keys"]
        return [dict(key) for key in keys if isinstance(key["kid"], str)]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(path, "it is not a JSON Web Key Set") from error


def _read_issuer(folder: Path) -> str:
    try:
        issuer = (folder / _ISSUER).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        issuer = ""
    if "://" not in issuer:
        raise _unusable(folder / _ISSUER, "it holds no URI")
    return issuer


def _write_jwks(folder: Path, keys: list[dict[str, Any]]) -> None:
    _replace(folder / _JWKS, orjson.dumps({"keys": keys}, option=orjson.OPT_INDENT_2), 0o644)


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Replace a file whole: a reader sees the old one or the new one. The caller holds the folder's lock."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        create_once(temporary, content, mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _unusable(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"can't be used: {reason.rstrip('.')}.",
        where=str(path),
        fix="Delete this file and run the command again; it is made anew, and older tokens become invalid.",
    )
