"""Tokens: everything that RFC 8725 says must be refused, and what must be accepted."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.server
import json
import os
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from api_gateway.keys import KeyStore, parse_keys
from api_gateway.tokens import Principal, TokenVerifier, verify_signature
from fasttrack.errors import AuthenticationError, UnavailableError
from tests.unit.gateway_harness import AUDIENCE, ISSUER, TestIssuer

_DEFAULT = Path(__file__).parents[3] / "shared" / "data" / "wycheproof"
WYCHEPROOF = Path(os.environ.get("WYCHEPROOF_DIR") or _DEFAULT)
#: Without the variable the folder is optional; with it, its absence must fail, not be passed over.
GIVEN = "WYCHEPROOF_DIR" in os.environ or WYCHEPROOF.is_dir()

#: Wycheproof lets a PS256 key verify PS384; RFC 8725 (3.1) doesn't.
ALGORITHM_NOT_OF_THE_KEY = ("sig-346", "sig-350")


@pytest.fixture
def issuer(tmp_path: Path) -> TestIssuer:
    return TestIssuer(tmp_path)


def verifier(source: str, *, cooldown: float = 0.0) -> TokenVerifier:
    keys = KeyStore(source, refresh_seconds=300.0, cooldown_seconds=cooldown)
    return TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, skew=30.0, max_bytes=8192)


def run(work: Coroutine[Any, Any, Principal]) -> Principal:
    return asyncio.run(work)


def verify(issuer: TestIssuer, token: str) -> Principal:
    return run(verifier(str(issuer.path)).verify(f"Bearer {token}"))


def part(value: object) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def test_a_good_token_says_who_asks(issuer: TestIssuer) -> None:
    principal = verify(issuer, issuer.token("a", "b"))
    assert (principal.subject, principal.tenant, principal.roles) == ("alice", "acme", frozenset({"a", "b"}))
    assert verify(issuer, issuer.token(tenant=None)).tenant == "-"
    assert verify(issuer, issuer.token(aud=["other", AUDIENCE])).subject == "alice"
    assert verify(issuer, issuer.token(headers={"typ": "at+jwt"})).subject == "alice"


def now(seconds: float) -> int:
    return int(time.time() + seconds)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": now(-120)}, "expired"),
        ({"exp": now(-31)}, "expired"),
        ({"iat": now(86_400)}, "not valid yet"),
        ({"nbf": now(86_400)}, "not valid yet"),
        ({"aud": "other"}, "another audience"),
        ({"aud": ["other"]}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"iss": "https://evil.test"}, "another issuer"),
        ({"exp": None}, "lacks the claim exp"),
        ({"iat": None}, "lacks the claim iat"),
        ({"iss": None}, "lacks the claim iss"),
        ({"aud": None}, "lacks the claim aud"),
        ({"sub": None}, "lacks the claim sub"),
        ({"sub": ""}, "claim sub"),
        ({"sub": "a\x00b"}, "claim sub"),
        ({"sub": "x" * 300}, "claim sub"),
        ({"tenant": "a\nb"}, "claim tenant"),
        ({"roles": "flights-admin"}, "roles is not a list"),
        ({"roles": [1]}, "roles is not a list"),
        ({"headers": {"typ": "dpop+jwt"}}, "type that is not accepted"),
        ({"headers": {"crit": ["exp"]}}, "extension"),
        ({"headers": {"b64": False}}, "extension"),
        ({"headers": {"kid": "k9"}}, "doesn't publish"),
    ],
)
def test_claims_and_headers_that_are_refused(issuer: TestIssuer, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(AuthenticationError, match=reason):
        verify(issuer, issuer.token("a", **changes))


@pytest.mark.parametrize("value", ["1", True, None, [1], {}])
@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
def test_times_that_are_no_numbers_are_refused(issuer: TestIssuer, claim: str, value: object) -> None:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now(0), "exp": now(60), claim: value}
    token = jwt.PyJWS().encode(json.dumps(claims).encode(), issuer.keys["k1"], "ES256", headers={"kid": "k1"})
    with pytest.raises(AuthenticationError, match=f"claim {claim} is not a number"):
        verify(issuer, token)


def test_forged_tokens_are_refused(issuer: TestIssuer) -> None:
    good = issuer.token("a")
    head, body, signature = good.split(".")
    public = issuer.keys["k1"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    confused = f"{part({'alg': 'HS256', 'kid': 'k1', 'typ': 'JWT'})}.{body}"
    mac = base64.urlsafe_b64encode(hmac.new(pem, confused.encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
    stranger = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(stranger.public_key()))
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    other_claims = part({**claims, "roles": ["flights-admin"]})
    twice = part(b'{"alg":"ES256","kid":"k1","alg":"none"}')
    forged = {
        "none": f"{part({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        "none with signature": f"{part({'alg': 'none', 'kid': 'k1'})}.{body}.{signature}",
        "public key as secret": f"{confused}.{mac}",
        "other claims": f"{head}.{other_claims}.{signature}",
        "embedded key": jwt.encode(claims, stranger, "ES256", headers={"kid": "k1", "jwk": jwk}),
        "key from elsewhere": jwt.encode(claims, stranger, "ES256", headers={"kid": "k1", "jku": "http://evil.test/"}),
        "certificate": jwt.encode(claims, stranger, "ES256", headers={"kid": "k1", "x5u": "http://evil.test/"}),
        "other signer": jwt.encode(claims, stranger, "ES256", headers={"kid": "k1"}),
        "no signature": f"{head}.{body}.",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.{signature}",
        "padding": f"{good}=",
        "newline": f"{good}\n",
        "junk in between": f"{head}.{body[:5]}?{body[5:]}.{signature}",
        "header twice": f"{twice}.{body}.{signature}",
        "too long": issuer.token("a" * 9000),
        "json": '{"payload":"Zm9v"}',
    }
    check = verifier(str(issuer.path))
    assert run(check.verify(f"Bearer {good}")).subject == "alice"
    for name, token in forged.items():
        with pytest.raises(AuthenticationError):
            pytest.fail(f"{name} was accepted: {run(check.verify(f'Bearer {token}'))}")
    for authorization in (None, "", "Bearer", "Bearer ", f"Basic {good}", good):
        with pytest.raises(AuthenticationError):
            run(check.verify(authorization))


def test_last_bits_of_a_signature_can_not_be_changed(issuer: TestIssuer) -> None:
    good = issuer.token("a")
    check = verifier(str(issuer.path))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for letter in alphabet:
        if letter != good[-1]:
            with pytest.raises(AuthenticationError):
                run(check.verify(f"Bearer {good[:-1]}{letter}"))


@pytest.mark.parametrize("kind", ["EdDSA", "RS256", "PS256", "ES384"])
def test_other_key_types_verify_by_their_own_algorithm_only(tmp_path: Path, kind: str) -> None:
    private: Any = {
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "PS256": lambda: rsa.generate_private_key(65537, 2048),
        "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    }[kind]()
    codec: dict[str, Any] = {"EdDSA": jwt.algorithms.OKPAlgorithm, "ES384": jwt.algorithms.ECAlgorithm}
    jwk = json.loads(codec.get(kind, jwt.algorithms.RSAAlgorithm).to_jwk(private.public_key()))
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{**jwk, "kid": "k", "alg": kind}]}))
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now(0), "exp": now(60)}
    check = verifier(str(path))
    assert run(check.verify(f"Bearer {jwt.encode(claims, private, kind, headers={'kid': 'k'})}")).subject == "alice"
    if kind in ("RS256", "PS256"):
        other = jwt.encode(claims, private, "RS512", headers={"kid": "k"})
        with pytest.raises(AuthenticationError, match="not the one of its key"):
            run(check.verify(f"Bearer {other}"))


def test_a_token_from_the_cache_expires_and_goes_with_its_key(issuer: TestIssuer) -> None:
    async def story() -> None:
        keys = KeyStore(str(issuer.path), refresh_seconds=300, cooldown_seconds=0)
        check = TokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, skew=0.0, max_bytes=8192)
        short, long = issuer.token("a", exp=time.time() + 0.3), issuer.token("a")
        await check.verify(f"Bearer {short}")
        await check.verify(f"Bearer {long}")
        await asyncio.sleep(0.4)
        with pytest.raises(AuthenticationError, match="expired"):
            await check.verify(f"Bearer {short}")
        issuer.keys["k2"] = ec.generate_private_key(ec.SECP256R1())
        issuer.publish("k2")
        await check.keys.refresh()
        with pytest.raises(AuthenticationError, match="doesn't publish"):
            await check.verify(f"Bearer {long}")

    asyncio.run(story())


@pytest.fixture
def key_server(issuer: TestIssuer) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            time.sleep(0.05)
            named = "configuration.json" if self.path.startswith("/.well-known/") else issuer.path.name
            body = (issuer.path.parent / named).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/keys", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_keys_are_read_once_and_rotation_is_noticed(issuer: TestIssuer, key_server: tuple[str, list[str]]) -> None:
    url, asked = key_server

    async def story() -> None:
        check = verifier(url)
        await asyncio.gather(*(check.verify(f"Bearer {issuer.token('a')}") for _ in range(20)))
        assert len(asked) == 1
        issuer.keys["k2"] = ec.generate_private_key(ec.SECP256R1())
        issuer.publish()
        assert (await check.verify(f"Bearer {issuer.token('a', kid='k2')}")).subject == "alice"
        assert len(asked) == 2
        for _ in range(10):
            with pytest.raises(AuthenticationError):
                await check.verify(f"Bearer {issuer.token('a', headers={'kid': 'k9'})}")
        assert len(asked) == 3

    asyncio.run(story())


@pytest.mark.parametrize(
    ("said", "good"),
    [({}, True), ({"issuer": "https://other.test"}, False), ({"jwks_uri": "http://127.0.0.1:1/keys"}, False),
     ({"jwks_uri": "file:///etc/passwd"}, False), ({"jwks_uri": 7}, False), ({"issuer": None}, False)],
    ids=str,
)  # fmt: skip
def test_an_openid_configuration_says_where_its_own_issuer_s_keys_are(
    issuer: TestIssuer, key_server: tuple[str, list[str]], said: dict[str, Any], good: bool
) -> None:
    url, asked = key_server
    document = {"issuer": ISSUER, "jwks_uri": url, **said}
    (issuer.path.parent / "configuration.json").write_text(json.dumps(document))
    configuration = url.replace("/keys", "/.well-known/openid-configuration")
    store = KeyStore(configuration, refresh_seconds=3600, cooldown_seconds=3600, issuer=ISSUER)
    asyncio.run(store.refresh())
    assert bool(store.keys) == good
    assert asked == ["/.well-known/openid-configuration", *(["/keys"] if good else [])]


def test_many_unknown_keys_do_not_make_many_reads(issuer: TestIssuer, key_server: tuple[str, list[str]]) -> None:
    url, asked = key_server

    async def story() -> None:
        check = verifier(url, cooldown=3600.0)
        for number in range(50):
            with pytest.raises(AuthenticationError):
                await check.verify(f"Bearer {issuer.token('a', headers={'kid': f'k{number + 10}'})}")

    asyncio.run(story())
    assert len(asked) == 1


def test_without_any_keys_nobody_gets_in_and_the_last_good_set_outlives_a_broken_one(issuer: TestIssuer) -> None:
    async def story() -> None:
        with pytest.raises(UnavailableError):
            await verifier("/nonexistent/jwks.json").verify(f"Bearer {issuer.token('a')}")
        check = verifier(str(issuer.path))
        await check.verify(f"Bearer {issuer.token('a')}")
        for broken in ("", "[]", '{"keys": []}', "{"):
            issuer.path.write_text(broken)
            await check.keys.refresh()
            assert (await check.verify(f"Bearer {issuer.token('b')}")).roles == {"b"}

    asyncio.run(story())


def vectors() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(name, key set, test) of every vector; a set is what an issuer would publish, or the secret where it is one."""
    found = []
    for file in ("json_web_signature_test.json", "json_web_key_test.json") if GIVEN else ():
        for group in json.loads((WYCHEPROOF / file).read_text())["testGroups"]:
            published = group.get("public") or group["private"]
            keys = published if "keys" in published else {"keys": [published]}
            found += [(f"{file[9:12]}-{test['tcId']}", keys, test) for test in group["tests"]]
    return found


def published(keys: dict[str, Any]) -> dict[str, Any]:
    """The vectors give EC keys without kty, which an issuer must state."""
    return {"keys": [{**({"kty": "EC"} if "crv" in key and "kty" not in key else {}), **key} for key in keys["keys"]]}


@pytest.mark.parametrize(("name", "keys", "test"), vectors(), ids=lambda value: value if isinstance(value, str) else "")
def test_wycheproof(name: str, keys: dict[str, Any], test: dict[str, Any]) -> None:
    usable = parse_keys(published(keys))
    if test["result"] == "invalid":
        with pytest.raises(AuthenticationError):
            verify_signature(test["jws"], usable)
    elif name in ALGORITHM_NOT_OF_THE_KEY:
        with pytest.raises(AuthenticationError, match="not the one of its key"):
            verify_signature(test["jws"], usable)
    elif usable and all(c.isascii() and (c.isalnum() or c in "-_.") for c in test["jws"]):
        # The other valid ones are of secret keys, or of spellings that only lax decoders read.
        assert isinstance(verify_signature(test["jws"], usable), bytes)


def test_wycheproof_is_complete() -> None:
    if GIVEN:
        assert sum(test["result"] == "invalid" for _, _, test in vectors()) > 350
    else:
        assert not vectors()
