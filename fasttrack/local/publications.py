"""The published models of a home: their servers, started beside the former ones and then put in their place."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from fasttrack import usecase as usecases
from fasttrack.errors import NotFoundError, UnavailableError
from fasttrack.local import servers
from fasttrack.local.home import Home, State
from fasttrack.local.parallel import together
from fasttrack.local.ports import Ports
from fasttrack.local.process import Processes
from fasttrack.local.servers import Published
from fasttrack.progress import note

# A request that began before the switch to a new model ends within this.
_LINGER_SECONDS = 15.0


class Publications:
    """Starts and replaces the servers of models.

    Args:
        home: remembers what is published.
        state: of that home.
        ports: of that home.
        processes: runs the servers.
    """

    def __init__(self, home: Home, state: State, ports: Ports, processes: Processes) -> None:
        self._home = home
        self._state = state
        self._ports = ports
        self._processes = processes
        self._mutex = threading.Lock()
        self._retiring: threading.Timer | None = None

    def publish(self, name: str, wanted: Published) -> dict[str, str]:
        """See `Platform.publish`."""
        wanted = _checked(wanted)
        with self._mutex:
            self._retire_now()
            former = self._state.publications.get(name)
            slot = "b" if former and former["slot"] == "a" else "a"
            if former and former.pop("beside", None):
                self._drop(name, slot)
            try:
                urls = self._start(name, wanted, slot)
            except BaseException:
                self._drop(name, slot)
                raise
            self._state.publications[name] = _kept(wanted, slot, urls)
            self._home.remember(self._state)
            if former:
                self._later(name, former["slot"])
            return urls

    def beside(self, name: str, wanted: Published) -> dict[str, str]:
        """See `Platform.beside`."""
        wanted = _checked(wanted)
        with self._mutex:
            former = self._state.publications.get(name)
            if former is None:
                raise NotFoundError("nothing is published.", where=name, fix="Run `fasttrack run` first.")
            known = former.get("beside")
            if known is not None and _identity(known) == (str(wanted.package), wanted.version, wanted.digest):
                running = {run.part.name for run in self._processes.runs() if run.state == "running"}
                if set(_parts(name, known["slot"], tuple(known.get("roles", servers.ROLES)))) <= running:
                    urls: dict[str, str] = known["urls"]
                    return urls
            self._retire_now()
            slot = "b" if former["slot"] == "a" else "a"
            if known is not None:
                self._drop(name, slot)
            try:
                found = self._start(name, wanted, slot)
            except BaseException:
                self._drop(name, slot)
                former.pop("beside", None)
                raise
            former["beside"] = _kept(wanted, slot, found)
            self._home.remember(self._state)
            return found

    def settle(self, name: str, version: int | None) -> None:
        """See `Platform.settle`."""
        with self._mutex:
            former = self._state.publications.get(name) or {}
            known = former.get("beside")
            if known is None:
                return
            left = known
            if known["version"] == version:
                self._state.publications[name], left = known, former
            del former["beside"]
            self._home.remember(self._state)
            self._later(name, left["slot"])

    def resume(self, name: str) -> None:
        """Start the servers of what was published before the platform was stopped.

        If they don't start, the platform goes on without them, or the model could never be published again: a note
        says so, and they stay listed as failed.
        """
        kept = self._state.publications[name]
        if "beside" in kept:
            self._resume(name, kept["beside"])
        self._resume(name, kept)

    def _resume(self, name: str, kept: dict[str, Any]) -> None:
        # Homes of the first version know neither version nor digest.
        wanted = Published(
            Path(kept["usecase"]), Path(kept["package"]), kept.get("version"), kept.get("digest", ""),
            in_process="predictor" not in kept.get("roles", servers.ROLES),
        )  # fmt: skip
        try:
            kept["urls"] = self._start(name, wanted, kept["slot"])
        except UnavailableError as error:
            self._processes.stop(_parts(name, kept["slot"]))
            note(f"{error}\nModel {name!r} is not served. Publish it again: `fasttrack run`.")
        self._home.remember(self._state)

    def close(self) -> None:
        """Forget what was to be stopped later: everything is stopped now."""
        if self._retiring is not None:
            self._retiring.cancel()
            self._retiring = None

    def _start(self, name: str, wanted: Published, slot: str) -> dict[str, str]:
        parts = servers.model_servers(name, wanted, slot, self._ports)
        self._home.remember(self._state)
        together({part.name: partial(self._processes.start, part) for part in parts})
        return servers.urls(name, wanted, slot, self._state.ports)

    def _later(self, name: str, slot: str) -> None:
        """Stop a slot's servers once the requests that are under way have ended."""
        self._retire_now()
        self._retiring = threading.Timer(_LINGER_SECONDS, self._drop, (name, slot))
        self._retiring.daemon = True
        self._retiring.start()

    def _retire_now(self) -> None:
        if self._retiring is not None:
            self._retiring.cancel()
            self._retiring.function(*self._retiring.args)
            self._retiring = None

    def _drop(self, name: str, slot: str) -> None:
        names = _parts(name, slot)
        self._processes.stop(names)
        for part in names:
            self._processes.forget(part)


def _checked(wanted: Published) -> Published:
    """What the use case says of its servers is part of what is published."""
    for path in (wanted.usecase, wanted.package):
        if not path.exists():
            raise NotFoundError(
                "the path does not exist.", where=str(path), fix="Give the use-case file and the package."
            )
    return replace(wanted, in_process=usecases.load(wanted.usecase).serving.in_process)


def _kept(wanted: Published, slot: str, urls: dict[str, str]) -> dict[str, Any]:
    paths = {"usecase": str(wanted.usecase), "package": str(wanted.package)}
    known = {"version": wanted.version, "digest": wanted.digest, "slot": slot, "urls": urls}
    return {**paths, **known, "roles": list(wanted.roles)}


def _identity(kept: dict[str, Any]) -> tuple[Any, ...]:
    return kept["package"], kept["version"], kept["digest"]


def _parts(name: str, slot: str, roles: tuple[str, ...] = servers.ROLES) -> list[str]:
    """The names of a slot's servers; of all that may be there by default."""
    return [servers.part_name(name, role, slot) for role in roles]
