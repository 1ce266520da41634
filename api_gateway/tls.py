"""The TLS flags: checked before the port is opened, as a mistake in them must not end in plain HTTP."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from fasttrack.errors import ConfigurationError


def tls_options(certificate: str | None, key: str | None, client_ca: str | None) -> dict[str, Any]:
    """What uvicorn is to be told.

    Args:
        certificate: PEM file with the certificate, and those between it and the root; None serves plain HTTP.
        key: PEM file with its key; None: it stands in the certificate's file.
        client_ca: PEM file with the authorities whose certificates callers must show; None asks for none.

    Returns:
        Keyword arguments of `uvicorn.Config`.

    Raises:
        ConfigurationError: a file is missing, can't be read or used, or the flags don't go together.
    """
    files = {"--tls-certificate": certificate, "--tls-key": key, "--tls-client-ca": client_ca}
    if certificate is None:
        if alone := [flag for flag, path in files.items() if path is not None]:
            raise ConfigurationError(
                f"{alone[0]} is given without --tls-certificate.", fix="Give both, or neither to serve plain HTTP."
            )
        return {}
    for flag, path in files.items():
        if path is not None:
            _check_readable(flag, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # With a password, or OpenSSL would ask the terminal for the one of an encrypted key.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(
            f"the certificate and its key can't be used: {_reason(error)}.",
            where=f"{certificate}, {key or certificate}",
            fix="Give --tls-certificate and --tls-key PEM files that belong together; the key must not be encrypted.",
        ) from error
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"the authorities can't be used: {_reason(error)}.",
                where=client_ca,
                fix="Give --tls-client-ca a PEM file of certificates.",
            ) from error
    return {
        "ssl_certfile": certificate,
        "ssl_keyfile": key,
        "ssl_ca_certs": client_ca,
        "ssl_cert_reqs": ssl.CERT_REQUIRED if client_ca else ssl.CERT_NONE,
    }


def _check_readable(flag: str, path: str) -> None:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"the file can't be read: {error.strerror}.",
            where=path,
            fix=f"Give {flag} a PEM file that this user can read.",
        ) from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error)
    return str(reason).replace("_", " ").lower()
