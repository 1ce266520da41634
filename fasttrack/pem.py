"""PEM files of TLS, judged before anything is opened: what another side would refuse without a reason is told here."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from fasttrack.errors import ConfigurationError

_Made = TypeVar("_Made")
# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED.
_DATES: Final = {9: "is not valid yet", 10: "has expired"}


@dataclass(frozen=True, slots=True)
class Names:
    """What the user calls the files: flags, variables or options."""

    certificate: str
    key: str
    ca: str


#: Of a client: the settings.
VARIABLES: Final = Names("FASTTRACK_TLS_CERTIFICATE", "FASTTRACK_TLS_KEY", "FASTTRACK_TLS_CA")


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of PEM files; empty where none is given.

    Attributes:
        certificate: who we are: the certificate, and those between it and the root.
        key: its key, unencrypted; without one it stands in the certificate's file.
        ca: the authorities that the other side's certificate must come from.
        names: what the user calls them.
    """

    certificate: str = ""
    key: str = ""
    ca: str = ""
    names: Names = VARIABLES

    def given(self) -> dict[str, str]:
        """The paths that there are, by what the user calls them."""
        every = {self.names.certificate: self.certificate, self.names.key: self.key, self.names.ca: self.ca}
        return {name: path for name, path in every.items() if path}


def read(name: str, path: str, kind: str = "PEM file") -> bytes:
    """A file's content.

    Args:
        name: what the user calls it.
        path: where it is.
        kind: what it should be.

    Raises:
        ConfigurationError: it can't be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"the file can't be read: {error.strerror}.",
            where=path,
            fix=f"Give {name} a {kind} that this user can read.",
        ) from error


def authorities(files: Files, load: Callable[[], _Made]) -> _Made:
    """What `load` makes of the file of authorities.

    Raises:
        ConfigurationError: it holds no certificates in PEM.
    """
    try:
        return load()
    except OSError as error:  # also that it has just gone
        raise ConfigurationError(
            f"the authorities can't be used: {reason(error)}.",
            where=files.ca,
            fix=f"Give {files.names.ca} a PEM file of certificates.",
        ) from error


def identity(files: Files, context: ssl.SSLContext) -> None:
    """Load certificate and key into a context.

    Raises:
        ConfigurationError: they are not PEM, don't go together, the key is encrypted, or the certificate (or one that
            stands behind it in its file) has expired or is not valid yet.
    """
    names = files.names
    try:
        _load(files, context)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the certificate and its key can't be used: {reason(error)}.",
            where=f"{files.certificate}, {files.key or files.certificate}",
            fix=f"Give {names.certificate} and {names.key} PEM files that belong together; the key must not be "
            "encrypted.",
        ) from error
    if said := _out_of_date(files, shown_by_server=context.protocol == ssl.PROTOCOL_TLS_SERVER):
        raise ConfigurationError(
            f"the certificate {said}.",
            where=files.certificate,
            fix=f"Give {names.certificate} a renewed one, or correct this machine's clock.",
        )


def _load(files: Files, context: ssl.SSLContext) -> None:
    # With a password, or OpenSSL would ask the terminal for the one of an encrypted key.
    context.load_cert_chain(files.certificate, files.key or None, password="")


def _out_of_date(files: Files, *, shown_by_server: bool) -> str:
    """What is wrong with the certificate's dates; empty if nothing.

    Python reads dates only in a handshake: one in memory, in which the certificate is trusted itself. It is shown by
    the side that it is for, as one that is for servers alone would be refused for that when a client showed it.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        _load(files, server)
        _load(files, client)
        judge = client if shown_by_server else server
        judge.verify_mode = ssl.CERT_REQUIRED
        judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        judge.load_verify_locations(files.certificate)
        ends = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
        for end in (*ends, *ends):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        return _DATES.get(error.verify_code, "")
    except OSError:
        # Whatever else may be wrong with it, and that a file has just been replaced, is for others to find.
        return ""
    return ""


def reason(error: Exception) -> str:
    """What OpenSSL says, in lower-case words."""
    said = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
    return str(said).replace("_", " ").lower()
