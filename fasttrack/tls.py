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
from typing import Final

from fasttrack.errors import ConfigurationError
from fasttrack.pem import Files, authorities, identity, read
from fasttrack.settings import Settings

_LOG: Final = logging.getLogger("fasttrack.tls")
#: Whether the files have changed is looked up when a connection is made, but not more often than this.
_LOOK_SECONDS: Final = 2.0
#: Files that can't be used are tried again after this, though they are the same: a certificate may become valid.
_AGAIN_SECONDS: Final = 60.0


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
        ConfigurationError: a file is missing, can't be read or used, or they don't go together; the certificate has
            expired or is not valid yet.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._stamp = self._refused = _stamp(files)
        self._loaded = self._load()
        self._looked_at = self._refused_at = time.monotonic()

    def current(self) -> Loaded:
        """What the files hold; the same object until they change. May be called in any thread."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked_at >= _LOOK_SECONDS:
                self._looked_at = now
                self._renew(_stamp(self._files), now)
            return self._loaded

    def _renew(self, stamp: object, now: float) -> None:
        known = stamp == self._refused
        if stamp == self._stamp or (known and now - self._refused_at < _AGAIN_SECONDS):
            return
        try:
            loaded = self._load()
        except ConfigurationError as error:
            self._refused, self._refused_at = stamp, now
            if not known:
                _LOG.warning("changed TLS files can't be used, the last good ones stay: %s", error)
            return
        # Files that changed while they were read may be of two pairs; the next look decides.
        if _stamp(self._files) == stamp:
            self._loaded, self._stamp, self._refused = loaded, stamp, stamp
            _LOG.info("TLS files were renewed: %s", ", ".join(self._files.given().values()))

    def _load(self) -> Loaded:
        names, content = self._files.names, {name: read(name, path) for name, path in self._files.given().items()}
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
            authorities(self._files, lambda: context.load_verify_locations(self._files.ca))
        identity(self._files, context)
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
        context = authorities(files, lambda: ssl.create_default_context(cafile=files.ca or None))
        if files.certificate:
            identity(files, context)
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


def _alone(files: Files, fix: str) -> ConfigurationError:
    return ConfigurationError(f"{next(iter(files.given()))} is given without {files.names.certificate}.", fix=fix)
