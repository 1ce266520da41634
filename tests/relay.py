"""A road to a server that can be closed, silent, or cut in the middle of a request: a relay in a process of its own."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

_CHUNK = 65_536
_NEVER = 2**60

Weather = Literal["open", "closed", "silent", "cut"]


class Road:
    """The relay, from outside.

    Attributes:
        address: where it listens.
        cuts: connections that were reset while something was on its way, as of the last change of weather.
    """

    def __init__(self, process: subprocess.Popen[bytes], address: tuple[str, int]) -> None:
        self.address, self.cuts, self._process = address, 0, process

    def weather(self, weather: Weather) -> None:
        """Change it.

        ``open``; ``closed``: connections are refused, those that are there are reset; ``silent``: they are made, and
        nothing passes; ``cut``: one of eight is reset after some bytes, in either direction.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(weather.encode() + b"\n")
        self._process.stdin.flush()
        self.cuts = int(self._process.stdout.readline())


@contextmanager
def road(to: tuple[str, int], seed: int = 0) -> Iterator[Road]:
    """A relay to a server's address."""
    command = [sys.executable, __file__, str(to[1]), str(seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield Road(process, ("127.0.0.1", int(process.stdout.readline())))
        finally:
            process.kill()


class _Relay:
    """The relay's own process: does what `Road.weather` says."""

    def __init__(self, to: tuple[str, int], seed: int = 0) -> None:
        self._to, self._chance = to, random.Random(seed)
        self.weather = "open"
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._left: dict[socket.socket, int] = {}
        #: Connections that were reset while something was on its way.
        self.cuts = 0

    def work(self) -> None:
        """Relay until stdin ends; each line of it is a new weather, answered by how many connections were cut."""
        while True:
            readable: list[Any] = [sys.stdin, *([self._listener] if self._listener else [])]
            readable += [] if self.weather == "silent" else list(self._pairs)
            for ready in select.select(readable, [], [])[0]:
                if ready is sys.stdin:
                    if not (line := sys.stdin.buffer.raw.readline()):  # type: ignore[attr-defined]
                        return
                    self.weather = line.decode().strip()
                    self._listen()
                    print(self.cuts, flush=True)
                elif ready is self._listener:
                    self._accept(ready)
                elif ready in self._pairs:
                    self._pass(ready)

    def _listen(self) -> None:
        if self.weather == "closed":
            for each in list(self._pairs):
                self._reset(each)
            if self._listener:
                self._listener.close()
                self._listener = None
        elif self._listener is None:
            self._listener = socket.create_server(self.address)

    def _accept(self, listener: socket.socket) -> None:
        ours, _ = listener.accept()
        theirs = socket.create_connection(self._to)
        self._pairs |= {ours: theirs, theirs: ours}

    def _pass(self, ready: socket.socket) -> None:
        other = self._pairs[ready]
        try:
            content = ready.recv(_CHUNK)
            if not content:
                self._end(ready)
                return
            if self.weather == "cut":
                left = self._left.setdefault(ready, self._fate())
                self._left[ready] = left - len(content)
                if len(content) > left:
                    self.cuts += 1
                    other.sendall(content[:left])
                    content = b""
            if content:
                other.sendall(content)
                return
        except OSError:
            pass
        self._reset(ready)

    def _end(self, each: socket.socket) -> None:
        """One side has said all: what is on its way to the other still arrives."""
        for end in (each, self._pairs.pop(each)):
            self._pairs.pop(end, None)
            self._left.pop(end, None)
            end.close()

    def _fate(self) -> int:
        """After how many bytes of one direction a connection is cut: most never are."""
        return self._chance.choice([0, self._chance.randrange(3000), *[_NEVER] * 30])

    def _reset(self, each: socket.socket) -> None:
        for end in (each, self._pairs.pop(each, None)):
            if end is not None:
                self._pairs.pop(end, None)
                self._left.pop(end, None)
                # Linger of 0 s: a reset, not an end.
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                end.close()


if __name__ == "__main__":
    relay = _Relay(("127.0.0.1", int(sys.argv[1])), int(sys.argv[2]))
    print(relay.address[1], flush=True)
    relay.work()
