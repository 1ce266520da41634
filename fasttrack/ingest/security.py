"""How our clients come in to a Kafka cluster: plain, by TLS with a certificate of their own, or with a password.

Everything is said by variables that name files, so that a cluster's Secrets are mounted and never copied. They stand
beside the variable that holds the address: of ``FASTTRACK_KAFKA`` they are ``FASTTRACK_KAFKA_PROTOCOL`` and so on.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from fasttrack.errors import ConfigurationError

PLAINTEXT, SSL, SASL_SSL = PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_SSL")
#: What stands behind an address's variable.
SUFFIXES = ("PROTOCOL", "CA", "CERTIFICATE", "KEY", "USER", "PASSWORD")
_MECHANISM = "SCRAM-SHA-512"
# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_DATES = {9: "is not valid yet", 10: "has expired"}


def security(name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """The security part of a Kafka client's settings.

    ``<name>_PROTOCOL`` is PLAINTEXT (the default), SSL or SASL_SSL. The others are paths of PEM files: ``_CA`` whom to
    trust as a broker (default: whom the system trusts); ``_CERTIFICATE`` and ``_KEY`` who the client is. With SASL_SSL,
    ``_USER`` is its name and ``_PASSWORD`` the path of the file with its password (SCRAM-SHA-512).

    Args:
        name: the variable that holds the address.
        environment: the variables.

    Raises:
        ConfigurationError: an unknown protocol; half a pair; a file that is missing, unreadable, or holds something
            else; a key that isn't the certificate's; a certificate that has expired.
    """
    given = {suffix: environment.get(f"{name}_{suffix}", "") for suffix in SUFFIXES}
    protocol = given.pop("PROTOCOL") or PLAINTEXT
    if protocol not in PROTOCOLS:
        _refuse(f"{protocol!r} is no protocol.", f"{name}_PROTOCOL", f"Choose from {', '.join(PROTOCOLS)}.")
    _fits(name, protocol, given)
    if protocol == PLAINTEXT:
        return {}
    made = {"security.protocol": protocol}
    if given["CA"]:
        _trusted(f"{name}_CA", given["CA"])
        made["ssl.ca.location"] = given["CA"]
    if given["CERTIFICATE"]:
        _identity(name, given["CERTIFICATE"], given["KEY"])
        made |= {"ssl.certificate.location": given["CERTIFICATE"], "ssl.key.location": given["KEY"]}
    if protocol == SASL_SSL:
        password = _text(f"{name}_PASSWORD", given["PASSWORD"]).rstrip("\r\n")
        made |= {"sasl.mechanism": _MECHANISM, "sasl.username": given["USER"], "sasl.password": password}
    return made


def _fits(name: str, protocol: str, given: Mapping[str, str]) -> None:
    """Refuse settings that the protocol doesn't use or that lack their other half: who set them relies on them."""
    used = {PLAINTEXT: (), SSL: SUFFIXES[1:4], SASL_SSL: SUFFIXES[1:]}[protocol]
    for suffix, value in given.items():
        if value and suffix not in used:
            fix = f"Set {name}_PROTOCOL={SASL_SSL if suffix in SUFFIXES[4:] else SSL}, or take the variable out."
            _refuse(f"is set, but {protocol} uses none.", f"{name}_{suffix}", fix)
    for one, other in (("CERTIFICATE", "KEY"), ("USER", "PASSWORD")):
        if bool(given[one]) != bool(given[other]):
            there, missing = (one, other) if given[one] else (other, one)
            _refuse(f"is set without {name}_{missing}.", f"{name}_{there}", "Set both, or neither.")
    if protocol == SASL_SSL and not given["USER"]:
        _refuse("is not set.", f"{name}_USER", f"{SASL_SSL} takes {name}_USER and {name}_PASSWORD.")


def _trusted(variable: str, path: str) -> None:
    _text(variable, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        _refuse(f"{path} holds no certificate in PEM ({error.reason or error}).", variable, "Name the CA's ca.crt.")


def _identity(name: str, certificate: str, key: str) -> None:
    """Refuse what no broker would take: it would only say that it doesn't, and not why."""
    for suffix, path in (("CERTIFICATE", certificate), ("KEY", key)):
        _text(f"{name}_{suffix}", path)
    broker, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    try:
        for context in (broker, client):
            # An encrypted key would be asked for at the terminal.
            context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        _refuse(
            f"{certificate} and {key} are no certificate and its private key in PEM, unencrypted ({reason}).",
            f"{name}_CERTIFICATE", "Name user.crt and user.key of one user.",
        )  # fmt: skip
    # Python reads a certificate's dates only in a handshake: one in memory, in which it is trusted itself.
    broker.verify_mode = ssl.CERT_REQUIRED
    broker.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    broker.load_verify_locations(certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(back, there), broker.wrap_bio(there, back, server_side=True)
    try:
        for end in (*ends, *ends):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        # What else it may find wrong is the real broker's to say.
        if error.verify_code in _DATES:
            fix = "Let a new one be made (Strimzi's user operator does so by itself), and start again."
            _refuse(f"{certificate} {_DATES[error.verify_code]}.", f"{name}_CERTIFICATE", fix)


def _text(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        _refuse(f"{path} can't be read: {error.strerror}.", variable, "Name a file that this process may read.")
    except UnicodeDecodeError:
        _refuse(f"{path} isn't text.", variable, "Name a PEM file, or for the password one of UTF-8.")


def _refuse(what: str, where: str, fix: str) -> NoReturn:
    raise ConfigurationError(what, where=where, fix=fix)
