"""``python -m api_gateway --host 127.0.0.1 --port 8080``: serve until SIGTERM, then end what is under way."""

from __future__ import annotations

import argparse
import gc
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Final

import uvicorn

from api_gateway.app import create_app
from api_gateway.observability import log
from api_gateway.options import GatewayOptions
from api_gateway.protocol import deadline_protocol
from api_gateway.server import Server
from fasttrack.errors import FastTrackError
from fasttrack.pem import Files, Names
from fasttrack.settings import Settings
from fasttrack.tls import ServerTls

_TLS_FLAGS: Final = Names("--tls-certificate", "--tls-key", "--tls-client-ca")


class _JsonHandler(logging.Handler):
    """uvicorn's own few lines, in the form of all others."""

    def emit(self, record: logging.LogRecord) -> None:
        log(record.levelname.lower(), record.getMessage(), **{"log.logger": record.name})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gateway; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m api_gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0 takes a free one")
    parser.add_argument("--tls-certificate", default="", help="PEM file; serve HTTPS")
    parser.add_argument("--tls-key", default="", help="PEM file, if the key does not stand in the certificate's")
    parser.add_argument("--tls-client-ca", default="", help="PEM file; callers must show a certificate that it signed")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, handlers=[_JsonHandler()])
    try:
        # Before the port is opened: a mistake must not end in plain HTTP.
        tls = ServerTls.of(Files(given.tls_certificate, given.tls_key, given.tls_client_ca, _TLS_FLAGS))
        options = GatewayOptions.from_environment()
        app = create_app(Settings.from_environment(), options)
    except FastTrackError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    # What is there now stays until the end; the collector needn't look at it again and again. Requests make hardly any
    # cycles, so it need not look after every second one.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    server = Server(
        uvicorn.Config(
            app,
            host=given.host,
            port=given.port,
            http=deadline_protocol(options),
            loop="uvloop",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(options.keep_alive_seconds),
            timeout_graceful_shutdown=int(options.drain_seconds),
            backlog=2048,
            ssl_context_factory=(lambda *_: tls.listener()) if tls else None,
        ),
        app.parts,
        options.leave_seconds,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn ends in good order, then raises the signal again; it must not kill us at that point.
        signal.signal(number, lambda *_: None)
    try:
        server.run()
    finally:
        # A second signal makes uvicorn skip the end of the application's life; the rows must be safe all the same.
        app.parts.audit.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
