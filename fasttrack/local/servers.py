"""The servers above the stores: the gateway, and the three KServe servers of a published model."""

from __future__ import annotations

import http.client
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrack.local.part import HOST, Part
from fasttrack.local.ports import Ports

ROLES = ("predictor", "transformer", "explainer")
#: Where the transformer has the model itself.
_IN_PROCESS = ("transformer", "explainer")
_START_SECONDS = 180.0
# The C library keeps freed memory for each thread otherwise.
_LEAN = {"MALLOC_ARENA_MAX": "2", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Published:
    """What is served under a name.

    Attributes:
        usecase: the use-case file.
        package: the model package's folder.
        version: the registry's version, shown in responses; None: they show a part of the digest.
        digest: the servers start only with the package of this digest; empty: any that is validly signed.
        in_process: the transformer has the model itself, and there is no predictor.
    """

    usecase: Path
    package: Path
    version: int | None = None
    digest: str = ""
    in_process: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """The servers that there are."""
        return _IN_PROCESS if self.in_process else ROLES


def gateway(port: int) -> Part:
    """The API gateway on `port`."""
    argv = (sys.executable, "-m", "api_gateway", "--host", HOST, "--port", str(port))
    # Nobody else could take its callers over.
    alone = {**_LEAN, "FASTTRACK_GATEWAY_LEAVE_SECONDS": "0"}
    return Part("gateway", argv, lambda: responds(port, "/readyz"), {"gateway": port}, alone, timeout=_START_SECONDS)


def part_name(model: str, role: str, slot: str) -> str:
    """The name of a server; the two slots let a new package start beside the old one."""
    return f"{model}-{role}-{slot}"


def model_servers(model: str, published: Published, slot: str, ports: Ports) -> list[Part]:
    """The servers of a published model.

    Args:
        model: name in URLs.
        published: what they serve.
        slot: "a" or "b".
        ports: gives each server a port for HTTP and one for gRPC.
    """
    http_ports = {role: ports.choose(f"{part_name(model, role, slot)}-http") for role in published.roles}
    grpc_ports = {role: ports.choose(f"{part_name(model, role, slot)}-grpc") for role in published.roles}
    parts = []
    for role in published.roles:
        argv = [sys.executable, "-m", "fasttrack.serving", role, "--model_name", model]
        argv += ["--package", str(published.package), "--usecase", str(published.usecase)]
        argv += ["--http_port", str(http_ports[role]), "--grpc_port", str(grpc_ports[role])]
        argv += ["--digest", published.digest] if published.digest else []
        argv += ["--model_version", str(published.version)] if published.version is not None else []
        if role == "transformer" and published.in_process:
            argv += ["--predictor_protocol", "in-process"]
        elif role == "transformer":
            # Binary tensors over kept HTTP connections cost less than gRPC here.
            argv += ["--predictor_protocol", "v2", "--predictor_host", f"{HOST}:{http_ports['predictor']}"]
        parts.append(
            Part(
                name=part_name(model, role, slot),
                argv=tuple(argv),
                ready=_when_ready(http_ports[role], model),
                ports={"http": http_ports[role], "grpc": grpc_ports[role]},
                environment=_LEAN,
                timeout=_START_SECONDS,
                grace=25.0,
            )
        )
    return parts


def urls(model: str, published: Published, slot: str, ports: dict[str, int]) -> dict[str, str]:
    """Where the servers of a model answer: ``<role>_url`` (HTTP) and ``<role>_grpc`` (host:port).

    Without a predictor, its URLs are the transformer's, which takes what callers have: keys, events, features.
    """
    found = {}
    for role in ROLES:
        name = part_name(model, role if role in published.roles else "transformer", slot)
        found[f"{role}_url"] = f"http://{HOST}:{ports[name + '-http']}"
        found[f"{role}_grpc"] = f"{HOST}:{ports[name + '-grpc']}"
    return found


def responds(port: int, path: str) -> bool:
    """Whether ``GET path`` answers 200 on `port`."""
    connection = http.client.HTTPConnection(HOST, port, timeout=3.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except http.client.HTTPException:
        return False
    finally:
        connection.close()


def _when_ready(port: int, model: str) -> Any:
    return lambda: responds(port, f"/v2/models/{model}/ready")
