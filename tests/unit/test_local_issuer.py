"""The development token issuer: what its tokens say, who can read its keys, and that rotation keeps tokens valid."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest

from fasttrack.errors import ConfigurationError, InvalidRequestError, StorageError
from fasttrack.local import issuer


def verify(home: Path, token: str, **changes: Any) -> dict[str, Any]:
    """What a strict verifier that knows only the key set and the issuer makes of a token."""
    jwks, expected = issuer.ensure(home)
    keys = {key.key_id: key for key in jwt.PyJWKSet.from_json(jwks.read_text()).keys}
    options = {"require": ["iss", "aud", "sub", "exp", "iat", "nbf", "jti"]}
    wanted = {"issuer": expected, "audience": "fasttrack", **changes}
    kid = jwt.get_unverified_header(token)["kid"]
    return dict(jwt.decode(token, keys[kid], algorithms=["ES256"], options=options, **wanted))


def mint(home: Path, **changes: Any) -> str:
    return issuer.mint(home, **{"subject": "ann", "roles": ["analyst"], "audience": "fasttrack", **changes})


def test_token_says_who_and_what(tmp_path: Path) -> None:
    claims = verify(tmp_path, mint(tmp_path, roles=("analyst", "admin"), tenant="acme", ttl=timedelta(minutes=5)))
    assert claims["sub"] == "ann"
    assert claims["roles"] == ["analyst", "admin"]
    assert claims["tenant"] == "acme"
    assert claims["exp"] - claims["iat"] == 300
    assert claims["nbf"] == claims["iat"]
    assert verify(tmp_path, mint(tmp_path))["jti"] != verify(tmp_path, mint(tmp_path))["jti"]


def test_header_names_one_algorithm_and_no_key_to_fetch(tmp_path: Path) -> None:
    header = jwt.get_unverified_header(mint(tmp_path))
    assert header["alg"] == "ES256"
    assert set(header) == {"alg", "kid", "typ"}


def test_token_is_for_its_audience_and_issuer_only(tmp_path: Path) -> None:
    token = mint(tmp_path)
    with pytest.raises(jwt.InvalidAudienceError):
        verify(tmp_path, token, audience="somebody-else")
    with pytest.raises(jwt.InvalidIssuerError):
        verify(tmp_path, token, issuer="https://elsewhere.example")


def test_platforms_have_their_own_issuer_and_keys(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert issuer.ensure(one)[1] != issuer.ensure(two)[1]
    with pytest.raises(KeyError):
        verify(two, mint(one))


def test_ensure_is_stable(tmp_path: Path) -> None:
    jwks, name = issuer.ensure(tmp_path)
    before = jwks.read_bytes()
    assert issuer.ensure(tmp_path) == (jwks, name)
    assert jwks.read_bytes() == before


def test_private_key_is_only_for_its_owner_and_not_in_the_key_set(tmp_path: Path) -> None:
    jwks, _ = issuer.ensure(tmp_path)
    private = tmp_path / "keys" / "token-signing.pem"
    assert private.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0
    issuer.rotate(tmp_path)
    assert private.stat().st_mode & 0o777 == 0o600
    for key in orjson.loads(jwks.read_bytes())["keys"]:
        assert set(key) == {"crv", "kty", "x", "y", "kid", "use", "alg"}


def test_key_id_is_the_thumbprint() -> None:
    # The public half of the example key of RFC 7517, appendix A.2; its thumbprint by RFC 7638 with another tool.
    from cryptography.hazmat.primitives.asymmetric import ec

    d = int.from_bytes(jwt.utils.base64url_decode("870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"), "big")
    key = issuer._public_jwk(ec.derive_private_key(d, ec.SECP256R1()))
    assert key["x"] == "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"
    assert key["y"] == "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"
    assert key["kid"] == "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"


def test_rotation_keeps_the_old_tokens_valid(tmp_path: Path) -> None:
    old = mint(tmp_path)
    kid = issuer.rotate(tmp_path)
    new = mint(tmp_path)
    assert jwt.get_unverified_header(new)["kid"] == kid != jwt.get_unverified_header(old)["kid"]
    assert verify(tmp_path, old)["sub"] == verify(tmp_path, new)["sub"] == "ann"


def test_rotation_forgets_keys_beyond_what_is_kept(tmp_path: Path) -> None:
    tokens = [mint(tmp_path)]
    for _ in range(3):
        issuer.rotate(tmp_path, keep=2)
        tokens.append(mint(tmp_path))
    with pytest.raises(KeyError):
        verify(tmp_path, tokens[0])
    assert all(verify(tmp_path, token) for token in tokens[1:])
    issuer.rotate(tmp_path, keep=0)
    with pytest.raises(KeyError):
        verify(tmp_path, tokens[-1])


def test_rotation_that_was_cut_off_is_mended(tmp_path: Path) -> None:
    old = mint(tmp_path)
    private = tmp_path / "keys" / "token-signing.pem"
    before = private.read_bytes()
    issuer.rotate(tmp_path)
    private.write_bytes(before)  # as if it had died after publishing the new key, before using it
    again = mint(tmp_path)
    assert verify(tmp_path, old)["sub"] == verify(tmp_path, again)["sub"] == "ann"


def test_deleted_key_set_is_made_anew(tmp_path: Path) -> None:
    token = mint(tmp_path)
    (tmp_path / "keys" / "jwks.json").unlink()
    assert verify(tmp_path, token)["sub"] == "ann"


@pytest.mark.parametrize(
    "change",
    [
        {"subject": ""},
        {"subject": "  "},
        {"roles": []},
        {"roles": "admin"},
        {"roles": ["admin", ""]},
        {"tenant": ""},
        {"audience": ""},
        {"ttl": timedelta(0)},
        {"ttl": timedelta(milliseconds=500)},
        {"ttl": timedelta(hours=-1)},
        {"ttl": timedelta(days=31)},
    ],
)
def test_senseless_token_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        mint(tmp_path, **change)
    assert caught.value.fix


@pytest.mark.parametrize("name", ["token-signing.pem", "jwks.json", "issuer"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"{}", b"[1]"])
def test_damaged_file_is_named_and_deleting_it_helps(tmp_path: Path, name: str, content: bytes) -> None:
    issuer.ensure(tmp_path)
    path = tmp_path / "keys" / name
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=name):
        mint(tmp_path)
    path.unlink()
    assert verify(tmp_path, mint(tmp_path))["sub"] == "ann"


def test_key_of_another_curve_is_refused(tmp_path: Path) -> None:
    from fasttrack.registry import keys

    issuer.ensure(tmp_path)
    (tmp_path / "keys" / "token-signing.pem").write_bytes(keys.new_key_pair()[0])
    with pytest.raises(ConfigurationError, match="not a P-256 key"):
        mint(tmp_path)


def test_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="keys can't be read or written"):
        issuer.ensure(tmp_path / "file")


def test_threads_and_processes_agree_on_one_key(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys; from fasttrack.local import issuer; print(issuer.ensure(pathlib.Path(sys.argv[1]))[1])"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    with ThreadPoolExecutor(4) as pool:
        names = {name for _, name in pool.map(lambda _: issuer.ensure(tmp_path), range(8))}
    for process in processes:
        names.add(process.communicate()[0].strip())
        assert process.returncode == 0
    assert len(names) == 1
    assert len(orjson.loads((tmp_path / "keys" / "jwks.json").read_bytes())["keys"]) == 1


def test_minting_goes_on_while_keys_rotate(tmp_path: Path) -> None:
    issuer.ensure(tmp_path)
    with ThreadPoolExecutor(3) as pool:
        tokens = [pool.submit(mint, tmp_path) for _ in range(30)]
        rotations = [pool.submit(issuer.rotate, tmp_path, keep=100) for _ in range(5)]
    for rotation in rotations:
        rotation.result()
    assert all(verify(tmp_path, token.result())["sub"] == "ann" for token in tokens)
