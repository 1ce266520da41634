"""What the platform knows of a part (a supervised process) before it is started."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fasttrack.errors import StorageError

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Part:
    """How to run one part.

    Attributes:
        name: unique in a home; also the name of its log file.
        argv: program and arguments.
        ready: true once the part serves; it may raise OSError while the part isn't up yet.
        ports: the ports it listens on, by name.
        environment: variables set beside the ones of the platform.
        timeout: seconds that it may take until it is ready.
        grace: seconds that it may take to end after `stop_signal`, before it is killed.
        stop_signal: what asks it to end.
        user: numeric user and group to run as, if not the caller's.
    """

    name: str
    argv: tuple[str, ...]
    ready: Callable[[], bool]
    ports: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 90.0
    grace: float = 15.0
    stop_signal: int = signal.SIGTERM
    user: tuple[int, int] | None = None


def listening(port: int, timeout: float = 0.5) -> bool:
    """Whether somebody accepts connections on `port` of the loopback address."""
    with socket.socket() as probe:
        probe.settimeout(timeout)
        return probe.connect_ex((HOST, port)) == 0


def make_folder(path: Path, mode: int = 0o700) -> Path:
    """Make a folder (and those above it) that only `mode` may enter.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
    except OSError as error:
        raise StorageError(
            f"the folder can't be made: {error.strerror}.",
            where=str(path),
            fix="Free disk space, check the permissions, or choose another folder with --home.",
        ) from error
    return path
