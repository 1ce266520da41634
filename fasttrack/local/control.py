"""The platform seen from another process: start it in the background, ask it, publish to it, stop it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fasttrack
from fasttrack.errors import ConflictError, UnavailableError
from fasttrack.local import postgres
from fasttrack.local.channel import call, rebuild
from fasttrack.local.home import Home
from fasttrack.local.part import HOST, make_folder
from fasttrack.local.platform import PARTS
from fasttrack.local.process import last_lines
from fasttrack.local.status import PartStatus
from fasttrack.progress import note

_STOP_SECONDS = 120.0
_SETTLE_SECONDS = 3.0
_PUBLISH_SECONDS = 400.0


def up(home: Path, parts: list[str] | None = None) -> None:
    """Start a home's platform in a process of its own and return when it is ready; fine if it is up already.

    Raises:
        FastTrackError: what kept it from starting.
    """
    place = Home(home)
    if _ask(place) is not None:
        note(f"The platform of {place.root} is up already.")
        return
    place.make()
    log = make_folder(place / "logs") / "supervisor.log"
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "fasttrack.local.supervisor", "--home", str(place.root), "--report", str(writing)]
    command += ["--parts", ",".join(parts)] if parts else []
    source = str(Path(fasttrack.__file__).parents[1])
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    with log.open("ab") as output:
        start = output.tell()
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=place.root,
            pass_fds=(writing,), env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    os.close(writing)
    text = _follow(reading, log, start)
    if not text:
        tail = "\n".join(f"    {line}" for line in last_lines(log))
        raise UnavailableError(f"the platform ended while it started. Its log ends with:\n{tail}\n", where=str(log))
    found = json.loads(text)
    if "error" in found:
        raise rebuild(found["error"])


def status(home: Path) -> list[PartStatus]:
    """Each part of a home's platform; those of one that is down are ``stopped``.

    Raises:
        UnavailableError: the supervising process lives but doesn't answer.
    """
    place = Home(home)
    running = _ask(place)
    if running is not None:
        return [PartStatus(**part) for part in running]
    ports = place.state().ports
    return [PartStatus(name, "stopped", f"{HOST}:{ports[name]}" if name in ports else "") for name in PARTS]


def publish(
    home: Path,
    name: str,
    usecase_path: Path | str,
    package_path: Path | str,
    *,
    version: int | None = None,
    digest: str = "",
) -> dict[str, str]:
    """`Platform.publish`, in the process that supervises the home; same arguments, result and errors.

    Raises:
        UnavailableError: the platform is not up, or a server doesn't start.
        NotFoundError: a path doesn't exist.
    """
    # Relative paths are this process's.
    paths: dict[str, Any] = {
        "usecase_path": str(Path(usecase_path).absolute()),
        "package_path": str(Path(package_path).absolute()),
    }
    identity: dict[str, Any] = {"version": version, "digest": digest}
    found: dict[str, str] = call(Home(home), "publish", _PUBLISH_SECONDS, name=name, **paths, **identity)
    return found


def beside(
    home: Path, name: str, usecase_path: Path, package_path: Path, *, version: int, digest: str
) -> dict[str, str]:
    """`Platform.beside`, in the process that supervises the home; same arguments, result and errors.

    Raises:
        UnavailableError: the platform is not up, or a server doesn't start.
    """
    paths = {"usecase_path": str(usecase_path.absolute()), "package_path": str(package_path.absolute())}
    found: dict[str, str] = call(
        Home(home), "beside", _PUBLISH_SECONDS, name=name, version=version, digest=digest, **paths
    )
    return found


def settle(home: Path, name: str, version: int | None) -> None:
    """`Platform.settle`, in the process that supervises the home.

    Raises:
        UnavailableError: the platform is not up.
    """
    call(Home(home), "settle", _STOP_SECONDS, name=name, version=version)


def down(home: Path, wipe: bool = False) -> bool:
    """Stop a home's platform, and with `wipe` remove its data.

    Returns:
        Whether it was up.

    Raises:
        UnavailableError: it does not end.
    """
    place = Home(home)
    was_up = place.locked()
    if was_up:
        owner = place.owner()
        try:
            call(place, "stop", _STOP_SECONDS)
        except UnavailableError:
            if owner is not None:
                os.kill(owner, signal.SIGTERM)
        _await_end(place)
    if wipe:
        place.wipe()
        if os.geteuid() == 0:
            postgres.sweep()
    return was_up


stop = down


def _ask(place: Home) -> list[dict[str, Any]] | None:
    """The status as the supervising process gives it; None if there is none.

    Raises:
        UnavailableError: it lives but doesn't answer.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while place.owner() is not None and place.locked():
        try:
            found: list[dict[str, Any]] = call(place, "status", 15.0)
        except UnavailableError:
            # It may be about to listen, or have just been killed.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return found
    return None


def _follow(report: int, log: Path, start: int) -> str:
    """Show what the starting process logs, from byte `start` on, until it reports; returns the report."""
    with os.fdopen(report) as pipe, log.open() as lines:
        lines.seek(start)
        waiting = True
        while waiting:
            waiting = not select.select([pipe], [], [], 0.2)[0]
            for line in lines:
                note(line.rstrip())
        return pipe.read()


def _await_end(place: Home) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    while place.locked():
        if time.monotonic() > deadline:
            raise ConflictError(
                "the platform does not end.", where=str(place.root), fix=f"Kill its process: kill -9 {place.owner()}."
            )
        time.sleep(0.05)
