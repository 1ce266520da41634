"""SIGTERM, which ends a block as Ctrl-C does: what is left is cleaned up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interruptible(*, once: bool = False) -> Iterator[None]:
    """Let SIGTERM end the block with a KeyboardInterrupt. Outside the main thread, which gets the signals, it can't.

    Args:
        once: ignore a second one until the block is left: it must not end the cleaning up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        if once:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
