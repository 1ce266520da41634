"""Peak memory of this process and all its children, sampled."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil


class MemoryWatch:
    """Samples the memory of the process tree while the block runs.

    On Linux the proportional set size is summed (proc(5), ``smaps_rollup``), so that pages shared between processes
    count once; elsewhere the resident set sizes are, which overstates it.

    Attributes:
        peak_mb: the largest sum seen, in MiB.
    """

    def __init__(self, interval: float = 2.0) -> None:
        self.peak_mb = 0.0
        self._interval = interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._done.wait(self._interval):
            self.peak_mb = max(self.peak_mb, tree_mb(me))


def tree_mb(root: psutil.Process) -> float:
    """Memory of `root` and all its descendants, in MiB."""
    return round(sum(_process_bytes(process) for process in [root, *root.children(recursive=True)]) / 2**20, 1)


def _process_bytes(process: psutil.Process) -> int:
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as rollup:  # noqa: PTH123
            return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss:"))
    except (OSError, StopIteration):
        pass
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        # It ended between being listed and being looked at.
        return 0
