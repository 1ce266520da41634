"""Named steps of a drain at which the fault tests kill or stop it, wrapped from outside the product.

Everything here runs in processes that `zygote` forked and that do nothing but drain.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from fasttrack.ingest import worker
from fasttrack.ingest.partition import PartitionWriter
from fasttrack.ingest.worker import Worker
from fasttrack.lake import append, storage, tables
from fasttrack.lake.append import Ledger

#: In a worker; in a parent only `PARENT`.
STEPS = (
    "messages buffered, nothing written",
    "file written, not synced",
    "file synced, not committed",
    "offset checked, not committed",
    "committed, not synced",
    "landed committed, duplicates not",
    "duplicates committed, dead letters not",
    "all committed, Kafka not told",
    "index rebuilt",
    "partitions assigned",
    "partitions revoked",
)
PARENT = "tables made, not synced"


class Trap:
    """Does something at the n-th time that a step is reached.

    Args:
        folder: where what happened is noted, for the test to see.
        orders: dicts of ``step``, ``nth`` and ``do``: ``kill``, ``stop``, ``kill all`` (the parent first).
    """

    def __init__(self, folder: Path, orders: list[dict[str, Any]]) -> None:
        self._folder, self._orders = folder, orders
        self._counts: dict[str, int] = {}

    def reach(self, step: str) -> None:
        """The process is at this step."""
        self._counts[step] = self._counts.get(step, 0) + 1
        for order in self._orders:
            if order["step"] == step and order["nth"] == self._counts[step]:
                self.note("fired", step=step, pid=os.getpid())
                if order["do"] == "kill all" and step != PARENT:
                    os.kill(os.getppid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGSTOP if order["do"] == "stop" else signal.SIGKILL)

    def note(self, kind: str, **fields: Any) -> None:
        """Append one line to the file of that kind."""
        line = (json.dumps(fields) + "\n").encode()
        handle = os.open(self._folder / kind, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line)
        finally:
            os.close(handle)


def in_parent(trap: Trap) -> None:
    """Wrap what the parent does."""
    _before(tables, "sync_table", lambda _, made: trap.reach(PARENT) if made else None)


def in_worker(trap: Trap) -> None:
    """Wrap what a worker does."""
    _before(PartitionWriter, "write", lambda *_: trap.reach(STEPS[0]))
    _before(os, "fsync", lambda fd: _file_step(trap, fd))
    _before(storage, "_put", lambda *_: trap.reach(STEPS[1]))
    _before(Ledger, "_commit", lambda *_: trap.reach(STEPS[2]))
    _before(DeltaTable, "create_write_transaction", lambda *_, **__: trap.reach(STEPS[3]))
    _before(append, "sync_log", lambda *_: trap.reach(STEPS[4]))
    _before(Ledger, "append", lambda ledger, *_: _table_step(trap, ledger))
    _before(worker, "show_lag", lambda *_: trap.reach(STEPS[7]))
    _after(PartitionWriter, "_index", lambda *_: trap.reach(STEPS[8]))
    _after(Worker, "_assigned", lambda _, __, places: _places(trap, "assigned", STEPS[9], places))
    _before(Worker, "_revoked", lambda _, __, places: _places(trap, "revoked", STEPS[10], places))


def _file_step(trap: Trap, handle: int) -> None:
    if Path(f"/proc/self/fd/{handle}").readlink().suffix == ".parquet":
        trap.reach(STEPS[1])


def _table_step(trap: Trap, ledger: Ledger) -> None:
    name = Path(ledger.path).name
    if name == "duplicates":
        trap.reach(STEPS[5])
    elif name == "dead_letters":
        trap.reach(STEPS[6])


def _places(trap: Trap, kind: str, step: str, places: list[Any]) -> None:
    if places:
        trap.note(kind, pid=os.getpid(), count=len(places))
        trap.reach(step)


def _before(owner: Any, name: str, hook: Callable[..., None]) -> None:
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        hook(*args, **kwargs)
        return real(*args, **kwargs)

    setattr(owner, name, wrapped)


def _after(owner: Any, name: str, hook: Callable[..., None]) -> None:
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        hook(*args, **kwargs)
        return found

    setattr(owner, name, wrapped)
