"""The token issuer's public keys: JSON Web Keys, each with its one fixed algorithm (RFC 8725, 3.1)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import jwt
import orjson
from jwt.exceptions import PyJWTError

from api_gateway.observability import log
from fasttrack.errors import AuthenticationError, UnavailableError

#: (kty, crv) -> the algorithms that such a key may declare; the first is meant where it declares none.
ALGORITHMS: Final[Mapping[tuple[str, str | None], tuple[str, ...]]] = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
}
_MAX_BYTES: Final = 262_144
_MIN_RSA_BITS: Final = 2048
_UNKNOWN_SECONDS: Final = 30.0
_UNKNOWN_KEPT: Final = 1024
_FINGERPRINT_PRIMES: Final = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)


@dataclass(frozen=True)
class VerifyKey:
    """A public key and the only algorithm that it verifies."""

    kid: str
    algorithm: str
    key: Any


def parse_keys(document: Any) -> dict[str, VerifyKey]:
    """The usable keys of a JSON Web Key Set, by key id.

    Symmetric keys, keys for encryption, weak keys and key ids that occur twice are left out: a token that
    names one is refused.
    """
    entries = document.get("keys") if isinstance(document, dict) else None
    found: dict[str, VerifyKey] = {}
    seen: set[str] = set()
    for entry in entries if isinstance(entries, list) else []:
        kid = entry.get("kid", "") if isinstance(entry, dict) else None
        if not isinstance(kid, str):
            continue
        if kid in seen:
            found.pop(kid, None)
            continue
        seen.add(kid)
        if (key := _usable(kid, entry)) is not None:
            found[kid] = key
    return found


def _usable(kid: str, entry: Mapping[str, Any]) -> VerifyKey | None:
    kty = entry.get("kty")
    allowed = ALGORITHMS.get((str(kty), entry.get("crv") if kty != "RSA" else None), ())
    algorithm = entry.get("alg", allowed[0] if allowed else None)
    operations = entry.get("key_ops", ["verify"])
    if algorithm not in allowed or entry.get("use", "sig") != "sig" or "verify" not in operations or "d" in entry:
        return None
    try:
        key = jwt.PyJWK(dict(entry), algorithm=algorithm).key
    except (PyJWTError, ValueError, TypeError) as error:
        log("warning", "a key of the token issuer can't be used", kid=kid[:64], reason=type(error).__name__)
        return None
    if kty == "RSA" and not _strong(key.public_numbers().n, key.public_numbers().e):
        log("warning", "an RSA key of the token issuer is too weak", kid=kid[:64])
        return None
    return VerifyKey(kid, algorithm, key)


def _strong(modulus: int, exponent: int) -> bool:
    """At least 2048 bits, a sound exponent, and not made by the library of CVE-2017-15361 (ROCA).

    ROCA primes are powers of 65537 modulo small primes; seventeen primes tell such a modulus from others.
    """
    if modulus.bit_length() < _MIN_RSA_BITS or exponent < 65537 or exponent % 2 == 0:
        return False
    return not all(
        modulus % prime in {pow(65537, power, prime) for power in range(prime)} for prime in _FINGERPRINT_PRIMES
    )


class KeyStore:
    """The current keys, read from a file or URL; one reader at a time, unknown key ids remembered.

    Args:
        source: path or ``http(s)`` URL of the JSON Web Key Set, or of the issuer's OpenID configuration, which says
            where that is (OpenID Connect Discovery 1.0).
        issuer: whose configuration it must be.
        refresh_seconds: the keys are read again this often.
        cooldown_seconds: an unknown key id makes them be read at once, but not more often than this.
    """

    def __init__(self, source: str, *, refresh_seconds: float, cooldown_seconds: float, issuer: str = "") -> None:
        self.source = source
        self._issuer = issuer
        self.keys: dict[str, VerifyKey] = {}
        #: Counts changes of the set, so that what was verified with a withdrawn key can be forgotten.
        self.generation = 0
        self.reads = 0
        self._refresh_seconds = refresh_seconds
        self._cooldown_seconds = cooldown_seconds
        self._read_at = float("-inf")
        self._unknown: dict[str, float] = {}
        self._reading: asyncio.Task[None] | None = None
        self._digest = b""

    async def find(self, kid: str | None) -> VerifyKey:
        """The key called `kid`; without a name, the only key there is.

        Raises:
            AuthenticationError: there is no such key, also after reading the set again.
            UnavailableError: no key set could be read yet.
        """
        now = time.monotonic()
        if now - self._read_at > self._refresh_seconds:
            await self.refresh()
        key = self._lookup(kid)
        if key is None and self._may_ask_again(kid or "", now):
            await self.refresh()
            key = self._lookup(kid)
            if key is None:
                self._remember_unknown(kid or "", now)
        if key is not None:
            return key
        if not self.keys:
            raise UnavailableError("the token issuer's keys can't be read.", where="FASTTRACK_JWKS")
        raise AuthenticationError(
            "the token is signed with a key that the issuer doesn't publish.", fix="Get a new token."
        )

    async def refresh(self) -> None:
        """Read the set again; callers that come while it is being read wait for the same read."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    def _lookup(self, kid: str | None) -> VerifyKey | None:
        if kid is None:
            return next(iter(self.keys.values())) if len(self.keys) == 1 else None
        return self.keys.get(kid)

    def _may_ask_again(self, kid: str, now: float) -> bool:
        return now - self._read_at > self._cooldown_seconds and self._unknown.get(kid, 0.0) < now

    def _remember_unknown(self, kid: str, now: float) -> None:
        if len(self._unknown) >= _UNKNOWN_KEPT:
            self._unknown.clear()
        self._unknown[kid] = now + _UNKNOWN_SECONDS

    async def _read(self) -> None:
        self.reads += 1
        try:
            content = await self._fetch(self.source)
            document = orjson.loads(content)
            if isinstance(document, dict) and "jwks_uri" in document and "keys" not in document:
                content = await self._fetch(self._set_of(document))
                document = orjson.loads(content)
            keys = parse_keys(document)
        except (OSError, ValueError, TimeoutError, aiohttp.ClientError) as error:
            log("error", "the token issuer's keys can't be read", source=self.source, reason=type(error).__name__)
        else:
            if keys and content != self._digest:
                # Keys that are withdrawn must go at once; an empty set is a broken issuer, not a decision.
                self.keys, self._digest = keys, content
                self.generation += 1
                self._unknown.clear()
        # A failed read counts too: a broken issuer must not be asked once a request.
        self._read_at = time.monotonic()

    def _set_of(self, configuration: Mapping[str, Any]) -> str:
        """Where an OpenID configuration says that the keys are.

        Raises:
            ValueError: it is another issuer's (Discovery 1.0, 4.3), or points to where anybody could answer.
        """
        uri = configuration["jwks_uri"]
        if configuration.get("issuer") != self._issuer:
            raise ValueError("the configuration is another issuer's")
        if not isinstance(uri, str) or not uri.startswith("https://"):
            # Over plain HTTP only from the same server, as it was reached.
            here, there = urlsplit(self.source), urlsplit(str(uri))
            if (here.scheme, here.netloc) != (there.scheme, there.netloc) or here.scheme != "http":
                raise ValueError("jwks_uri is not https")
        return str(uri)

    async def _fetch(self, source: str) -> bytes:
        if not source.startswith(("http://", "https://")):
            path = source.removeprefix("file://")
            return await asyncio.to_thread(_read_file, Path(path))
        timeout = aiohttp.ClientTimeout(total=3)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(source, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            content = await answer.content.read(_MAX_BYTES + 1)
            while len(content) <= _MAX_BYTES and (more := await answer.content.read(_MAX_BYTES)):
                content += more
            if len(content) > _MAX_BYTES:
                raise ValueError("too large")
            return content


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)
