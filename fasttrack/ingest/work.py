"""What a drain worker's process does: orders from stdin, reports on stdout; started by `fasttrack.ingest.process`."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from io import FileIO

from fasttrack.errors import FastTrackError
from fasttrack.ingest.job import Job, failure
from fasttrack.ingest.worker import Worker
from fasttrack.lake.storage import riding_out


def _listen(worker: Worker, orders: FileIO) -> None:
    """Watch stdin: a line says stop, its end that the parent is gone."""
    line = orders.readline()
    (worker.stop if line else worker.orphaned).set()


@riding_out()
def main() -> int:
    """Read a job from stdin, drain, report on stdout; the exit code is the error's."""
    # Ctrl-C reaches the whole foreground group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Hundreds of thousands of small objects live for a moment here and hold no cycles: look for cycles seldom.
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)
    # Unbuffered: a thread that waits in a buffered read holds a lock that the interpreter wants at its end.
    orders = FileIO(0, closefd=False)
    job = Job.from_line(orders.readline())
    try:
        worker = Worker(job)
        signal.signal(signal.SIGTERM, lambda *_: worker.stop.set())
        threading.Thread(target=_listen, args=(worker, orders), daemon=True).start()
        worker.run()
    except FastTrackError as error:
        Worker.say(**failure(error))
        return error.exit_code
    except BrokenPipeError:
        # The parent is gone and nobody listens; what was committed is in the tables.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0
