"""Supervised processes: started through a keeper, watched, started again when they crash, ended in order."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fasttrack.errors import NotFoundError, UnavailableError
from fasttrack.local import keeper
from fasttrack.local.part import Part, make_folder
from fasttrack.progress import note

_LAST_LINES = 12
_RESTARTS_ALLOWED = 5
_SETTLED_SECONDS = 60.0


@dataclass
class Run:
    """A part and what has become of it.

    Attributes:
        state: ``starting``, ``running``, ``restarting``, ``stopping``, ``stopped`` or ``failed``.
        restarts: how often it was started again after a crash.
    """

    part: Part
    log: Path
    pid: int = 0
    state: str = "starting"
    restarts: int = 0
    code: int | None = None
    ready_at: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)


class Processes:
    """The processes of one home.

    Args:
        logs: folder of the log files.
        environment: gives the variables that every part gets, at the time it is started.
        lock: file descriptor of the home's lock; the keeper holds it too, so that the home stays locked until the last
            part has ended, even when this process was killed.
    """

    def __init__(self, logs: Path, environment: Callable[[], Mapping[str, str]], lock: int | None = None) -> None:
        self._logs = make_folder(logs)
        self._environment = environment
        self._runs: dict[str, Run] = {}
        self._by_pid: dict[int, Run] = {}
        self._early: dict[int, int] = {}
        self._replies: dict[int, dict[str, Any]] = {}
        self._changed = threading.Condition(threading.RLock())
        self._numbers = itertools.count()
        self._closed = False
        self.on_change: Callable[[], None] = lambda: None
        with (self._logs / "keeper.log").open("ab") as errors:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            )
        threading.Thread(target=self._listen, name="keeper-events", daemon=True).start()

    # ---- start

    def start(self, part: Part) -> Run:
        """Start a part and wait until it is ready.

        Raises:
            UnavailableError: it ended, or was not ready in time; the error shows the end of its log.
        """
        run = Run(part, self._logs / f"{part.name}.log")
        with self._changed:
            self._runs[part.name] = run
        try:
            self._spawn(run)
            self._await_ready(run)
        except BaseException:
            self.stop([part.name])
            run.state = "failed"
            raise
        return run

    def _spawn(self, run: Run) -> None:
        number = next(self._numbers)
        part = run.part
        run.ended.clear()
        run.code = None
        request = {
            "op": "spawn",
            "id": number,
            "argv": list(part.argv),
            "environment": {**self._environment(), **part.environment},
            # An account of its own may not enter the folder of the logs.
            "folder": "/" if part.user else str(self._logs),
            "log": str(run.log),
            "stop_signal": int(part.stop_signal),
            "user": part.user,
        }
        with self._changed:
            self._send(request)
            self._changed.wait_for(lambda: number in self._replies or self._closed)
            if self._closed:
                raise UnavailableError("the platform is being stopped.", fix="Start it again with `fasttrack up`.")
            reply = self._replies.pop(number)
            if "error" in reply:
                raise UnavailableError(
                    f"{part.name} can't be started: {reply['error']}.", fix="Run `fasttrack doctor`."
                )
            run.pid = reply["pid"]
            self._by_pid[run.pid] = run
            if run.pid in self._early:
                self._mark_ended(run, self._early.pop(run.pid))
        self.on_change()

    def _await_ready(self, run: Run) -> None:
        deadline = time.monotonic() + run.part.timeout
        while time.monotonic() < deadline:
            if run.ended.is_set():
                raise self._broken(run, f"ended at once (exit code {run.code})")
            with contextlib.suppress(OSError):
                if run.part.ready():
                    run.state, run.ready_at = "running", time.monotonic()
                    return
            run.ended.wait(0.05)
        raise self._broken(run, f"was not ready within {run.part.timeout:.0f} s")

    def _broken(self, run: Run, what: str) -> UnavailableError:
        tail = "\n".join(f"    {line}" for line in last_lines(run.log))
        return UnavailableError(
            f"{run.part.name} {what}. Its log ends with:\n{tail}\n", where=str(run.log), fix="Run `fasttrack doctor`."
        )

    # ---- watch

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._keeper.stdin is not None
        try:
            self._keeper.stdin.write(json.dumps(request).encode() + b"\n")
            self._keeper.stdin.flush()
        except (OSError, ValueError) as error:
            raise UnavailableError("the platform's keeper process is gone.", fix="Run `fasttrack up` again.") from error

    def _listen(self) -> None:
        assert self._keeper.stdout is not None
        for line in self._keeper.stdout:
            event = json.loads(line)
            with self._changed:
                if event["event"] == "exited":
                    run = self._by_pid.pop(event["pid"], None)
                    if run is None:
                        self._early[event["pid"]] = event["code"]
                    else:
                        self._mark_ended(run, event["code"])
                else:
                    self._replies[event["id"]] = event
                self._changed.notify_all()
        self._lost_keeper()

    def _mark_ended(self, run: Run, code: int) -> None:
        run.code = code
        was, run.state = run.state, "stopped" if run.state == "stopping" else run.state
        run.ended.set()
        if was == "running":
            run.state = "restarting"
            threading.Thread(target=self._restart, args=(run,), name=f"restart-{run.part.name}", daemon=True).start()

    def _restart(self, run: Run) -> None:
        if time.monotonic() - run.ready_at > _SETTLED_SECONDS:
            run.restarts = 0
        run.restarts += 1
        name = run.part.name
        note(
            f"{name} ended unexpectedly (exit code {run.code}); starting it again ({run.restarts}/{_RESTARTS_ALLOWED})."
        )
        try:
            if run.restarts > _RESTARTS_ALLOWED:
                raise self._broken(run, f"crashed {run.restarts} times")
            time.sleep(0.2 * 2 ** (run.restarts - 1))
            with self._changed:
                if self._closed or run.state != "restarting":
                    return
            self._spawn(run)
            self._await_ready(run)
        except UnavailableError as error:
            if run.state != "stopped" and not self._closed:
                run.state = "failed"
                note(str(error))

    def _lost_keeper(self) -> None:
        with self._changed:
            unexpected, self._closed = not self._closed, True
            left = list(self._by_pid.values())
            for run in left:
                # Linux has killed them with the keeper; elsewhere nobody has.
                keeper.kill_group(run.pid, signal.SIGKILL)
                run.state = "failed" if unexpected else "stopped"
                run.ended.set()
            self._by_pid.clear()
            self._changed.notify_all()
        if unexpected:
            note("The platform's keeper process was killed: all parts are down. Run `fasttrack up` again.")

    # ---- look

    def runs(self) -> list[Run]:
        """Every part that was started, in that order."""
        with self._changed:
            return list(self._runs.values())

    def get(self, name: str) -> Run:
        """The part called `name`.

        Raises:
            NotFoundError: it was never started.
        """
        with self._changed:
            if name not in self._runs:
                raise NotFoundError(f"there is no part {name!r}.", fix=f"The parts are: {', '.join(self._runs)}.")
            return self._runs[name]

    @property
    def alive(self) -> bool:
        """Whether the keeper still runs; without it no part does."""
        return not self._closed

    # ---- stop

    def stop(self, names: list[str]) -> None:
        """Ask these parts to end, all at once; those that don't within their grace are killed."""
        with self._changed:
            runs = [self._runs[name] for name in names if name in self._runs]
            for run in runs:
                run.state = "stopping" if run.pid in self._by_pid else "stopped"
                if run.state == "stopping":
                    self._signal(run, run.part.stop_signal)
        for run in runs:
            if run.pid and run.state == "stopping" and not run.ended.wait(run.part.grace):
                self._signal(run, signal.SIGKILL)
                run.ended.wait(5.0)
        self.on_change()

    def forget(self, name: str) -> None:
        """Drop a stopped part from the list."""
        with self._changed:
            self._runs.pop(name, None)

    def _signal(self, run: Run, number: int) -> None:
        # Without a keeper there is nothing left to signal.
        with contextlib.suppress(UnavailableError):
            self._send({"op": "signal", "pid": run.pid, "signal": int(number)})

    def close(self) -> None:
        """End the keeper, and with it whatever still runs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        assert self._keeper.stdin is not None
        with contextlib.suppress(OSError):
            self._keeper.stdin.close()
        self._keeper.wait()


def last_lines(path: Path, count: int = _LAST_LINES) -> list[str]:
    """The end of a log file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 16384))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ["(no log)"]
    return text.splitlines()[-count:] or ["(the log is empty)"]
