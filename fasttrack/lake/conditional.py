"""Whether an object store honours the condition that commits rest on (docs/decisions/0012): it is tried, not believed.

A store that ignores ``If-None-Match`` acknowledges every put. Two writers then commit the same version, the later one
overwrites the earlier one's log file, and its rows are lost without a word.
"""

from __future__ import annotations

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from fasttrack.errors import ConfigurationError, UnavailableError
from fasttrack.lake.failures import storage, storage_error
from fasttrack.lake.storage import patiently, remote, remove, storage_options
from fasttrack.progress import note

# A round decides nothing if one writer had finished before the other one looked; hardly any does.
_ROUNDS = 8
_WRITERS = 2
_SCHEMA = pa.schema([("nothing", pa.int64())])
_FIRST_COMMIT = f"_delta_log/{0:020d}.json"


def require_conditional_put(place: str) -> None:
    """Make sure that of two commits of one version the store refuses one; asked once a process. A folder does so.

    Two writers make the same table at the same moment, below ``place/probes``, with the client and the options that
    the lake's commits have. It is removed at once; should the process be killed, one small object stays, which nobody
    reads.

    Args:
        place: the lake's folder or S3 prefix.

    Raises:
        ConfigurationError: the store let both commit, or it is not reached rightly.
        StorageError: it refuses both.
        UnavailableError: it does not answer.
    """
    if remote(place):
        _tried(place, os.environ.get("AWS_ENDPOINT_URL", ""))


# What raises is not kept.
@lru_cache(maxsize=64)
def _tried(place: str, endpoint: str) -> None:
    for _ in range(_ROUNDS):
        with storage(place):
            outcomes = patiently(place, lambda: _race(place))
        made = outcomes.count(None)
        if made > 1:
            raise ConfigurationError(
                "the object store ignores `If-None-Match`: drains would overwrite each other's commits, and rows would "
                "be lost.", where=f"{place} at {endpoint}" if endpoint else place,
                fix="Use a store, or a version of it, that honours conditional puts as S3 does, or a lake in a folder.",
            )  # fmt: skip
        if made and any(_beaten(error) for error in outcomes):
            return
    note(f"{place}: whether the object store honours `If-None-Match` could not be tried")


def _race(place: str) -> list[Exception | None]:
    """Let writers make one table at the same moment; what each was told, None if it succeeded.

    Raises:
        DeltaError, OSError: what the first one was told, if nobody succeeded and it was not by the other's success.
    """
    path, ready = f"{place}/probes/{uuid.uuid4().hex}", Barrier(_WRITERS)
    options, once = storage_options(path), CommitProperties(max_commit_retries=0)

    def write(_: int) -> Exception | None:
        ready.wait()
        try:
            DeltaTable.create(path, _SCHEMA, storage_options=options, commit_properties=once)
        except (DeltaError, OSError) as error:
            return error
        return None

    try:
        with ThreadPoolExecutor(_WRITERS) as at_once:
            outcomes = list(at_once.map(write, range(_WRITERS)))
    finally:
        _clear(path)
    told = [error for error in outcomes if error is not None and not _beaten(error)]
    if None not in outcomes and told:
        raise told[0]
    return outcomes


def _beaten(error: Exception | None) -> bool:
    """Whether the store refused the put, as the object was there already; not that a request got lost."""
    return isinstance(error, CommitFailedError) and not isinstance(storage_error(error, ""), UnavailableError)


def _clear(path: str) -> None:
    try:
        remove(path, _FIRST_COMMIT)
    except OSError as error:
        # Of no harm, and an error that is on its way is the one to tell.
        note(f"{path}/{_FIRST_COMMIT}, made to try the store, is left: {storage_error(error, path).what}")
