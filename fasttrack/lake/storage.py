"""A table's storage: a folder, or a prefix of an S3 bucket; the rest of the lake does not ask which.

On S3 a commit is a conditional put of the next log file (``If-None-Match: *``), the same compare-and-set that an
exclusive link makes on a disk. What S3 has acknowledged is durable, so there is nothing to sync and nothing to repair.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake._internal import DeltaFileSystemHandler
from deltalake.exceptions import DeltaError

from fasttrack.errors import ConfigurationError, UnavailableError
from fasttrack.lake.durability import sync_commits, sync_file, sync_folders, sync_names
from fasttrack.lake.encodings import parquet_options
from fasttrack.lake.failures import storage_error

SCHEME = "s3://"
Found = TypeVar("Found")

# For how many seconds a request is tried again while the object store is away or silent: where people wait, and where
# nobody does. The client asks the broker for messages every 300 s at least (max.poll.interval.ms), and between those
# its own thread tells that it lives.
_SECONDS, _PATIENT_SECONDS = 20, 120
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 2.0
_patience: ContextVar[int] = ContextVar("patience", default=_SECONDS)
# One attempt, the content of a file included.
_ATTEMPT_SECONDS = 30
_OPTIONS = {
    # Whatever the environment says: without these two, writers overwrite each other's commits.
    "aws_conditional_put": "etag",
    "aws_s3_allow_unsafe_rename": "false",
    "connect_timeout": "5s",
    "max_retries": "1000",
    "backoff_config.max_backoff": "2s",
}


def remote(path: str) -> bool:
    """Whether a table (or a lake) is in an object store."""
    return path.startswith(SCHEME)


@contextmanager
def riding_out() -> Iterator[None]:
    """Within the block an object store that is away is waited for: two minutes a request, instead of 20 seconds."""
    token = _patience.set(_PATIENT_SECONDS)
    try:
        yield
    finally:
        _patience.reset(token)


def patiently(path: str, action: Callable[[], Found]) -> Found:
    """Do what may be done again; while an object store does not answer, for as long as `riding_out` says.

    The store's client tries by itself what it could not send. What it does not: answers that break off.

    Args:
        path: the table that is worked on; with a folder nothing is tried again.
        action: what to do.

    Raises:
        whatever `action` does: at once, or as the last of many times.
    """
    deadline, wait = time.monotonic() + _patience.get(), _FIRST_WAIT_SECONDS
    while True:
        try:
            return action()
        except (OSError, DeltaError, pa.ArrowException) as error:
            late = time.monotonic() + wait > deadline
            if late or not remote(path) or not isinstance(storage_error(error, path), UnavailableError):
                raise
        time.sleep(wait)
        wait = min(2 * wait, _LONGEST_WAIT_SECONDS)


def storage_options(path: str, environment: Mapping[str, str] | None = None) -> dict[str, str] | None:
    """What deltalake has to be told to reach a table; None for a folder.

    Endpoint, region and credentials are AWS's usual environment variables, which deltalake reads by itself.

    Args:
        path: the table's.
        environment: instead of the process's.

    Raises:
        ConfigurationError: the endpoint would be spoken to in clear over a network, and AWS_ALLOW_HTTP is not set.
    """
    if not remote(path):
        return None
    env = os.environ if environment is None else environment
    seconds = _patience.get()
    found = _OPTIONS | {"retry_timeout": f"{seconds}s", "timeout": f"{min(_ATTEMPT_SECONDS, seconds // 2)}s"}
    endpoint = urlsplit(env.get("AWS_ENDPOINT_URL", ""))
    if endpoint.scheme == "http":
        if not _loopback(endpoint.hostname or "") and env.get("AWS_ALLOW_HTTP", "").lower() not in ("true", "1"):
            raise ConfigurationError(
                "keys and data would go over the network in clear.", where=f"AWS_ENDPOINT_URL={endpoint.geturl()}",
                fix="Name an https:// endpoint, or set AWS_ALLOW_HTTP=true if the network is trusted.",
            )  # fmt: skip
        found["allow_http"] = "true"
    return found


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_table(path: str, version: int | None = None) -> DeltaTable:
    """Open a table once; `fasttrack.lake.tables.load` tries again while others commit.

    Raises:
        DeltaError, OSError: it can't be read, or there is none (`TableNotFoundError`).
    """
    options = storage_options(path)
    return patiently(path, lambda: DeltaTable(path, version=version, storage_options=options))


def exists(path: str) -> bool:
    """Whether there is a table.

    Raises:
        OSError: the storage does not say.
    """
    options = storage_options(path)
    return patiently(path, lambda: DeltaTable.is_deltatable(path, options))


def write_parquet(path: str, name: str, rows: pa.Table, dictionary: list[str]) -> int:
    """Write one Parquet file into a table's storage, durably; no commit names it yet.

    Args:
        path: the table's.
        name: the file's; nobody else may use it.
        rows: its content.
        dictionary: the columns for which a dictionary pays.

    Returns:
        Its size in bytes.

    Raises:
        OSError, ArrowException: the storage refused. A folder then has nothing of it; an object store may have all of
            it, which nobody names.
    """
    options = parquet_options(rows.schema, dictionary)
    if remote(path):
        # In memory first: a retried request sends all of it again.
        buffer = pa.BufferOutputStream()
        pq.write_table(rows, buffer, **options)
        content = buffer.getvalue().to_pybytes()
        patiently(path, lambda: _put(path, name, content))
        return len(content)
    file = Path(path) / name
    try:
        with file.open("wb") as out:
            pq.write_table(rows, out, **options)
            out.flush()
            os.fsync(out.fileno())
            size = os.fstat(out.fileno()).st_size
        sync_file(path)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return size


def _put(path: str, name: str, content: bytes) -> None:
    stream = _files(path).open_output_stream(name)
    stream.write(content)
    # Only now the object is there; deltalake's type hints forget it.
    stream.close()  # type: ignore[attr-defined]


def remove(path: str, name: str) -> None:
    """Delete a file of a table's storage; one that is gone already is no error.

    Raises:
        OSError: the storage refused.
    """
    if remote(path):
        try:
            _files(path).delete_file(name)
        except FileNotFoundError:
            return
    else:
        (Path(path) / name).unlink(missing_ok=True)


def _files(path: str) -> DeltaFileSystemHandler:
    return _client(path, tuple((storage_options(path) or {}).items()))


@lru_cache(maxsize=64)
def _client(path: str, options: tuple[tuple[str, str], ...]) -> DeltaFileSystemHandler:
    """deltalake's own client, so that it retries and finds its credentials alike; kept, for it holds connections.

    Not `deltalake.fs`, whose streams do not take what pyarrow gives them to write.
    """
    return DeltaFileSystemHandler(path, dict(options))


def sync_log(path: str, after: int, upto: int) -> int:
    """Make the commits ``after + 1 .. upto``, and newer ones, durable, whoever made them; the newest one's version."""
    if remote(path):
        return upto
    log = Path(path) / "_delta_log"
    while (log / f"{upto + 1:020d}.json").exists():
        upto += 1
    sync_commits(path, after, upto)
    return upto


def sync_table(path: str, made: bool) -> None:
    """Make a table that may be new (`made`: by us, just now) durable with the folders above it."""
    if not remote(path):
        sync_folders(path) if made else sync_names(path)
