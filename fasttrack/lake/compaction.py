"""Small files put together, beside drains that go on appending.

Readers of the newest version open fewer files; older versions keep theirs until `fasttrack.lake.vacuum` deletes what
nobody needs. A commit takes the small files out and the big one in, at once, and says that no data changed. It is made
only for the very version after the one in which all the small files were seen: deltalake takes a commit that removes
what another one has removed already, if neither changed data, and the rows would be there twice
(docs/decisions/0013-own-compaction.md).
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from deltalake import CommitProperties
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from fasttrack.errors import IntegrityError
from fasttrack.lake.commits import file_names, named
from fasttrack.lake.datafiles import DataFile, data_files
from fasttrack.lake.failures import storage, storage_error
from fasttrack.lake.rewrite import Rewritten, new_name, rewrite
from fasttrack.lake.storage import remote, remove, sync_log
from fasttrack.lake.tables import load

TARGET_BYTES = 128 * 2**20
# From here on a file counts as being of the right size: to copy it for the rest is not worth it.
_NEARLY = 0.75
# An attempt fails if a drain commits between reading and committing; busy ones commit some ten times a second.
_ATTEMPTS = 60
_WAIT_SECONDS = 0.05
# As `append`: commits whose writers may have been killed before they synced them.
_UNSYNCED = 100


@dataclass(frozen=True)
class Policy:
    """Which files are put together.

    Attributes:
        target: the size that files shall have, in bytes.
        least: how many files are worth a rewrite.
        tiered: leave a file out that outweighs all those after it: it would be copied again and again as small ones
            come in. So each row is copied some log(target / size of a batch) times, and as many files are left.
    """

    target: int = TARGET_BYTES
    least: int = 2
    tiered: bool = False

    @property
    def small(self) -> int:
        """A file of fewer bytes is small."""
        return int(self.target * _NEARLY)


#: What a drain without end does by itself.
AUTOMATIC = Policy(least=16, tiered=True)


@dataclass
class Compaction:
    """What was done to a table (or would be, in a dry run).

    Attributes:
        replaced, written: files before and after.
        rows: how many they hold.
        bytes_before, bytes_after: their sizes; after a dry run `bytes_after` is 0.
        lost: groups of files that were left as they are, as another compaction had them first, or as appends came so
            fast that no commit could get between.
    """

    replaced: int = 0
    written: int = 0
    rows: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    lost: int = 0


def compact(
    path: str,
    policy: Policy = Policy(),
    *,
    dry_run: bool = False,
    stop: Callable[[], bool] = lambda: False,
    advance: Callable[[int], None] = lambda files: None,
) -> Compaction:
    """Put a table's small files together; may run beside drains, readers and other compactions.

    Each group of files is one commit, so whatever ends this leaves a table with the same rows, and at worst a file
    that no commit names, which a vacuum deletes.

    Args:
        path: the table's.
        policy: which files.
        dry_run: only say what would be done.
        stop: asked now and then; if it says True, the rest is left.
        advance: told how many files were dealt with since it was told last.

    Raises:
        NotFoundError: there is no table.
        StorageError: the storage refused; the table is as before, or as after.
        IntegrityError: a file holds another number of rows than its commit says.
    """
    table = load(path)
    done = Compaction()
    for group in groups(data_files(table), policy):
        if stop():
            break
        if dry_run:
            _count(done, group, None)
        else:
            _compact(path, group, pa.schema(table.schema()), table.version(), stop, done)
        advance(len(group))
    return done


def groups(files: Sequence[DataFile], policy: Policy) -> list[list[DataFile]]:
    """The files that are put together, each group in the order of their offsets.

    Files of different partitions never are, nor are files between which a big one lies: a file of one stretch of
    offsets can be skipped by those who look for another.
    """
    sources: dict[tuple[str, int] | None, list[DataFile]] = defaultdict(list)
    for file in files:
        sources[file.source].append(file)
    found: list[list[DataFile]] = []
    for of_source in sources.values():
        for group in _filled(sorted(of_source, key=lambda file: (file.first, file.name)), policy):
            if policy.tiered:
                group = _without_heavy(group)
            if len(group) >= max(2, policy.least):
                found.append(group)
    return found


def _filled(files: Sequence[DataFile], policy: Policy) -> Iterator[list[DataFile]]:
    group: list[DataFile] = []
    size = 0
    for file in files:
        small = file.bytes < policy.small
        if group and (not small or size + file.bytes > policy.target):
            yield group
            group, size = [], 0
        if small:
            group, size = [*group, file], size + file.bytes
    if group:
        yield group


def _without_heavy(group: list[DataFile]) -> list[DataFile]:
    rest = sum(file.bytes for file in group)
    for at, file in enumerate(group):
        rest -= file.bytes
        if file.bytes <= rest:
            return group[at:]
    return []


def _compact(
    path: str, group: list[DataFile], schema: pa.Schema, since: int, stop: Callable[[], bool], done: Compaction
) -> None:
    name = new_name()
    try:
        made = _written(path, name, group, schema, stop)
        if made is not None and _replace(path, group, name, made, since):
            _count(done, group, made)
            return
    except OSError as error:
        raise storage_error(error, f"{path}/{name}") from error
    done.lost += made is not None or not stop()
    with storage(path):
        remove(path, name)


def _written(
    path: str, name: str, group: list[DataFile], schema: pa.Schema, stop: Callable[[], bool]
) -> Rewritten | None:
    try:
        made = rewrite(path, name, [file.name for file in group], schema, stop)
        if made is not None:
            _check_rows(path, group, made.rows)
    except FileNotFoundError:
        if {file.name for file in group} <= file_names(load(path)):
            raise
        # Another compaction replaced them, and a vacuum was there since.
        return None
    except BaseException as error:
        # No commit was begun, so nobody can name it.
        remove(path, name)
        if isinstance(error, pa.ArrowException):
            raise storage_error(error, f"{path}/{name}") from error
        raise
    return made


def _check_rows(path: str, group: list[DataFile], rows: int) -> None:
    counts = [file.rows for file in group if file.rows is not None]
    if len(counts) == len(group) and sum(counts) != rows:
        raise IntegrityError(
            f"{len(group)} files from {group[0].name} on hold {rows} rows, their commits say {sum(counts)}.",
            where=path,
            fix="Nothing was changed. `fasttrack reconcile` names the offsets that are missing.",
        )


def _replace(path: str, group: list[DataFile], name: str, made: Rewritten, since: int) -> bool:
    """Commit it; False if the table no longer has all of the group, or if it is too busy."""
    wanted = {file.name for file in group}
    for _ in range(_ATTEMPTS):
        table = load(path)
        if not wanted <= file_names(table):
            return False
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [AddAction(name, made.bytes, {}, now, False, made.statistics)]
        actions += [RemoveAction(file.name, False, now, file.bytes, {}) for file in group]
        try:
            # No retries by deltalake: it would make the commit for a later version, see above.
            once = CommitProperties(max_commit_retries=0, custom_metadata={"fasttrack": "compaction"})
            table.create_write_transaction(actions, "append", table.schema(), commit_properties=once)
        except (DeltaError, OSError) as error:
            if not _landed(path, name, since, error):
                time.sleep(random.uniform(0, _WAIT_SECONDS))
                continue
        with storage(path):
            sync_log(path, max(-1, table.version() - _UNSYNCED), table.version())
        return True
    return False


def _landed(path: str, name: str, since: int, error: Exception) -> bool:
    """Whether a commit that failed, or seemed to, is in the table all the same; False if it may be tried again."""
    if named(path, name, since):
        return True
    if isinstance(error, CommitFailedError):
        return False
    # What a disk does not show never comes. An object store may still work on it: then the file has to stay.
    if not remote(path):
        remove(path, name)
    raise storage_error(error, path) from error


def _count(done: Compaction, group: list[DataFile], made: Rewritten | None) -> None:
    done.replaced += len(group)
    done.written += 1
    done.rows += sum(file.rows or 0 for file in group)
    done.bytes_before += sum(file.bytes for file in group)
    done.bytes_after += 0 if made is None else made.bytes
