"""Records of pipeline runs: one JSON object a step, written even when the step fails."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from fasttrack.errors import NotFoundError, StorageError
from fasttrack.settings import Settings

# A key that isn't text must not hide what the step has to say.
_JSON = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def run_folder(settings: Settings, usecase: str, run_id: str) -> Path:
    """The folder that holds a run's records."""
    return Path(settings.require("runs")) / usecase / run_id


def write_record(settings: Settings, usecase: str, run_id: str, step: str, record: dict[str, Any]) -> Path:
    """Write one step's record atomically.

    Raises:
        StorageError: the disk refused it.
    """
    folder = run_folder(settings, usecase, run_id)
    path = folder / f"{step}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(orjson.dumps(record, option=_JSON, default=str))
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"the run record can't be written: {error.strerror}.", where=str(path), fix="Free disk space."
        ) from error
    return path


def read_records(settings: Settings, usecase: str, run_id: str) -> dict[str, dict[str, Any]]:
    """All records of a run, by step.

    Raises:
        NotFoundError: there is no such run.
    """
    folder = run_folder(settings, usecase, run_id)
    if not folder.is_dir():
        raise NotFoundError(f"there is no run {run_id!r} of {usecase!r}.", where=str(folder))
    return {path.stem: orjson.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))}


@contextmanager
def record(settings: Settings, usecase: str, run_id: str, step: str) -> Iterator[dict[str, Any]]:
    """Time a step and keep what it says; the block fills the dict that is yielded.

    The record always has ``status`` (succeeded or failed), ``started_at``, ``seconds``, ``peak_rss_mb`` (of this
    process and, separately, of the largest of its children) and, on failure, ``error``.
    """
    found: dict[str, Any] = {"step": step, "started_at": datetime.now(UTC).isoformat()}
    start = time.monotonic()
    try:
        yield found
        found["status"] = "succeeded"
    except BaseException as error:
        found["status"] = "failed"
        found["error"] = str(error) or type(error).__name__
        raise
    finally:
        found["seconds"] = round(time.monotonic() - start, 3)
        found["peak_rss_mb"] = _peak_mb(resource.RUSAGE_SELF)
        found["peak_child_rss_mb"] = _peak_mb(resource.RUSAGE_CHILDREN)
        write_record(settings, usecase, run_id, step, found)


def _peak_mb(who: int) -> float:
    # Linux counts in KiB, macOS in bytes (getrusage(2) of each).
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(who).ru_maxrss / unit, 1)
