"""Run a few blocking tasks at once; the first error ends the wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping


def together(tasks: Mapping[str, Callable[[], object]]) -> None:
    """Run all tasks, each in a thread, and wait for them.

    The threads are daemons: an interrupted start must not wait for one that still downloads.

    Args:
        tasks: by name, which becomes the thread's.

    Raises:
        BaseException: the first error of a task; the others then go on by themselves.
    """
    done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def run(task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:
            done.put(error)
        else:
            done.put(None)

    for name, task in tasks.items():
        threading.Thread(target=run, args=(task,), name=name, daemon=True).start()
    for _ in tasks:
        error = done.get()
        if error is not None:
            raise error
