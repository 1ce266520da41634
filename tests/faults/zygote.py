"""Forks drains from one process that has everything imported, so that a thousand of them cost little.

``python -m tests.faults.zygote SOCKET``: each order comes over the socket with the pipe that tells the drain's end.
From the fork on a drain runs the product's code: its workers are processes of their own, forked before it has any
thread, and handed out where the product would start them.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from fasttrack.errors import FastTrackError
from fasttrack.ingest import crew, work
from fasttrack.ingest.drain import drain
from fasttrack.settings import Settings
from tests.faults import powercut, steps
from tests.faults.load import usecase

_ORDER_BYTES = 65_536
_REPLACEMENTS = 4


class _Spares:
    """Worker processes that wait for their orders; children of this process."""

    def __init__(self, order: dict[str, Any], ending: int) -> None:
        self._spares: list[tuple[int, socket.socket]] = []
        for _ in range(order["workers"] + _REPLACEMENTS):
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if not pid:
                # Else neither our parent's end nor this drain's would be seen.
                for descriptor in (ours, *(spare for _, spare in self._spares)):
                    descriptor.close()
                os.close(ending)
                _wait(theirs, order)
            theirs.close()
            self._spares.append((pid, ours))

    def take(self, stdin: int, stdout: int) -> int:
        """Make a spare the worker at the other ends of two pipes; its process id."""
        pid, spare = self._spares.pop(0)
        socket.send_fds(spare, [b"go"], [stdin, stdout])
        spare.close()
        return pid


def _wait(orders: socket.socket, order: dict[str, Any]) -> None:
    """A spare's life."""
    word, pipes, _, _ = socket.recv_fds(orders, 16, 2)
    code = 1
    if word:
        os.dup2(pipes[0], 0)
        os.dup2(pipes[1], 1)
        for descriptor in (*pipes, orders.fileno()):
            os.close(descriptor)
        folder = Path(order["folder"])
        (folder / f"worker-{os.getpid()}").touch()
        trap = steps.Trap(folder, order["steps"])
        if order["record"]:
            powercut.record(trap.note, os.environ["FASTTRACK_LAKE"])
        steps.in_worker(trap)
        try:
            code = work.main()
        except BaseException:
            traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def _popen(spares: _Spares) -> type[subprocess.Popen[bytes]]:
    """`subprocess.Popen`, but its process is a spare that has just waited for this."""

    class Forked(subprocess.Popen[bytes]):
        def _execute_child(self, *args: Any) -> None:
            # After ten settings of the program: its end of stdin, ours, our end of stdout, its.
            stdin, _, _, stdout = args[10:14]
            self.pid = spares.take(stdin, stdout)
            self._child_created = True
            os.close(stdin)
            os.close(stdout)
            self._closed_child_pipe_fds = True

    return Forked


def _drain(order: dict[str, Any], ending: int) -> None:
    """A drain's life: as the command's, with its exit code written to the pipe at the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    folder = Path(order["folder"])
    said = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order["settings"])
    if order["file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], order["file_bytes"]))
    code = 1
    try:
        crew.subprocess.Popen = _popen(_Spares(order, ending))  # type: ignore[misc]
        trap = steps.Trap(folder, order["steps"])
        if order["record"]:
            powercut.record(trap.note, order["settings"]["FASTTRACK_LAKE"])
        steps.in_parent(trap)
        wanted = {name: order[name] for name in ("workers", "until", "group", "batch_events")}
        drain(usecase(order["usecase"]), Settings.from_environment(), **wanted)
        code = 0
    except FastTrackError as error:
        print(type(error).__name__, error, file=sys.stderr, flush=True)
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os.write(ending, b"%d" % code)
    os._exit(code)


def main() -> None:
    """Fork a drain for every order, until the socket is closed."""
    orders = socket.socket(fileno=int(sys.argv[1]))
    # Drains are nobody's zombies; whoever ordered one sees its end by the pipe.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        line, pipes, _, _ = socket.recv_fds(orders, _ORDER_BYTES, 1)
        if not line:
            return
        pid = os.fork()
        if not pid:
            orders.close()
            _drain(json.loads(line), pipes[0])
        os.close(pipes[0])
        orders.send(b"%d" % pid)


if __name__ == "__main__":
    main()
