"""The keeper: a small process that starts the parts, collects their output, and ends them when its owner is gone.

It is run as a plain script (standard library only, `process.Processes` is its owner). Requests come as JSON lines on
stdin, events go as JSON lines to stdout. Whatever ends the owner, SIGKILL included, closes the pipe: the keeper then
ends every part. On Linux a part also dies with the keeper (PR_SET_PDEATHSIG, which is tied to the thread that forks:
one more reason for a process that has a single one).
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

#: A log is moved to `<name>.log.1` when it would grow over this many bytes.
LOG_LIMIT = 4 * 2**20
_GRACE_SECONDS = 12.0
_PR_SET_PDEATHSIG = 1


class Log:
    """A part's log file, at most two times `LOG_LIMIT` on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Append; what a full disk refuses is dropped, because a part must not stop for its log."""
        try:
            if self._file.tell() + len(data) > LOG_LIMIT:
                self._file.close()
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self._file = self.path.open("ab", buffering=0)
            self._file.write(data)
        except OSError as error:
            print(f"{self.path}: {error.strerror}", file=sys.stderr)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Child:
    """A started part."""

    def __init__(self, process: subprocess.Popen[bytes], log: Log, stop_signal: int) -> None:
        self.process = process
        self.log = log
        self.stop_signal = stop_signal


class Keeper:
    """The loop; see the module's text."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._buffer = b""
        self._owner = os.getppid()
        self._ending = False
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None

    def run(self) -> None:
        """Serve until the owner is gone or SIGTERM comes, then end what still runs."""
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        # Handlers, not SIG_IGN: an ignored signal would stay ignored in the parts.
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, "requests")
        self._selector.register(wake, selectors.EVENT_READ, "signals")
        # The parent's pid changes when the owner dies, even if a fork of it still holds the pipe open.
        while not self._ending and os.getppid() == self._owner:
            self._turn(1.0)
        self._end_all()

    def _end(self, *_: object) -> None:
        self._ending = True

    def _turn(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            if key.data == "signals":
                os.read(key.fd, 4096)
            elif key.data == "requests":
                self._read_requests(key.fd)
            else:
                self._pump(key.fd, key.data)
        self._reap()

    def _read_requests(self, fd: int) -> None:
        data = os.read(fd, 65536)
        if not data:
            self._ending = True
            self._selector.unregister(fd)
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._serve(json.loads(line))

    def _serve(self, request: dict[str, Any]) -> None:
        if request["op"] == "spawn":
            try:
                pid = self._spawn(request)
            except (OSError, subprocess.SubprocessError) as error:
                tell({"event": "refused", "id": request["id"], "error": str(error)})
            else:
                tell({"event": "spawned", "id": request["id"], "pid": pid})
        elif request["op"] == "signal" and request["pid"] in self._children:
            kill_group(request["pid"], request["signal"])

    def _spawn(self, request: dict[str, Any]) -> int:
        user, group = request["user"] or (None, None)
        log = Log(Path(request["log"]))
        process = subprocess.Popen(
            request["argv"],
            env=request["environment"],
            cwd=request["folder"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if group is None else [group],
            preexec_fn=self._tie if self._libc else None,
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        self._selector.register(process.stdout.fileno(), selectors.EVENT_READ, (log, process.stdout))
        self._children[process.pid] = Child(process, log, request["stop_signal"])
        return process.pid

    def _tie(self) -> None:
        # After the change of user, which would clear it.
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def _pump(self, fd: int, source: tuple[Log, IO[bytes]]) -> None:
        log, stream = source
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        if data:
            log.write(data)
        else:
            self._selector.unregister(fd)
            stream.close()
            log.close()

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            code = child.process.poll()
            if code is not None:
                del self._children[pid]
                # Whatever the part has started and left behind goes with it.
                kill_group(pid, signal.SIGKILL)
                tell({"event": "exited", "pid": pid, "code": code})

    def _end_all(self) -> None:
        for pid, child in self._children.items():
            kill_group(pid, child.stop_signal)
        deadline = time.monotonic() + _GRACE_SECONDS
        while self._children and time.monotonic() < deadline:
            self._turn(0.1)
        for pid in self._children:
            kill_group(pid, signal.SIGKILL)
        while self._children:
            self._turn(0.1)


def kill_group(pid: int, number: int) -> None:
    """Signal a part and all that it has started."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        # Gone already; macOS says "not permitted" of a group that only has zombies.
        return


def tell(event: dict[str, Any]) -> None:
    """Report to the owner, if there still is one."""
    try:
        os.write(sys.stdout.fileno(), json.dumps(event).encode() + b"\n")
    except BrokenPipeError:
        return


if __name__ == "__main__":
    Keeper().run()
