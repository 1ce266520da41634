"""The gateway's TLS flags: HTTPS that callers can verify, nothing but HTTPS, and clear words about wrong files."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from fasttrack.local.platform import Platform
from fasttrack.registry.store import Registry
from tests.integration.gateway_processes import process, run, settings_for
from tests.loopback import HOST
from tests.unit.gateway_harness import TestIssuer, until


@dataclass
class Identity:
    """A self-signed certificate for this machine's loopback address, and its key."""

    certificate: Path
    key: Path

    def flags(self) -> list[str]:
        """To serve with it."""
        return ["--tls-certificate", str(self.certificate), "--tls-key", str(self.key)]

    def trusted(self) -> ssl.SSLContext:
        """For callers that trust it."""
        return ssl.create_default_context(cafile=str(self.certificate))


def identity(folder: Path, name: str, *, hours: float = 1) -> Identity:
    """Make one that is good for so long; one that has expired, if that is negative."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=3))
        .not_valid_after(now + timedelta(hours=hours))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Identity(folder / f"{name}.pem", folder / f"{name}.key")
    made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def test_https_is_verified_and_plain_http_is_not_answered(
    platform: Platform, dsn: str, registry: Registry, tmp_path: Path
) -> None:
    issuer, ours, stranger = TestIssuer(tmp_path), identity(tmp_path, "ours"), identity(tmp_path, "stranger")
    settings = settings_for(platform, dsn, issuer)
    with process(settings, tmp_path, issuer, *ours.flags(), trusted=ours.trusted()) as it:
        assert it.ask("GET", "/livez") == (200, {"status": "ok"})
        assert it.ask("GET", "/v1/usecases", token=issuer.token("flights-predictor")) == (200, {"usecases": []})
        assert it.ask("GET", "/v1/usecases")[0] == 401
        it.trusted = stranger.trusted()
        with pytest.raises(ssl.SSLCertVerificationError):
            it.ask("GET", "/livez")
        it.trusted = None
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            it.ask("GET", "/livez")


def test_callers_must_show_a_certificate_where_that_is_asked(
    platform: Platform, dsn: str, registry: Registry, tmp_path: Path
) -> None:
    issuer, ours, caller = TestIssuer(tmp_path), identity(tmp_path, "ours"), identity(tmp_path, "caller")
    flags, trusted = [*ours.flags(), "--tls-client-ca", str(caller.certificate)], ours.trusted()
    trusted.load_cert_chain(caller.certificate, caller.key)
    with process(settings_for(platform, dsn, issuer), tmp_path, issuer, *flags, trusted=trusted) as it:
        assert it.ask("GET", "/livez") == (200, {"status": "ok"})
        for unknown in (ours.trusted(), ours.trusted()):
            it.trusted = unknown
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                it.ask("GET", "/livez")
            unknown.load_cert_chain(ours.certificate, ours.key)


def test_a_renewed_certificate_is_shown_without_a_restart(
    platform: Platform, dsn: str, registry: Registry, tmp_path: Path
) -> None:
    issuer, ours = TestIssuer(tmp_path), identity(tmp_path, "ours")
    with process(settings_for(platform, dsn, issuer), tmp_path, issuer, *ours.flags(), trusted=ours.trusted()) as it:
        it.trusted = identity(tmp_path, "ours").trusted()
        until(lambda: it.ready() == "ready")


def test_wrong_files_are_named_in_one_line(tmp_path: Path) -> None:
    ours, other, old = identity(tmp_path, "ours"), identity(tmp_path, "other"), identity(tmp_path, "old", hours=-1)
    certificate, key = ours.flags()[1], ours.flags()[3]
    (tmp_path / "none.pem").write_text("not a certificate\n")
    (tmp_path / "folder").mkdir()
    # Not by its mode: root reads everything.
    loop = tmp_path / "loop.key"
    loop.symlink_to(loop)
    encrypted = tmp_path / "encrypted.key"
    secret = ec.generate_private_key(ec.SECP256R1())
    encrypted.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    for flags, said in (
        (["--tls-certificate", str(tmp_path / "gone.pem"), "--tls-key", key], "gone.pem: the file can't be read"),
        (["--tls-certificate", str(tmp_path / "folder"), "--tls-key", key], "folder: the file can't be read"),
        (["--tls-certificate", certificate, "--tls-key", str(tmp_path / "gone.key")], "Give --tls-key a PEM file"),
        (["--tls-certificate", certificate, "--tls-key", str(loop)], f"{loop}: the file can't be read"),
        (["--tls-certificate", str(tmp_path / "none.pem"), "--tls-key", key], "can't be used"),
        (["--tls-certificate", certificate, "--tls-key", str(other.key)], "can't be used: key values mismatch"),
        (["--tls-certificate", certificate, "--tls-key", str(encrypted)], "must not be encrypted"),
        (["--tls-certificate", certificate], "can't be used"),
        (old.flags(), f"{old.certificate}: the certificate has expired. Give --tls-certificate a renewed one"),
        ([*ours.flags(), "--tls-client-ca", str(tmp_path / "none.pem")], "Give --tls-client-ca a PEM file"),
        # Without a certificate uvicorn would serve plain HTTP, and demand nothing of its callers.
        (["--tls-key", key], "--tls-key is given without --tls-certificate"),
        (["--tls-client-ca", certificate], "--tls-client-ca is given without --tls-certificate"),
    ):
        result = run({}, *flags, "--port", "0")
        assert result.returncode == 2, flags
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
        assert result.stderr.startswith("error: ")
