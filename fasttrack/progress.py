"""Progress of long work: a bar on a terminal, a line every few seconds elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_LINE_EVERY_SECONDS = 5.0


class Bar:
    """Counts work done; `advance` is cheap enough to be called for every batch."""

    def __init__(self, title: str, total: float | None, unit: str, display: Progress | None) -> None:
        self.title = title
        self.total = total
        self.unit = unit
        self.done = 0.0
        self._display = display
        self._task = display.add_task(title, total=total) if display else None
        self._started = self._printed = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        """Add `amount` units of finished work."""
        self.done += amount
        if self._display is not None and self._task is not None:
            self._display.update(self._task, advance=amount)
        elif time.monotonic() - self._printed > _LINE_EVERY_SECONDS:
            self._printed = time.monotonic()
            note(self._line())

    def finish(self) -> None:
        """Print the closing line where there is no terminal."""
        if self._display is None:
            note(self._line())

    def _line(self) -> str:
        of = f"/{self.total:,.0f}" if self.total else ""
        return f"{self.title}: {self.done:,.0f}{of} {self.unit} in {time.monotonic() - self._started:.1f} s"


@contextmanager
def track(title: str, total: float | None = None, unit: str = "steps") -> Iterator[Bar]:
    """Show the progress of the block.

    Args:
        title: what is being done.
        total: how many units there are, if known.
        unit: plural noun of what is counted.
    """
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as display:
            yield Bar(title, total, unit, display)
    else:
        bar = Bar(title, total, unit, None)
        yield bar
        bar.finish()


def note(text: str) -> None:
    """Print one line to stderr."""
    print(text, file=sys.stderr, flush=True)
