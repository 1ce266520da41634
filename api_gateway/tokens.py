"""Bearer tokens: JSON Web Tokens verified by the rules of RFC 8725."""

from __future__ import annotations

import binascii
import hashlib
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError

from api_gateway.keys import ALGORITHMS, KeyStore, VerifyKey
from api_gateway.strict_json import parse
from fasttrack.errors import AuthenticationError, InvalidRequestError

_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]+)")
_TYPES: Final = {"jwt", "at+jwt", "application/at+jwt"}
_REQUIRED: Final = ("exp", "iat", "iss", "aud", "sub")
_CACHED_TOKENS: Final = 8192
_JWS: Final = PyJWS(algorithms=sorted({name for names in ALGORITHMS.values() for name in names}))
_RENEW: Final = "Get a new token."


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: the verified claims that the gateway uses.

    Attributes:
        subject: ``sub``.
        tenant: ``tenant``, ``-`` where the token has none.
        roles: ``roles``.
        expires: ``exp``, seconds since the epoch.
        identity: tenant and subject in one string, for rate limits.
    """

    subject: str
    tenant: str
    roles: frozenset[str]
    expires: float
    identity: str


def token_header(token: str) -> dict[str, Any]:
    """The protected header of a compact JWS, strictly read.

    Raises:
        AuthenticationError: it is not three canonical base64url parts, or the header isn't a JSON object.
    """
    match = _COMPACT.fullmatch(token)
    if match is None:
        raise AuthenticationError("the token is not a signed JSON Web Token.", fix=_RENEW)
    parts = [_decoded(part) for part in match.groups()]
    try:
        header = parse(parts[0], depth=4)
    except InvalidRequestError as error:
        raise AuthenticationError("the token's header is not JSON.", fix=_RENEW) from error
    if not isinstance(header, dict):
        raise AuthenticationError("the token's header is not a JSON object.", fix=_RENEW)
    # An extension that must be understood and isn't; b64=false would change what is signed.
    if "crit" in header or "b64" in header:
        raise AuthenticationError("the token needs an extension that is not supported.", fix=_RENEW)
    return header


def verify_signature(token: str, keys: Mapping[str, VerifyKey]) -> bytes:
    """The payload of a compact JWS whose signature one of `keys` verifies.

    The header's ``jwk``, ``jku``, ``x5u`` and ``x5c`` are never looked at, and its ``alg`` must be the key's own.

    Raises:
        AuthenticationError: for every other token.
    """
    header = token_header(token)
    kid = header.get("kid")
    key = (
        keys.get(kid)
        if isinstance(kid, str)
        else next(iter(keys.values()), None)
        if kid is None and len(keys) == 1
        else None
    )
    if key is None:
        raise AuthenticationError("the token is signed with a key that the issuer doesn't publish.", fix=_RENEW)
    return _verified(token, header, key)


def _verified(token: str, header: Mapping[str, Any], key: VerifyKey) -> bytes:
    if header.get("alg") != key.algorithm:
        raise AuthenticationError("the token's algorithm is not the one of its key.", fix=_RENEW)
    try:
        payload = _JWS.decode(token, key.key, algorithms=[key.algorithm])
    except (PyJWTError, ValueError, TypeError) as error:
        raise AuthenticationError("the token's signature is wrong.", fix=_RENEW) from error
    return bytes(payload)


def _decoded(part: str) -> bytes:
    try:
        content = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError) as error:
        raise AuthenticationError("the token is not base64url.", fix=_RENEW) from error
    # Bits that decoders drop would give one token many spellings.
    if urlsafe_b64encode(content).rstrip(b"=") != part.encode():
        raise AuthenticationError("the token is not canonical base64url.", fix=_RENEW)
    return content


class TokenVerifier:
    """Verifies bearer tokens, and remembers the good ones by digest until they expire or their key goes.

    Args:
        keys: the issuer's keys.
        issuer: the only accepted ``iss``.
        audience: must be among ``aud``.
        skew: tolerance in seconds on ``exp``, ``nbf`` and ``iat``; at most 60.
        max_bytes: longest token.
    """

    def __init__(self, keys: KeyStore, *, issuer: str, audience: str, skew: float, max_bytes: int) -> None:
        self.keys = keys
        self._issuer = issuer
        self._audience = audience
        self._skew = min(skew, 60.0)
        self._max_bytes = max_bytes
        self._known: OrderedDict[bytes, Principal] = OrderedDict()
        self._generation = keys.generation

    async def verify(self, authorization: str | None) -> Principal:
        """The bearer of an ``Authorization`` header.

        Raises:
            AuthenticationError: no token, or one that must not be accepted; the reason names the rule.
            UnavailableError: the issuer's keys could never be read.
        """
        token = self._bearer(authorization)
        digest = hashlib.sha256(token.encode("latin-1")).digest()
        if self._generation != self.keys.generation:
            self._known.clear()
            self._generation = self.keys.generation
        principal = self._known.get(digest)
        if principal is None:
            principal = await self._verify_new(token)
            self._known[digest] = principal
            if len(self._known) > _CACHED_TOKENS:
                self._known.popitem(last=False)
        elif principal.expires + self._skew <= time.time():
            del self._known[digest]
            raise AuthenticationError("the token has expired.", fix=_RENEW)
        return principal

    def _bearer(self, authorization: str | None) -> str:
        if not authorization:
            raise AuthenticationError(
                "there is no bearer token.", where="header Authorization", fix="Send `Authorization: Bearer <token>`."
            )
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise AuthenticationError(
                "the scheme is not Bearer.", where="header Authorization", fix="Send `Bearer <token>`."
            )
        if len(token) > self._max_bytes:
            raise AuthenticationError(f"the token is longer than {self._max_bytes} bytes.", fix="Get a smaller token.")
        return token

    async def _verify_new(self, token: str) -> Principal:
        header = token_header(token)
        kind = header.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise AuthenticationError("the token is of a type that is not accepted here.", fix="Send an access token.")
        kid = header.get("kid")
        if kid is not None and not (isinstance(kid, str) and len(kid) <= 256):
            raise AuthenticationError("the token's key id is not a short string.", fix=_RENEW)
        payload = _verified(token, header, await self.keys.find(kid))
        try:
            claims = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            raise AuthenticationError("the token's claims are not JSON.", fix=_RENEW) from error
        if not isinstance(claims, dict):
            raise AuthenticationError("the token's claims are not a JSON object.", fix=_RENEW)
        return self._principal(claims)

    def _principal(self, claims: dict[str, Any]) -> Principal:
        if missing := [name for name in _REQUIRED if name not in claims]:
            raise AuthenticationError(f"the token lacks the claim {missing[0]}.", fix="Have the issuer add it.")
        self._check_times(claims)
        if claims["iss"] != self._issuer or not self._issuer:
            raise AuthenticationError(
                "the token was made by another issuer.", fix="Get a token from the issuer of this gateway."
            )
        audience = claims["aud"]
        if self._audience not in (
            [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
        ):
            raise AuthenticationError(
                "the token is meant for another audience.", fix="Ask the issuer for this audience."
            )
        subject, tenant = _name(claims, "sub"), _name(claims, "tenant", "-")
        roles = claims.get("roles", [])
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            raise AuthenticationError("the claim roles is not a list of strings.", fix="Have the issuer correct it.")
        identity = hashlib.sha256(orjson.dumps([tenant, subject])).hexdigest()[:32]
        return Principal(subject, tenant, frozenset(roles), float(claims["exp"]), identity)

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now = time.time()
        for name in ("exp", "iat", "nbf"):
            value = claims.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise AuthenticationError(f"the claim {name} is not a number.", fix="Have the issuer correct it.")
        if claims["exp"] + self._skew <= now:
            raise AuthenticationError("the token has expired.", fix=_RENEW)
        if max(claims["iat"], claims.get("nbf", 0)) > now + self._skew:
            raise AuthenticationError("the token is not valid yet.", fix="Check the clocks of issuer and gateway.")


def _name(claims: Mapping[str, Any], claim: str, default: str = "") -> str:
    value = claims.get(claim, default)
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        raise AuthenticationError(
            f"the claim {claim} is not a short printable string.", fix="Have the issuer correct it."
        )
    return value
