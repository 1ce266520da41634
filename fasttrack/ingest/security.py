"""How our clients come in to a Kafka cluster: plain, by TLS with a certificate of their own, or with a password.

Everything is said by variables that name files, so that a cluster's Secrets are mounted and never copied. They stand
beside the variable that holds the address: of ``FASTTRACK_KAFKA`` they are ``FASTTRACK_KAFKA_PROTOCOL`` and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from fasttrack.errors import ConfigurationError
from fasttrack.pem import Files, Names, read
from fasttrack.tls import ClientTls

PLAINTEXT, SSL, SASL_SSL = PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_SSL")
#: What stands behind an address's variable.
SUFFIXES = ("PROTOCOL", "CA", "CERTIFICATE", "KEY", "USER", "PASSWORD")
# In the order of `Names`.
_FILES = ("CERTIFICATE", "KEY", "CA")
_MECHANISM = "SCRAM-SHA-512"


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
            else; a key that isn't the certificate's; a certificate that has expired or is not valid yet.
    """
    given = {suffix: environment.get(f"{name}_{suffix}", "") for suffix in SUFFIXES}
    protocol = given.pop("PROTOCOL") or PLAINTEXT
    if protocol not in PROTOCOLS:
        _refuse(f"{protocol!r} is no protocol.", f"{name}_PROTOCOL", f"Choose from {', '.join(PROTOCOLS)}.")
    _fits(name, protocol, given)
    if protocol == PLAINTEXT:
        return {}
    made = {"security.protocol": protocol}
    # Refused here is what no broker would take: it would only say that it doesn't, and not why.
    ClientTls(Files(given["CERTIFICATE"], given["KEY"], given["CA"], Names(*(f"{name}_{each}" for each in _FILES))))
    if given["CA"]:
        made["ssl.ca.location"] = given["CA"]
    if given["CERTIFICATE"]:
        made |= {"ssl.certificate.location": given["CERTIFICATE"], "ssl.key.location": given["KEY"]}
    if protocol == SASL_SSL:
        password = _password(f"{name}_PASSWORD", given["PASSWORD"])
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


def _password(variable: str, path: str) -> str:
    try:
        return read(variable, path, "file").decode().rstrip("\r\n")
    except UnicodeDecodeError:
        _refuse("the password isn't text.", path, f"Give {variable} a file of UTF-8.")


def _refuse(what: str, where: str, fix: str) -> NoReturn:
    raise ConfigurationError(what, where=where, fix=fix)
