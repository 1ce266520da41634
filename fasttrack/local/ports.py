"""Free ports of the loopback address: chosen once, remembered, and chosen again when somebody else took them."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Mapping

from fasttrack.errors import ConfigurationError, ConflictError
from fasttrack.local.part import HOST, listening
from fasttrack.progress import note

PREFIX = "FASTTRACK_PORT_"
# Below the range that Linux and macOS give to outgoing connections, which could take a remembered port at any time.
_RANGE = range(18000, 32000)
_ATTEMPTS = 200


class Ports:
    """The ports of one home.

    Args:
        remembered: by name; changed in place as ports are chosen.
        fixed: ports that the user asked for; ``FASTTRACK_PORT_KAFKA`` and the like count too.
    """

    def __init__(self, remembered: dict[str, int], fixed: Mapping[str, int] | None = None) -> None:
        self.remembered = remembered
        self._fixed = {**_from_environment(), **(fixed or {})}
        self._mutex = threading.Lock()

    def choose(self, name: str) -> int:
        """A free port for `name`: the fixed one, else the remembered one, else a new one.

        Raises:
            ConflictError: the fixed port is taken, or none is free.
        """
        with self._mutex:
            if name in self._fixed:
                port = self._fixed[name]
                if not free(port):
                    raise ConflictError(
                        f"port {port}, fixed for {name}, is taken by another program.",
                        fix=f"End that program, or set {PREFIX}{name.upper()} to another port or not at all.",
                    )
                self.remembered[name] = port
                return port
            before = self.remembered.get(name)
            if before is not None and free(before):
                return before
            port = self._new()
            if before is not None:
                note(f"Port {before} of {name} is taken by another program; using {port}.")
            self.remembered[name] = port
            return port

    def is_fixed(self, name: str) -> bool:
        """Whether the user asked for this port."""
        return name in self._fixed

    def forget(self, name: str) -> None:
        """Choose anew next time."""
        with self._mutex:
            self.remembered.pop(name, None)

    def _new(self) -> int:
        used = set(self.remembered.values()) | set(self._fixed.values())
        for _ in range(_ATTEMPTS):
            port = random.choice(_RANGE)
            if port not in used and free(port):
                return port
        raise ConflictError(
            "no free port was found.", where=f"{HOST}:{_RANGE.start}-{_RANGE.stop}", fix="End other servers."
        )


def free(port: int) -> bool:
    """Whether nobody listens on `port`."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are just dying is free for them.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    # Where binding beside a server on all addresses is allowed (macOS), asking it is the only way.
    return not listening(port)


def _from_environment() -> dict[str, int]:
    found: dict[str, int] = {}
    for variable, text in os.environ.items():
        if variable.startswith(PREFIX):
            if not text.isdigit() or not 0 < int(text) < 65536:
                raise ConfigurationError(f"{text!r} is no port.", where=variable, fix="Give a number from 1 to 65535.")
            found[variable.removeprefix(PREFIX).lower()] = int(text)
    return found
