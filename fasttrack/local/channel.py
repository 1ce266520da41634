"""How other processes reach the one that supervises a home: JSON messages over an authenticated loopback connection.

The address and a random key stand in ``control.json``, which only the home's owner can read. A Unix socket would need
a path of at most 107 characters, which a home needn't have.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from dataclasses import asdict
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from typing import TYPE_CHECKING, Any

from fasttrack import errors
from fasttrack.errors import FastTrackError, UnavailableError
from fasttrack.local.home import Home
from fasttrack.local.part import HOST

if TYPE_CHECKING:
    from fasttrack.local.platform import Platform

_LARGEST_MESSAGE = 2**20


class Channel:
    """The listening side, in threads of the supervising process."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._key = secrets.token_hex(32)
        self._listener = Listener((HOST, 0))
        self._closed = False
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def address(self) -> dict[str, Any]:
        """What a client must know."""
        return {"pid": os.getpid(), "port": self._listener.address[1], "key": self._key}

    def close(self) -> None:
        """Listen no more."""
        self._closed = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection = self._listener.accept()
            except OSError:
                # One that went away at once, or the end.
                continue
            threading.Thread(target=self._serve, args=(connection,), name="control-call", daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        with connection:
            try:
                # Here and not in accept(): a stranger that says nothing must not keep others waiting.
                deliver_challenge(connection, self._key.encode())
                answer_challenge(connection, self._key.encode())
            except (OSError, EOFError, AuthenticationError):
                return
            try:
                request = json.loads(connection.recv_bytes(_LARGEST_MESSAGE))
                answer = {"result": self._do(**request)}
            except FastTrackError as error:
                answer = {"error": describe(error)}
            except (OSError, EOFError, ValueError, TypeError) as error:
                answer = {"error": describe(UnavailableError(f"the request failed: {error}.", fix="Try again."))}
            try:
                connection.send_bytes(json.dumps(answer).encode())
            except OSError:
                # Who asked has gone; what was asked is done.
                return

    def _do(self, op: str, **arguments: Any) -> Any:
        if op == "status":
            return [asdict(part) for part in self._platform.status()]
        if op == "publish":
            return self._platform.publish(**arguments)
        if op == "beside":
            return self._platform.beside(**arguments)
        if op == "settle":
            return self._platform.settle(**arguments)
        if op == "stop":
            self._platform.stop()
            return True
        raise UnavailableError(f"the platform doesn't know {op!r}.", fix="Stop it and start it with this version.")


def call(home: Home, op: str, timeout: float, **arguments: Any) -> Any:
    """Ask the process that supervises `home`.

    Args:
        home: the home.
        op: "status", "publish", "beside", "settle" or "stop".
        timeout: seconds to wait for the answer.
        arguments: of the operation.

    Raises:
        UnavailableError: nobody answers.
        FastTrackError: what the operation raised there.
    """
    known = home.control()
    try:
        with Client((HOST, known["port"]), authkey=known["key"].encode()) as connection:
            connection.send_bytes(json.dumps({"op": op, **arguments}).encode())
            if not connection.poll(timeout):
                raise UnavailableError(
                    f"the platform did not answer {op!r} within {timeout:.0f} s.", fix="Run `fasttrack down`."
                )
            answer = json.loads(connection.recv_bytes(_LARGEST_MESSAGE))
    except (KeyError, OSError, EOFError, AuthenticationError) as error:
        raise UnavailableError(
            "the platform is not up.", where=str(home.root), fix="Start it with `fasttrack up`."
        ) from error
    if "error" in answer:
        raise rebuild(answer["error"])
    return answer["result"]


def describe(error: FastTrackError) -> dict[str, Any]:
    """An error as JSON."""
    return {"type": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}


def rebuild(found: dict[str, Any]) -> FastTrackError:
    """The error that `describe` wrote."""
    told = {"where": found["where"], "fix": found["fix"]}
    return errors.rebuild(found["type"], found["what"], **told) or FastTrackError(found["what"], **told)
