"""What a local run prints: the steps' own lines; KFP's chatter and traces go to the run's log only."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import IO

from fasttrack.errors import StorageError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_KFP = re.compile(r"\d\d:\d\d:\d\d\.\d{3} - (?:INFO|WARNING|ERROR) - |\[KFP Executor |-{20,}$")
_EXECUTING = re.compile(r"Executing task '([^']+)'")
# How Python and joblib's workers begin the parts of a trace.
_TRACE = (
    "joblib.externals.loky",
    '"""',
    "Traceback (most recent call last)",
    "During handling of the above",
    "The above exception was",
)
_FINISHED = re.compile(r"Task '[^']+' (?:outputs:|finished with)")


class StepLog(io.TextIOBase):
    """Stands in for ``sys.stdout`` while KFP runs a pipeline.

    KFP gives one stream of everything: its own log, each step's input as indented JSON, and the step's lines. All of
    it is kept in `path`; only the steps' lines go on to `display`, each with the step's name.

    Raises:
        StorageError: the log can't be opened.
    """

    def __init__(self, path: Path, display: IO[str], *, verbose: bool = False) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"can't be written: {error.strerror}.", where=str(path), fix="Free disk space."
            ) from error
        self._display = display
        self._verbose = verbose
        self._rest = ""
        self._hidden = ""
        self.task = ""
        #: The last line of the last trace that a step printed.
        self.last_error = ""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Take text as it comes; whole lines are sorted at once."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line)
        return len(text)

    def flush(self) -> None:
        """Bring what was written so far to the disk and to the display."""
        if not self._file.closed:
            self._file.flush()
            self._display.flush()

    def close(self) -> None:
        """Write the rest and close the log; the display stays open."""
        if not self._file.closed:
            if self._rest:
                self._take(self._rest)
            self._file.close()
        super().close()

    def _take(self, line: str) -> None:
        plain = _COLOUR.sub("", line).rstrip()
        self._file.write(plain + "\n")
        # KFP indents what a step prints by four spaces.
        text = plain.removeprefix("    ")
        shown = self._is_of_step(text)
        if self._verbose or shown:
            self._display.write(f"{self.task or 'run':<10} | {text}\n")

    def _is_of_step(self, text: str) -> bool:
        if _KFP.match(text):
            self._note_kfp(text)
            return False
        if self._hidden == "input" and text == "}":
            self._hidden = ""
            return False
        if text.startswith(_TRACE):
            self._hidden = "trace"
        elif self._hidden == "trace" and text and not text.startswith(" "):
            # The line that ends a trace; the run's owner tells the error once, at the end.
            self._hidden = ""
            self.last_error = text
            return False
        return not self._hidden and bool(text.strip())

    def _note_kfp(self, text: str) -> None:
        self._hidden = ""
        if found := _EXECUTING.search(text):
            self.task = found[1]
        elif "Got executor_input" in text:
            self._hidden = "input"
        elif _FINISHED.search(text):
            self._hidden = "outputs"
