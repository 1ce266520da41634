"""A certificate authority for tests, and the PEM files that it gives to brokers and users as Strimzi's Secrets do."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fasttrack.pem import Files, Names
from tests.loopback import HOST

#: Of a server.
FLAGS = Names("--tls_certificate", "--tls_key", "--tls_client_ca")
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


def files(pair: Pair | None = None, ca: Path | None = None) -> Files:
    """The PEM files of who shows this pair and trusts this authority."""
    mine = (str(pair.certificate), str(pair.key)) if pair else ("", "")
    return Files(*mine, str(ca or ""))


class Authority:
    """Signs certificates.

    Args:
        folder: where it writes; made if it isn't there.
        expired: its own certificate has.
    """

    def __init__(self, folder: Path, *, expired: bool = False) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {folder.name}")])
        now = datetime.datetime.now(datetime.UTC)
        last = now + (-_DAY if expired else _DAY)
        made = _certificate(self._name, self._name, self._key, now - 2 * _DAY, last)
        certificate = made.add_extension(x509.BasicConstraints(True, None), True).sign(self._key, hashes.SHA256())
        #: The certificate that its users trust.
        self.ca = folder / "ca.crt"
        self.ca.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        expired: bool = False,
        valid_in: float | None = None,
        host: str = HOST,
        usage: x509.ObjectIdentifier | None = None,
    ) -> Pair:
        """The pair of the user `name` (its common name), good for `host` (an address) as a server.

        Issued again, it is written over the one before.

        Args:
            name: of its files, too.
            expired: it has, yesterday.
            valid_in: seconds until it becomes valid; by default it is.
            host: an address.
            usage: what it is for alone; by default for all.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        first = now - 2 * _DAY if valid_in is None else now + datetime.timedelta(seconds=valid_in)
        made = _certificate(subject, self._name, key, first, now - _DAY if expired else now + 2 * _DAY)
        if usage is not None:
            made = made.add_extension(x509.ExtendedKeyUsage([usage]), False)
        address = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
        certificate = made.add_extension(address, False).sign(self._key, hashes.SHA256())
        stem = f"{name}-expired" if expired else name
        pair = Pair(self._folder / f"{stem}.crt", self._folder / f"{stem}.key")
        pair.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pair


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    first: datetime.datetime,
    last: datetime.datetime,
) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return made.serial_number(x509.random_serial_number()).not_valid_before(first).not_valid_after(last)
