"""Files that no version needs any more, deleted.

What is needed: the newest version's files; those of pinned versions, which models and runs name as what they were made
of; those that a version had which was the newest one within the retention, as somebody may be reading it. Of the rest
a file goes if a commit has removed it, or if no commit ever named it and it is so old that no writer can be about to.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from pyarrow.fs import FileSelector, FileType

from fasttrack.lake.commits import commits, file_names, filesystem
from fasttrack.lake.failures import storage
from fasttrack.lake.storage import remove, sync_log
from fasttrack.lake.tables import load

RETENTION = timedelta(days=7)
#: A file that no commit names may be one that its writer is about to commit; one that is stopped for longer is dead.
ABANDONED = timedelta(days=1)
# Nothing but what FastTrack and deltalake write is touched; links, folders and everything with another name stay.
_DATA = re.compile(r"[\w.-]+\.parquet")


@dataclass
class Vacuum:
    """What was deleted from a table (or would be, in a dry run).

    Attributes:
        files: the names.
        bytes: their size.
        pinned: the pinned versions whose files were kept.
        unknown: pinned versions that the table does not have: they are those of a table that was here before.
    """

    files: list[str] = field(default_factory=list)
    bytes: int = 0
    pinned: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)


def vacuum(
    path: str,
    pins: Iterable[int],
    *,
    retention: timedelta = RETENTION,
    abandoned: timedelta = ABANDONED,
    dry_run: bool = False,
    advance: Callable[[int], None] = lambda files: None,
) -> Vacuum:
    """Delete the files of a table that are of no use; may run beside drains, readers and compactions.

    Args:
        path: the table's.
        pins: the versions that have to stay readable, whatever their age.
        retention: so long a version can be read after it was the newest.
        abandoned: so old a file that no commit names has to be.
        dry_run: only say what would be done.
        advance: told how many files were deleted since it was told last.

    Raises:
        NotFoundError: there is no table.
        StorageError: the storage refused, or a pinned version can't be read; nothing that is needed was deleted.
    """
    # Before the log is read: whatever is written from now on is younger.
    now = int(time.time() * 1000)
    table = load(path)
    newest = table.version()
    # A commit that a power cut could still undo must not have cost the files that the table would need then.
    with storage(path):
        sync_log(path, -1, newest)
    added, removed = _history(path, newest)
    done, kept = _pinned(path, pins, newest)
    kept |= file_names(table)
    since, written = now - _milliseconds(retention), now - _milliseconds(max(retention, abandoned))
    with storage(path):
        for name, (size, changed) in sorted(_present(path).items()):
            gone = removed.get(name)
            # Added, and never removed as far as the log is there: a power cut took the commit that says so.
            useless = gone <= since if gone is not None else name not in added and changed <= written
            if name in kept or not useless:
                continue
            if not dry_run:
                remove(path, name)
            done.files.append(name)
            done.bytes += size
            advance(1)
    return done


def _milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


def _history(path: str, newest: int) -> tuple[set[str], dict[str, int]]:
    """The names of all files that were ever added, and when those that were removed last were."""
    added: set[str] = set()
    removed: dict[str, int] = {}
    for commit in commits(path, -1, newest):
        added.update(commit.added)
        for name, when in commit.removed.items():
            removed[name] = max(when, removed.get(name, when))
    return added, removed


def _pinned(path: str, pins: Iterable[int], newest: int) -> tuple[Vacuum, set[str]]:
    done, kept = Vacuum(), set[str]()
    for version in sorted(set(pins)):
        if version > newest:
            done.unknown.append(version)
            continue
        kept |= file_names(load(path, version))
        done.pinned.append(version)
    return done, kept


def _present(path: str) -> dict[str, tuple[int, int]]:
    """The data files in the table's folder: size, and when they were written in milliseconds since 1970."""
    found = filesystem(path).get_file_info(FileSelector("/", recursive=False))
    return {
        file.path: (file.size, file.mtime_ns // 1_000_000)
        for file in found
        if file.type == FileType.File and _DATA.fullmatch(file.path)
    }
