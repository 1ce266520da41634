"""Make files survive a power cut: the file, then the folder that names it."""

from __future__ import annotations

import os
from pathlib import Path


def sync_file(path: str | Path) -> None:
    """fsync one file or folder.

    Raises:
        OSError: the disk refused; what was written may be gone.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folders(table: str) -> None:
    """fsync a new table's log, its folder and the folders above it that may be new."""
    for file in (Path(table) / "_delta_log").iterdir():
        sync_file(file)
    sync_names(table)


def sync_names(table: str) -> None:
    """fsync a table's log folder, its folder and those above: who made the table may have died before."""
    log = Path(table) / "_delta_log"
    for folder in (log, *log.parents[:4]):
        sync_file(folder)


def sync_commits(table: str, after: int, upto: int) -> None:
    """fsync the commit files of versions ``after + 1 .. upto``, whoever wrote them, then the log's folder.

    A table whose newest commit survives a power cut and whose last but one does not can't be read, so the others'
    commits below ours are made durable too.
    """
    log = Path(table) / "_delta_log"
    for version in range(after + 1, upto + 1):
        file = log / f"{version:020d}.json"
        # A commit that a power cut took may live on in a checkpoint.
        if file.exists():
            sync_file(file)
    sync_file(log)
