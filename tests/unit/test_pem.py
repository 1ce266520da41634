"""PEM files of TLS: what is refused before anything is opened, and what each error names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID

from fasttrack.errors import ConfigurationError
from fasttrack.pem import Files
from fasttrack.tls import ClientTls, ServerTls
from tests.integration.certificates import FLAGS, Authority, files


@pytest.mark.parametrize("kind", [ServerTls, ClientTls])
def test_files_of_no_use_are_named_with_what_mends_it(
    kind: Callable[[Files], Any], authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    ours, other = authority.issue("ours"), stranger.issue("other")
    good = replace(files(ours, authority.ca), names=FLAGS)
    nothing, gone, encrypted = (str(tmp_path / name) for name in ("nothing.pem", "gone.pem", "encrypted.key"))
    Path(nothing).write_text("no certificate\n")
    secret = ec.generate_private_key(ec.SECP256R1())
    Path(encrypted).write_bytes(
        secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    kind(good)
    for wrong, said in (
        (replace(good, certificate=gone), rf"{gone}: the file can't be read.* Give --tls_certificate a PEM file"),
        (replace(good, key=gone), "Give --tls_key a PEM file"),
        (replace(good, ca=gone), "Give --tls_client_ca a PEM file"),
        (replace(good, certificate=str(tmp_path)), "can't be read: Is a directory"),
        (replace(good, certificate=nothing), "can't be used"),
        (replace(good, key=str(other.key)), "can't be used: key values mismatch"),
        (replace(good, key=encrypted), "must not be encrypted"),
        (replace(good, key=""), "can't be used"),
        (replace(good, ca=nothing), "authorities can't be used.* Give --tls_client_ca a PEM file of certificates"),
        (replace(good, certificate=""), "--tls_key is given without --tls_certificate"),
    ):
        with pytest.raises(ConfigurationError, match=said) as caught:
            kind(wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("usage", [None, ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
@pytest.mark.parametrize("kind", [ServerTls, ClientTls])
def test_a_certificate_out_of_its_time_is_refused_whatever_it_is_for(
    kind: Callable[[Files], Any], usage: ObjectIdentifier | None, authority: Authority, tmp_path: Path
) -> None:
    fits = usage in (
        None,
        ExtendedKeyUsageOID.SERVER_AUTH if kind is ServerTls else ExtendedKeyUsageOID.CLIENT_AUTH,
    )
    assert kind(files(authority.issue("good", usage=usage)))
    for options, said in (({"expired": True}, "has expired"), ({"valid_in": 3600.0}, "is not valid yet")):
        pair = authority.issue("bad", usage=usage, **options)  # type: ignore[arg-type]
        both = tmp_path / "both.pem"
        both.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
        for given in (files(pair), Files(str(both))):
            named = replace(given, names=FLAGS)
            if not fits:  # the other side refuses it for that, and says so
                kind(named)
                continue
            with pytest.raises(ConfigurationError, match=f"the certificate {said}.* Give --tls_certificate") as caught:
                kind(named)
            assert caught.value.where == named.certificate


@pytest.mark.parametrize("kind", [ServerTls, ClientTls])
def test_a_chain_is_as_good_as_its_links(kind: Callable[[Files], Any], tmp_path: Path) -> None:
    old = Authority(tmp_path / "old", expired=True)
    pair = old.issue("leaf")
    kind(files(pair))
    pair.certificate.write_bytes(pair.certificate.read_bytes() + old.ca.read_bytes())
    with pytest.raises(ConfigurationError, match="the certificate has expired"):
        kind(files(pair))


def test_authorities_without_a_certificate_would_serve_plain_text(authority: Authority) -> None:
    with pytest.raises(ConfigurationError, match="--tls_client_ca is given without --tls_certificate"):
        ServerTls.of(Files(ca=str(authority.ca), names=FLAGS))
    assert ServerTls.of(Files(names=FLAGS)) is None


def test_the_key_may_stand_in_the_certificates_file(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue("ours")
    both = tmp_path / "both.pem"
    both.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    loaded = ServerTls(Files(str(both))).current()
    assert loaded.key == loaded.certificate == both.read_bytes()
