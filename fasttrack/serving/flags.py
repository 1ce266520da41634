"""Command-line flags of the three servers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from fasttrack.errors import ConfigurationError
from fasttrack.pem import Files, Names

#: The address to listen on; containers set it to 0.0.0.0.
BIND_VARIABLE = "FASTTRACK_BIND"
LOOPBACK = "127.0.0.1"
#: The protocol between transformer and predictor that needs none.
IN_PROCESS = "in-process"
_TLS_FLAGS = Names("--tls_certificate", "--tls_key", "--tls_client_ca")
_SWITCH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclass(frozen=True)
class ServerOptions:
    """What the flags say; see `parse` for their meaning."""

    role: str
    model_name: str
    package: str
    digest: str
    model_version: str
    usecase: str
    host: str
    http_port: int
    grpc_port: int
    tls: Files
    max_batch: int
    max_body: int
    grace: int
    threads: int
    predictor_host: str
    predictor_protocol: str
    predictor_use_ssl: bool
    predictor_timeout: float


def _parser(role: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"fasttrack-{role}", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--model_name", required=True, help="name of the model in URLs: the use case's name")
    add("--package", required=True, help="folder of the model package")
    add("--digest", default="", help="serve only the package of this digest (sha256:...)")
    add("--model_version", default="", help="version shown in responses; default: from the digest")
    add("--host", default=os.environ.get(BIND_VARIABLE, LOOPBACK), help=f"address to listen on (${BIND_VARIABLE})")
    add("--http_port", type=int, default=8080)
    add("--grpc_port", type=int, default=8081, help="0 turns gRPC off")
    add("--tls_certificate", default="", help="PEM file; serve HTTPS, and gRPC by TLS, on these ports")
    add("--tls_key", default="", help="PEM file, if the key does not stand in the certificate's")
    add("--tls_client_ca", default="", help="PEM file; callers must show a certificate that it signed")
    add("--workers", type=int, default=1, help="only 1: replicas are the platform's work")
    add("--max_batch", type=int, default=4096, help="most rows a request")
    add("--max_body", type=int, default=64 * 2**20, help="most bytes a request")
    add("--grace", type=int, default=20, help="seconds that requests in flight get after SIGTERM")
    add("--threads", type=int, default=1, help="threads of one forward pass")
    add("--usecase", default="", help="the use-case file; needed to read online features by entity")
    add("--predictor_host", default="", help="host:port of the predictor (transformer only)")
    add("--predictor_protocol", default="v2", choices=["v2", "grpc-v2", IN_PROCESS],
        help="how the predictor is called; in-process: the transformer loads the model itself")  # fmt: skip
    add("--predictor_use_ssl", type=_switch, default=False, help="the predictor speaks TLS ($FASTTRACK_TLS_...)")
    add("--predictor_request_timeout_seconds", type=float, default=5.0, help="where the caller sets no deadline")
    return parser


def _switch(text: str) -> bool:
    """The words that the SDK takes, too.

    Raises:
        ArgumentTypeError: it is none of them.
    """
    found = _SWITCH.get(text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return found


def parse(role: str, arguments: Sequence[str] | None = None) -> ServerOptions:
    """Read the flags of a server; the names are those that KServe passes to containers.

    Unknown flags are refused, unlike the SDK does: a misspelt one would be silently without effect.

    Raises:
        ConfigurationError: for a value that can't be served with.
        SystemExit: by argparse, for unknown flags and wrong types.
    """
    found = _parser(role).parse_args(arguments)
    if found.workers != 1:
        raise ConfigurationError(
            f"--workers {found.workers} is not supported.",
            fix="Run more replicas: the SDK's extra workers lose the transformer's predictor address.",
        )
    alone = found.predictor_protocol == IN_PROCESS
    if role == "transformer" and not alone and not found.predictor_host:
        raise ConfigurationError(
            "--predictor_host is missing.", fix=f"Give the predictor's host:port, or --predictor_protocol {IN_PROCESS}."
        )
    if role == "transformer" and alone and found.predictor_host:
        raise ConfigurationError(
            f"--predictor_host {found.predictor_host} would never be asked.",
            fix=f"Leave it out, or leave out --predictor_protocol {IN_PROCESS}.",
        )
    if "://" in found.predictor_host:
        raise ConfigurationError(
            f"--predictor_host {found.predictor_host} is a URL.",
            fix="Give host:port; for TLS: --predictor_use_ssl true.",
        )
    values = vars(found)
    del values["workers"]
    return ServerOptions(
        role=role,
        tls=Files(values.pop("tls_certificate"), values.pop("tls_key"), values.pop("tls_client_ca"), _TLS_FLAGS),
        predictor_timeout=values.pop("predictor_request_timeout_seconds"),
        **values,
    )
