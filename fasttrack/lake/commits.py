"""What the commits of a table's log say, read one by one; the Delta library only shows what they add up to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import orjson
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import PyFileSystem

from fasttrack.lake.failures import storage
from fasttrack.lake.storage import storage_options
from fasttrack.lake.tables import load


@dataclass(frozen=True)
class Commit:
    """One commit.

    Attributes:
        version: its number.
        at: when it was made, in milliseconds since 1970, by its writer's clock.
        added: the names of the files that it adds.
        removed: the names of those that it removes, and when, in milliseconds since 1970.
    """

    version: int
    at: int
    added: tuple[str, ...]
    removed: dict[str, int]


def filesystem(path: str) -> PyFileSystem:
    """The files of a table, by their names in it."""
    return PyFileSystem(DeltaStorageHandler(path, storage_options(path)))


def file_names(table: DeltaTable) -> set[str]:
    """The names of the files that a table consists of at its handle's version."""
    return set(pa.table(table.get_add_actions())["path"].to_pylist())


def commits(path: str, after: int, upto: int) -> Iterator[Commit]:
    """The commits of the versions ``after + 1 .. upto`` and newer ones, oldest first.

    Those that a power cut took, and that live on in a checkpoint only, are left out.

    Raises:
        StorageError: the storage refused.
    """
    files = filesystem(path)
    version = after
    with storage(path):
        while True:
            version += 1
            try:
                with files.open_input_stream(f"_delta_log/{version:020d}.json") as stream:
                    text = stream.read()
            except FileNotFoundError:
                if version > upto:
                    return
                continue
            yield _parsed(version, text)


def named(path: str, name: str, after: int) -> bool:
    """Whether a commit newer than version `after` names the file, even if another one has removed it since.

    A file that no commit names may be deleted. Of one that is named older versions may be in use for as long as
    `vacuum` says, so whether the newest version has it does not count.

    Raises:
        NotFoundError, StorageError: the log can't be read.
    """
    table = load(path)
    if name in file_names(table):
        return True
    return any(name in commit.added for commit in commits(path, after, table.version()))


def _parsed(version: int, text: bytes) -> Commit:
    at, added, removed = 0, [], {}
    for line in text.splitlines():
        action = orjson.loads(line)
        if "add" in action:
            added.append(action["add"]["path"])
        elif "remove" in action:
            removed[action["remove"]["path"]] = int(action["remove"].get("deletionTimestamp") or 0)
        elif "commitInfo" in action:
            at = int(action["commitInfo"].get("timestamp") or 0)
    return Commit(version, at, tuple(added), {name: max(at, when) for name, when in removed.items()})
