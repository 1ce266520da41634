"""Processes that compact a table again and again, killed from outside or by themselves at a named step."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from fasttrack.lake import compaction, rewrite
from fasttrack.lake.compaction import Policy, compact

STEPS = (
    "file begun",
    "file written, not synced",
    "file synced, not committed",
    "files seen, not committed",
    "committed, not synced",
    "synced",
)


def _before(owner: Any, name: str, hook: Callable[..., None]) -> None:
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        hook(*args, **kwargs)
        return real(*args, **kwargs)

    setattr(owner, name, wrapped)


def _trap(step: str) -> None:
    def reach(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def synced(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().suffix == ".parquet":
            reach(STEPS[1])

    _before(rewrite.pq, "ParquetWriter", lambda *_, **__: reach(STEPS[0]))
    _before(rewrite.os, "fsync", synced)
    _before(compaction, "_replace", lambda *_: reach(STEPS[2]))
    _before(DeltaTable, "create_write_transaction", lambda *_, **__: reach(STEPS[3]))
    _before(compaction, "sync_log", lambda *_: reach(STEPS[4]))
    _before(compaction, "_count", lambda *_: reach(STEPS[5]))


def main() -> None:
    """For each line on stdin, ``path<tab>step``, fork a process that compacts; its id goes to stdout.

    One that has a step compacts once, one without for ever. Forked, as to import everything anew takes seconds; that is
    safe, as this process itself never uses what it has imported.
    """
    for line in sys.stdin:
        path, step = line.rstrip("\n").split("\t")
        if child := os.fork():
            print(child, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        if step:
            _trap(step)
        while True:
            compact(path, Policy(least=3))
            if step:
                os._exit(0)


if __name__ == "__main__":
    main()
