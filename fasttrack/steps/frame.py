"""The frame of every step: its use case, settings and run record; and its end, should the run's owner end first."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrack import runs
from fasttrack.errors import ConfigurationError, FastTrackError, StorageError
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, parse

#: Process id of the local run that started this step; a step without its run ends itself.
OWNER = "FASTTRACK_RUN_OWNER"
#: Names the run where the pipeline was given no name, as by a schedule: on a cluster, the id of KFP's run.
RUN_ID = "FASTTRACK_RUN_ID"
#: What the gate answers; the pipeline's conditions compare with these words.
ACCEPTED = "accepted"
REFUSED = "refused"

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_WATCH_SECONDS = 0.5
_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Step:
    """What a step has at hand.

    Attributes:
        name: name of its record, with the round where it can run again.
        usecase: the use case of the run.
        settings: where the parts are.
        run_id: name of the run.
        record: what the step has to say; written as JSON when the step ends, however it ends.
        folder: the run's folder.
    """

    name: str
    usecase: UseCase
    settings: Settings
    run_id: str
    record: dict[str, Any]
    folder: Path


@contextmanager
def step(name: str, usecase: str, run_id: str) -> Iterator[Step]:
    """Run a block as the step `name` of a run.

    Args:
        name: name of the step's record, with the round where a step can run again: ``tune-2``.
        usecase: the use case as YAML text.
        run_id: name of the run; see `named`.

    Raises:
        ConfigurationError: the run's name can't be a file name, or a setting is missing.
        UseCaseError: the use case is malformed.
    """
    run_id = named(run_id)
    _end_with_owner()
    parsed, settings = parse(usecase, "usecase"), Settings.from_environment()
    with runs.record(settings, parsed.name, run_id, name) as record:
        try:
            yield Step(name, parsed, settings, run_id, record, runs.run_folder(settings, parsed.name, run_id))
        except BaseException as error:
            record.update(describe(error))
            raise


def describe(error: BaseException) -> dict[str, Any]:
    """The parts of an error that a record keeps, so that the run's owner can raise it again."""
    found: dict[str, Any] = {"error_type": type(error).__name__}
    if isinstance(error, FastTrackError):
        found |= {"what": error.what, "where": error.where, "fix": error.fix}
    return found


def named(run_id: str) -> str:
    """The name of the run: the given one, else what ``FASTTRACK_RUN_ID`` says.

    Raises:
        ConfigurationError: as for `check_run_id`.
    """
    found = run_id or os.environ.get(RUN_ID, "")
    check_run_id(found)
    return found


def check_run_id(run_id: str) -> None:
    """Refuse a run name that isn't a plain file name.

    Raises:
        ConfigurationError: it is empty, too long, or has other characters than letters, digits, ``.``, ``_``, ``-``.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ConfigurationError(
            f"{run_id!r} can't name a run.", where="run_id", fix="Use letters, digits, '.', '_' and '-', at most 80."
        )


def write_text(path: Path, text: str) -> Path:
    """Write a small file of a run, atomically.

    Raises:
        StorageError: the disk refused it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"can't be written: {error.strerror}.", where=str(path), fix="Free disk space.") from error
    return path


def _end_with_owner() -> None:
    owner = os.environ.get(OWNER)
    if owner is None or any(thread.name == OWNER for thread in threading.enumerate()):
        return
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell that starts a run in the background has its children ignore SIGINT.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_watch, args=(int(owner),), name=OWNER, daemon=True).start()


def _watch(owner: int) -> None:
    # A killed run can't end its steps, and the shell that KFP puts in between hides its death from them.
    while _is_alive(owner):
        time.sleep(_WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
