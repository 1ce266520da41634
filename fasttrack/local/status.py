"""How the parts are."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psutil

from fasttrack.local.part import HOST
from fasttrack.local.process import Run


@dataclass(frozen=True)
class PartStatus:
    """How a part is.

    Attributes:
        state: ``starting``, ``running``, ``restarting``, ``stopping``, ``stopped`` or ``failed``.
        address: host:port.
        memory_mb: resident memory of it and its children, in MiB.
        restarts: how often it was started again after a crash.
        log: path of its log file.
    """

    name: str
    state: str
    address: str
    pid: int | None = None
    memory_mb: int | None = None
    restarts: int = 0
    log: str = ""


def part_status(run: Run) -> PartStatus:
    """The status of a part that this process supervises."""
    port = next(iter(run.part.ports.values()), 0)
    alive = bool(run.pid) and run.state in ("starting", "running", "stopping")
    return PartStatus(
        name=run.part.name,
        state=run.state,
        address=f"{HOST}:{port}" if port else "",
        pid=run.pid if alive else None,
        memory_mb=_memory_mb(run.pid) if alive else None,
        restarts=run.restarts,
        log=str(run.log),
    )


def _memory_mb(pid: int) -> int | None:
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        process = psutil.Process(pid)
        total = sum(p.memory_info().rss for p in [process, *process.children(recursive=True)])
    return round(total / 2**20) or None
