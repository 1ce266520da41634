"""Small files put together while a drain goes on and on, in a thread of its parent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fasttrack.errors import FastTrackError
from fasttrack.lake.compaction import AUTOMATIC, Compaction, compact
from fasttrack.progress import note

EVERY_SECONDS = 30.0


@contextmanager
def compacting(
    paths: Sequence[str], observe: Callable[[Compaction], None] = lambda done: None
) -> Iterator[threading.Event]:
    """During the block, look at the tables every half minute and compact those with many small files.

    Several drains may do so at once: of two that want the same files one has them, the other leaves them. What fails is
    told and tried again, for a drain must not stop because its tables can't be tidied.

    Args:
        paths: the tables.
        observe: told what was done to a table.

    Yields:
        What to set where the end is near: the block's end then waits for less.
    """
    end = threading.Event()
    failures: list[BaseException] = []

    def look() -> None:
        try:
            while not end.wait(EVERY_SECONDS):
                for path in paths:
                    _tend(path, end, observe)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=look, name="compaction", daemon=True)
    thread.start()
    try:
        yield end
    finally:
        end.set()
        thread.join()
    if failures:
        raise failures[0]


def _tend(path: str, end: threading.Event, observe: Callable[[Compaction], None]) -> None:
    if end.is_set():
        return
    try:
        observe(compact(path, AUTOMATIC, stop=end.is_set))
    except FastTrackError as error:
        note(f"small files are left for now: {error}")
