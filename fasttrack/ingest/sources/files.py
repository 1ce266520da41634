"""New files of a folder or an S3 prefix, each read once, row by row."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from fasttrack.errors import ConfigurationError, DataQualityError, FastTrackError
from fasttrack.ingest.sources.donefiles import MOST, DoneFiles
from fasttrack.ingest.sources.folder import Folder, Found
from fasttrack.ingest.sources.formats import READERS, Row
from fasttrack.ingest.sources.source import Batch, Failure, Position, Record
from fasttrack.progress import note
from fasttrack.usecase import UseCase
from fasttrack.usecase.sources import FilesSource

_BATCH = 4000
_NAP_SECONDS = 0.2
# What a file that isn't what it should be makes its reader raise.
_UNREADABLE = (OSError, ValueError, LookupError, ArithmeticError, TypeError, pa.ArrowException, FastTrackError)


class FilesReader:
    """Reads files in the order of their modification times.

    Position: the files that were read, and how many rows of those that were begun. A file counts as written once
    neither size nor time has changed for `settle`.

    Args:
        usecase: not looked at.
        name: the source's.
        source: its declaration.
        environment: AWS_ENDPOINT_URL and AWS's other usual variables for s3://.
    """

    def __init__(self, usecase: UseCase, name: str, source: FilesSource, environment: Mapping[str, str]) -> None:
        self._name, self._source = name, source
        self._folder = Folder(name, source, Path(usecase.base), environment)
        self._settle = source.settle.total_seconds()
        self._poll = source.poll.total_seconds()
        self._done = DoneFiles()
        # For each file that was begun: rows that were read, and its state.
        self._begun: dict[str, tuple[int, str]] = {}
        self._ready: list[Found] = []
        self._unsettled: dict[str, tuple[str, float]] = {}
        self._broken: dict[str, str] = {}
        # Files of which something is unread, though there is nothing to try again.
        self._amiss: dict[str, str] = {}
        self._failures: list[Failure] = []
        self._told: set[tuple[str, str]] = set()
        self._current: tuple[Found, Iterator[Row]] | None = None
        self._listed = float("-inf")

    def open(self, position: Position | None) -> None:
        """As `Source.open`; the folder must be there."""
        place = position or {}
        self._done = DoneFiles(place.get("done", ""))
        self._begun = {path: (row, state) for path, (row, state) in place.get("begun", {}).items()}
        self._current, self._ready, self._listed = None, [], float("-inf")
        self._folder.require()

    def read(self, seconds: float) -> Batch | None:
        """As `Source.read`."""
        deadline = time.monotonic() + seconds
        while True:
            if not self._ready and self._current is None and time.monotonic() - self._listed >= self._pause():
                self._list()
            if batch := self._batch():
                return batch
            if time.monotonic() >= deadline:
                return None
            if not self._ready:
                time.sleep(min(_NAP_SECONDS, max(0.0, deadline - time.monotonic())))

    def committed(self, position: Position) -> None:
        """Files stay where they are."""

    def lag(self) -> float | None:
        """How many files wait, those that can't be read included."""
        waiting = {*(each.path for each in self._ready), *self._unsettled, *self._broken}
        return len(waiting | ({self._current[0].path} if self._current else set()))

    def waiting(self) -> bool:
        """Whether a file is still being written."""
        return bool(self._unsettled)

    def broken(self) -> Mapping[str, str]:
        """Files that can't be read, changed after they were read, or went before they were read to their end."""
        return self._broken | self._amiss

    def failures(self) -> list[Failure]:
        """Each attempt to read a broken file, and each look that found one that had changed or gone."""
        told, self._failures = self._failures, []
        return told

    def expected(self, identities: Collection[str]) -> set[str]:
        """Rows that were not read yet, of files that were not read to their end, broken ones included."""
        to_come = [*self._ready, *([self._current[0]] if self._current else [])]
        paths = {*(each.path for each in to_come), *self._unsettled, *self._broken, *self._begun}
        found = set()
        for identity in identities:
            path, _, row = identity.rpartition(":")
            if path in paths and row.isdigit() and int(row) > self._begun.get(path, (0, ""))[0]:
                found.add(identity)
        return found

    def close(self) -> None:
        """As `Source.close`."""
        if self._current is not None:
            _end(self._current[1])
            self._current = None

    def _pause(self) -> float:
        # Who waits for a file to settle looks again when it may have.
        return min(self._poll, max(_NAP_SECONDS, self._settle / 2)) if self._unsettled else self._poll

    def _list(self) -> None:
        """Find the files that can be read now."""
        now = time.monotonic()
        found = {each.path: each for each in self._folder.look()}
        self._listed = now
        unsettled: dict[str, tuple[str, float]] = {}
        self._ready = []
        self._broken = {path: why for path, why in self._broken.items() if path in found}
        self._amiss = {}
        for path in self._begun.keys() - found.keys():
            self._miss(path)
        for each in sorted(found.values(), key=lambda each: (each.changed, each.path)):
            if each.path in self._done:
                if self._done.changed(each.path, each.state):
                    self._fail(each, "has changed since it was read; it is not read again. Give it a new name.")
                    self._amiss[each.path] = "has changed since it was read."
                continue
            state, since = self._unsettled.get(each.path, ("", now))
            if state != each.state:
                since = now
            # The clocks of this machine and of the files' may differ: a file that was watched all the time has settled
            # whatever its time says.
            if time.time() - each.changed / 1e9 >= self._settle or (state and now - since >= self._settle):
                self._ready.append(each)
            else:
                unsettled[each.path] = (each.state, since)
        self._unsettled = unsettled
        self._bound(found)

    def _bound(self, there: Mapping[str, Found]) -> None:
        """Forget files that are gone, but only when there are too many: a folder may look empty for a moment."""
        if len(self._done) + len(self._ready) <= MOST:
            return
        self._done.keep(there)
        if len(self._done) + len(self._ready) > MOST:
            raise ConfigurationError(
                f"holds more than {MOST:,} files.", where=self._folder.where(),
                fix="Move away those that were read, or make several sources with narrower paths.",
            )  # fmt: skip

    def _batch(self) -> Batch | None:
        records: list[Record] = []
        moved = False
        while len(records) < _BATCH and (self._current is not None or self._ready):
            if self._current is None and not self._begin(self._ready.pop(0)):
                continue
            moved = self._fill(records) or moved
        return Batch(records, self._position()) if records or moved else None

    def _begin(self, each: Found) -> bool:
        """Start to read a file, unless it has changed since it was listed."""
        if not self._folder.unchanged(each):
            self._unsettled[each.path] = (each.state, time.monotonic())
            return False
        row, state = self._begun.get(each.path, (0, each.state))
        if state != each.state:
            self._tell(each, f"has changed since its first {row:,} rows were read; it is read on from there.")
        self._current = each, READERS[self._source.format](self._folder.filesystem, self._folder.place(each.path), row)
        return True

    def _fill(self, records: list[Record]) -> bool:
        """Add rows of the current file; whether it was read to its end."""
        assert self._current is not None
        each, rows = self._current
        row = self._begun.get(each.path, (0, ""))[0]
        try:
            while len(records) < _BATCH:
                fields, raw = next(rows)
                row += 1
                records.append(Record(f"{each.path}:{row}", fields, raw))
            self._begun[each.path] = row, each.state
            return False
        except StopIteration:
            self._finish(each)
            return True
        except _UNREADABLE as error:
            if row:
                self._begun[each.path] = row, each.state
            self._broke(each, error)
            return False

    def _finish(self, each: Found) -> None:
        self._current = None
        self._begun.pop(each.path, None)
        self._broken.pop(each.path, None)
        # As it was listed: if it was written to meanwhile, the next listing shows it.
        self._done.add(each.path, each.state)

    def _broke(self, each: Found, error: Exception) -> None:
        self._current = None
        what = error.what if isinstance(error, FastTrackError) else str(error) or type(error).__name__
        self._broken[each.path] = what
        self._fail(each, f"can't be read: {what} It is tried again at every look.")

    def _miss(self, path: str) -> None:
        """A file was begun and is gone: whether for good, nobody knows."""
        row = self._begun[path][0]
        self._amiss[path] = f"is gone, and only its first {row:,} rows were read."
        self._fail(
            Found(path, 0, 0),
            f"{self._amiss[path]} Put it back; if the rest is not wanted, put one of its name there that has no rows.",
        )

    def _fail(self, each: Found, what: str) -> None:
        """Tell of a file once, and count it each time."""
        self._tell(each, what)
        self._failures.append(Failure(DataQualityError(what, where=self._folder.where(each.path))))

    def _tell(self, each: Found, what: str) -> None:
        if (each.path, each.state) not in self._told:
            self._told.add((each.path, each.state))
            note(f"{self._folder.where(each.path)}: {what}")

    def _position(self) -> Position:
        return {"done": self._done.pack(), "begun": {path: list(place) for path, place in self._begun.items()}}


def _end(rows: Iterator[Row]) -> None:
    close = getattr(rows, "close", None)
    if close is not None:
        close()
