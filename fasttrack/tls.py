"""TLS from PEM files: checked before anything is opened, and read again when they are renewed on disk.

Nothing below TLS 1.2 is spoken. A client verifies its server's certificate and name, always.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from fasttrack.errors import ConfigurationError
from fasttrack.settings import Settings

_LOG: Final = logging.getLogger("fasttrack.tls")
#: Whether the files have changed is looked up when a connection is made, but not more often than this.
_LOOK_SECONDS: Final = 2.0
_Made = TypeVar("_Made")


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


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the files held when they were read: as OpenSSL takes it, and as bytes; None where there is no file."""

    context: ssl.SSLContext
    certificate: bytes | None
    key: bytes | None
    ca: bytes | None


class _Side:
    """One side of connections; a connection that is made later uses the files as they stand then.

    While changed files can't be used, as where half of a pair is written, the last good ones stay.

    Args:
        files: checked and read at once.

    Raises:
        ConfigurationError: a file is missing, can't be read or used, or they don't go together.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._stamp = self._refused = _stamp(files)
        self._loaded = self._load()
        self._looked_at = time.monotonic()

    def current(self) -> Loaded:
        """What the files hold; the same object until they change. May be called in any thread."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at >= _LOOK_SECONDS:
                self._looked_at = now
                self._renew(_stamp(self._files))
            return self._loaded

    def _renew(self, stamp: object) -> None:
        if stamp in (self._stamp, self._refused):
            return
        try:
            loaded = self._load()
        except ConfigurationError as error:
            self._refused = stamp
            _LOG.warning("changed TLS files can't be used, the last good ones stay: %s", error)
            return
        # Files that changed while they were read may be of two pairs; the next look decides.
        if _stamp(self._files) == stamp:
            self._loaded, self._stamp, self._refused = loaded, stamp, stamp
            _LOG.info("TLS files were renewed: %s", ", ".join(self._files.given().values()))

    def _load(self) -> Loaded:
        names, content = self._files.names, {name: _read(name, path) for name, path in self._files.given().items()}
        context = self._context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        certificate = content.get(names.certificate)
        return Loaded(context, certificate, content.get(names.key, certificate), content.get(names.ca))

    def _context(self) -> ssl.SSLContext:
        raise NotImplementedError


class ServerTls(_Side):
    """What a server shows, and whom it lets in.

    Args:
        files: as of `Files`; with `ca`, callers must show a certificate that it signed.

    Raises:
        ConfigurationError: as of `_Side`, or there is no certificate.
    """

    def __init__(self, files: Files) -> None:
        if not files.certificate:
            raise _alone(files, "Give both, or neither to serve without TLS.")
        super().__init__(files)
        #: Whether callers must show a certificate.
        self.demands = bool(files.ca)

    @classmethod
    def of(cls, files: Files) -> ServerTls | None:
        """The TLS of a server; None, for plain text, where no file is given.

        Raises:
            ConfigurationError: as of the class.
        """
        return cls(files) if files.given() else None

    def listener(self) -> ssl.SSLContext:
        """A context for an asyncio listener, whose connections each use the files as they stand then."""
        return _Renewed(lambda: self.current().context)

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if self._files.ca:
            context.verify_mode = ssl.CERT_REQUIRED
            _authorities(self._files, lambda: context.load_verify_locations(self._files.ca))
        _identity(self._files, context)
        return context


class ClientTls(_Side):
    """Whom a client trusts as a server, and who it is.

    Args:
        files: as of `Files`; without `ca`, those whom the system trusts.

    Raises:
        ConfigurationError: as of `_Side`, or there is a key without a certificate.
    """

    def __init__(self, files: Files | None = None) -> None:
        files = files or Files()
        if files.key and not files.certificate:
            raise _alone(files, "Set both, or neither.")
        super().__init__(files)

    @classmethod
    def from_settings(cls, settings: Settings) -> ClientTls:
        """By ``FASTTRACK_TLS_CA``, ``FASTTRACK_TLS_CERTIFICATE`` and ``FASTTRACK_TLS_KEY``.

        Raises:
            ConfigurationError: as of the class.
        """
        return cls(Files(settings.tls_certificate, settings.tls_key, settings.tls_ca))

    def _context(self) -> ssl.SSLContext:
        files = self._files
        context = _authorities(files, lambda: ssl.create_default_context(cafile=files.ca or None))
        if files.certificate:
            _identity(files, context)
        return context


class _Renewed(ssl.SSLContext):
    """Hands each new connection to the context that is current then: one whose files are only loaded anew would keep
    authorities that were taken out, and a certificate of another kind of key."""

    _current: Callable[[], ssl.SSLContext]

    def __new__(cls, current: Callable[[], ssl.SSLContext]) -> _Renewed:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made._current = current
        return made

    def wrap_bio(self, *arguments: object, **options: object) -> ssl.SSLObject:
        """Asyncio's way to begin a connection."""
        made: ssl.SSLObject = self._current().wrap_bio(*arguments, **options)  # type: ignore[arg-type]
        return made


def reason(error: Exception) -> str:
    """What OpenSSL says, in lower-case words."""
    said = getattr(error, "verify_message", None) or getattr(error, "reason", None) or str(error)
    return str(said).replace("_", " ").lower()


def _stamp(files: Files) -> object:
    """Changes when the files do, also where a link to their folder is turned, as with a Secret's."""
    stamps: list[tuple[int, int, int] | None] = []
    for path in files.given().values():
        try:
            found = Path(path).stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
    return stamps


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"the file can't be read: {error.strerror}.",
            where=path,
            fix=f"Give {name} a PEM file that this user can read.",
        ) from error


def _authorities(files: Files, load: Callable[[], _Made]) -> _Made:
    try:
        return load()
    except OSError as error:  # also that it has just gone
        raise ConfigurationError(
            f"the authorities can't be used: {reason(error)}.",
            where=files.ca,
            fix=f"Give {files.names.ca} a PEM file of certificates.",
        ) from error


def _identity(files: Files, context: ssl.SSLContext) -> None:
    try:
        # With a password, or OpenSSL would ask the terminal for the one of an encrypted key.
        context.load_cert_chain(files.certificate, files.key or None, password="")
    except (OSError, ValueError) as error:
        names = files.names
        raise ConfigurationError(
            f"the certificate and its key can't be used: {reason(error)}.",
            where=f"{files.certificate}, {files.key or files.certificate}",
            fix=f"Give {names.certificate} and {names.key} PEM files that belong together; the key must not be "
            "encrypted.",
        ) from error


def _alone(files: Files, fix: str) -> ConfigurationError:
    return ConfigurationError(f"{next(iter(files.given()))} is given without {files.names.certificate}.", fix=fix)
