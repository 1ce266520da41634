"""TLS in front of a server that speaks none: the embedded Redis and PostgreSQL are built without it."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.loopback import HOST

#: How a client of PostgreSQL asks for TLS on a connection that begins plain, and the server's yes.
_SSL_REQUEST, _YES = b"\0\0\0\x08\x04\xd2\x16\x2f", b"S"


@contextmanager
def tls_to(target: int, context: ssl.SSLContext, *, postgres: bool = False) -> Iterator[int]:
    """A TLS port, `context` its server's, in front of the plain one `target`."""
    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context, target, postgres), daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, context: ssl.SSLContext, target: int, postgres: bool) -> None:
    with suppress(OSError):
        while True:
            near, _ = listener.accept()
            threading.Thread(target=_carry, args=(near, context, target, postgres), daemon=True).start()


def _carry(near: socket.socket, context: ssl.SSLContext, target: int, postgres: bool) -> None:
    """Hand bytes on, both ways in one thread: OpenSSL's connections are not for two."""
    # A client that doesn't trust the certificate hangs up during the greeting, which is an OSError here.
    with suppress(OSError), near, socket.create_connection((HOST, target)) as plain:
        if postgres:
            if near.recv(len(_SSL_REQUEST)) != _SSL_REQUEST:
                return
            near.sendall(_YES)
        with context.wrap_socket(near, server_side=True) as secure:
            while True:
                ready = [secure] if secure.pending() else select.select([secure, plain], [], [])[0]
                for source, sink in ((secure, plain), (plain, secure)):
                    if source in ready:
                        data = source.recv(65536)
                        if not data:
                            return
                        sink.sendall(data)
