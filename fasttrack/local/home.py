"""A platform's home: one folder with its state, its lock and its data."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fasttrack.errors import ConflictError, IntegrityError, StorageError
from fasttrack.local.part import make_folder

_WAIT_SECONDS = 40.0
_SETTLE_SECONDS = 1.0
# All that a home may hold: nothing else is ever removed from it.
_CONTENT = (
    "logs", "kafka", "postgres", "redis", "lake", "packages", "runs", "keys", "gateway",
    "control.json", "platform.json", "platform.lock",
)  # fmt: skip


@dataclass
class State:
    """What a home remembers between starts.

    Attributes:
        ports: by name of the port.
        publications: by name of the model: ``usecase`` and ``package`` paths, ``version``, ``digest``, ``slot``,
            ``urls``.
    """

    ports: dict[str, int] = field(default_factory=dict)
    publications: dict[str, dict[str, Any]] = field(default_factory=dict)


class Home:
    """The folder at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self._mutex = threading.Lock()

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def make(self) -> None:
        """Make the folder. Others may not list it; as root they may go through it, because PostgreSQL must.

        Raises:
            StorageError: the disk refuses.
        """
        make_folder(self.root, 0o711 if os.geteuid() == 0 else 0o700)

    def lock(self) -> int:
        """Take the home for this process; a platform that is just ending is waited for.

        Returns:
            The descriptor that holds the lock.

        Raises:
            ConflictError: a platform of this home is up.
        """
        descriptor = os.open(self / "platform.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _WAIT_SECONDS
        since: float | None = None
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = self.owner()
                # A process that was just killed looks alive for a moment.
                since = (since or time.monotonic()) if owner else None
                if (since and time.monotonic() - since > _SETTLE_SECONDS) or time.monotonic() > deadline:
                    os.close(descriptor)
                    raise ConflictError(
                        "the platform of this home is up" + (f" (process {owner})." if owner else "."),
                        where=str(self.root),
                        fix="Use it (`fasttrack status`), stop it (`fasttrack down`), or choose another --home.",
                    ) from None
                time.sleep(0.1)
            else:
                return descriptor

    def locked(self) -> bool:
        """Whether a platform of this home is up, or just starting or ending."""
        try:
            descriptor = os.open(self / "platform.lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def owner(self) -> int | None:
        """The process that supervises this home's platform, if it is alive."""
        pid = self.control().get("pid")
        try:
            # One that was killed is a zombie until its parent looks.
            alive = isinstance(pid, int) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return pid if alive else None

    def control(self) -> dict[str, Any]:
        """How to reach the supervising process; empty if there is none."""
        return self._read("control.json")

    def write_control(self, content: dict[str, Any] | None) -> None:
        """Say how to reach this process; None when it ends."""
        if content is None:
            (self / "control.json").unlink(missing_ok=True)
        else:
            with self._mutex:
                self._write("control.json", content)

    def state(self) -> State:
        """What was remembered; a new state in a new home.

        Raises:
            IntegrityError: the file is damaged.
        """
        found = self._read("platform.json")
        return State(found.get("ports", {}), found.get("publications", {}))

    def remember(self, state: State) -> None:
        """Write the state.

        Raises:
            StorageError: the disk refuses.
        """
        with self._mutex:
            self._write("platform.json", {"version": 1, "ports": state.ports, "publications": state.publications})

    def wipe(self) -> None:
        """Remove what a platform keeps in this folder, and the folder if nothing else is in it."""
        for name in _CONTENT:
            path = self / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()

    def _read(self, name: str) -> dict[str, Any]:
        path = self / name
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise IntegrityError(
                "the file is damaged.", where=str(path), fix="Remove it: ports are chosen anew, data stay."
            ) from error
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        temporary = self / f"{name}.{os.getpid()}"
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(content, file, indent=1)
            temporary.replace(self / name)
        except OSError as error:
            raise StorageError(
                f"the platform's state can't be written: {error.strerror}.",
                where=str(self / name),
                fix="Free disk space.",
            ) from error
