"""Tables that a power cut left unreadable: what was never promised to be durable is set aside."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from fasttrack.lake.durability import sync_file
from fasttrack.progress import note

_COMMIT = re.compile(r"([0-9]{20})\.json")
_CHECKPOINT = re.compile(r"([0-9]{20})\.checkpoint.*\.parquet")


def repair(table: str) -> list[str]:
    """Set aside commits and checkpoints that were being written when the power failed.

    deltalake syncs neither. A drain takes its own commit and all below it for durable only once they are synced, so
    whatever is damaged belongs to appends that nobody relies on: the drain makes them again from Kafka. Without this,
    one empty file would keep the whole table from being opened. The files stay, under another name.

    Args:
        table: the table's folder; it may be missing.

    Returns:
        The names of the files that were set aside.

    Raises:
        OSError: the disk refused.
    """
    log = Path(table) / "_delta_log"
    if not log.is_dir():
        return []
    if not _damaged(log):
        return []
    with _alone(log):
        # Looked at again: somebody else may have repaired it, and gone on writing.
        damaged = _damaged(log)
        # The newest first: as long as one is left nobody can open the table and build on it.
        for path in damaged:
            path.rename(path.with_name(path.name + ".damaged"))
        sync_file(log)
    if damaged:
        note(f"{table}: {len(damaged)} files of its log were damaged, by a power cut most likely, and are set aside")
    return [path.name for path in damaged]


@contextmanager
def _alone(log: Path) -> Iterator[None]:
    handle = os.open(log, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _damaged(log: Path) -> list[Path]:
    """Checkpoints that can't be read, then the commits from the first unreadable or missing one on, newest first."""
    names = sorted(os.listdir(log))  # noqa: PTH208 - names, not paths
    checkpoints = [(int(found.group(1)), log / name) for name in names if (found := _CHECKPOINT.fullmatch(name))]
    bad = [path for _, path in checkpoints if not _is_parquet(path)]
    good = [version for version, path in checkpoints if path not in bad]
    pointer = log / "_last_checkpoint"
    if pointer.name in names and not _points_to(pointer, good):
        bad.insert(0, pointer)
    commits = [int(found.group(1)) for name in names if (found := _COMMIT.fullmatch(name))]
    start = max(good, default=-1) + 1
    end = max(commits, default=-1) + 1
    first = next((v for v in range(start, end) if not _is_commit(log / f"{v:020d}.json")), end)
    return bad + [log / f"{v:020d}.json" for v in sorted(commits, reverse=True) if v >= first]


def _is_commit(path: Path) -> bool:
    """Whether every line is a JSON object; a file that is missing although a newer one is there is damage, too."""
    try:
        lines = path.read_bytes().splitlines()
        return bool(lines) and all(isinstance(orjson.loads(line), dict) for line in lines)
    except (FileNotFoundError, orjson.JSONDecodeError):
        return False


def _is_parquet(path: Path) -> bool:
    try:
        pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError):
        return False
    return True


def _points_to(pointer: Path, versions: list[int]) -> bool:
    try:
        return orjson.loads(pointer.read_bytes())["version"] in versions
    except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
        return False
