"""The drain's worker processes: started, heard, replaced when killed, never left behind."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

import orjson

from fasttrack.errors import StepError
from fasttrack.ingest.job import Job, raise_failure
from fasttrack.progress import note

_STOP_SECONDS = 60.0
# More in so short a time is no accident: something kills every worker.
_MOST_REPLACED = 20
_REPLACED_SECONDS = 600.0


@dataclass(frozen=True)
class Progress:
    """One commit of a worker, or (without events) where a partition stands that it holds.

    Attributes:
        mark: the first offset that some table has not decided on.
        position: the first that is in none; `mark` lags behind it while a table has nothing to write.

    The rest as in `Written`.
    """

    stream: str
    partition: int
    mark: int
    position: int
    events: int
    landed: int
    duplicates: int
    dead: int
    files: int
    bytes: int
    late: int = 0
    watermark: int | None = None
    seconds: float = 0.0


class Crew:
    """Runs workers for the duration of a ``with`` block.

    On leaving the block the workers commit what they hold and leave the group; after an error they are told the same,
    and whoever does not leave in a minute is killed. Should this process die, they notice and end by themselves.

    Args:
        job: their orders.
        size: how many.
    """

    def __init__(self, job: Job, size: int) -> None:
        self._job = job
        self._size = size
        self._workers: list[subprocess.Popen[bytes]] = []
        self._said: queue.Queue[tuple[subprocess.Popen[bytes], bytes]] = queue.Queue()
        self._ears: list[threading.Thread] = []
        self._previous: Any = None
        self._replacements: list[float] = []
        #: How many processes were started so far.
        self.started = 0
        #: SIGTERM was received.
        self.stopping = False

    def __enter__(self) -> Crew:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._terminate)
        try:
            for _ in range(self._size):
                self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _terminate(self, _: int, __: FrameType | None) -> None:
        self.stopping = True

    def _start(self) -> None:
        command = [sys.executable, "-m", "fasttrack.ingest.process"]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._workers.append(worker)
        self.started += 1
        assert worker.stdin is not None
        worker.stdin.write(self._job.to_line())
        worker.stdin.flush()
        ear = threading.Thread(target=self._hear, args=(worker,), daemon=True)
        ear.start()
        self._ears.append(ear)

    def _hear(self, worker: subprocess.Popen[bytes]) -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            self._said.put((worker, line))
        self._said.put((worker, b""))

    def listen(self, seconds: float) -> Progress | None:
        """The next thing that a worker says; None if there is nothing for `seconds`, or a worker was replaced.

        Raises:
            FastTrackError: the one that a worker failed with.
        """
        deadline = time.monotonic() + seconds
        while not self.stopping and (wait := deadline - time.monotonic()) > 0:
            try:
                # Short waits, so that a signal's flag is seen soon.
                worker, line = self._said.get(timeout=min(wait, 0.2))
            except queue.Empty:
                continue
            if line:
                return self._read(line)
            self._gone(worker)
            return None
        return None

    @property
    def replaced(self) -> int:
        """How many workers were killed and replaced so far."""
        return self.started - self._size

    def last_words(self) -> Iterator[Progress]:
        """After the block: what the workers said on their way out, in which they commit what they hold.

        Raises:
            FastTrackError: the one that a worker failed with.
        """
        for ear in self._ears:
            ear.join()
        while not self._said.empty():
            _, line = self._said.get()
            if line:
                yield self._read(line)

    @staticmethod
    def _read(line: bytes) -> Progress:
        fields = orjson.loads(line)
        if "error" in fields:
            raise_failure(fields)
        return Progress(**fields)

    def _gone(self, worker: subprocess.Popen[bytes]) -> None:
        code = worker.wait()
        self._workers.remove(worker)
        if code == 0:
            # Somebody told it to stop (a SIGTERM to the whole group, say): so does the drain.
            self.stopping = True
            return
        if code > 0 and not self.stopping:
            raise StepError(
                f"a drain worker ended with code {code}.", where="drain",
                fix="See its message above. Nothing is lost: drain again.",
            )  # fmt: skip
        now = time.monotonic()
        self._replacements = [when for when in self._replacements if now - when < _REPLACED_SECONDS]
        if len(self._replacements) >= _MOST_REPLACED:
            raise StepError(
                f"{_MOST_REPLACED} workers were killed within {_REPLACED_SECONDS / 60:.0f} minutes.", where="drain",
                fix="Is there enough memory? Nothing is lost: drain again.",
            )  # fmt: skip
        self._replacements.append(now)
        note(f"a drain worker was killed by signal {-code}; another one takes over")
        self._start()

    def _end(self) -> None:
        for worker in self._workers:
            try:
                assert worker.stdin is not None
                worker.stdin.write(b"stop\n")
                worker.stdin.close()
            except BrokenPipeError:
                # It ended already.
                continue
        deadline = time.monotonic() + _STOP_SECONDS
        for worker in self._workers:
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
