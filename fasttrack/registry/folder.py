"""Folders that are written whole or not at all, and read file by file without being led elsewhere."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from fasttrack.errors import ConfigurationError, IntegrityError, NotFoundError, StorageError

PARTIAL: Final = ".partial-"
_CHUNK: Final = 64 * 2**20


def local(root: str | Path) -> Path:
    """`root` as a local path; ``file://`` is taken off.

    Raises:
        ConfigurationError: it is a URI of another kind, which would silently become a folder called ``s3:``.
    """
    text = str(root).removeprefix("file://")
    if "://" in text:
        raise ConfigurationError(
            "packages are written to a mounted folder, not to an object store.",
            where=text,
            fix="Set FASTTRACK_PACKAGES to a folder; on a cluster mount a volume there.",
        )
    return Path(text)


def create(target: Path, content: Mapping[str, bytes]) -> bool:
    """Write a folder of files beside `target` and move it there; False if `target` exists already.

    Everything is on the disk (fsync) before the folder gets its name. After a crash a ``.partial-*`` folder may be
    left, which nobody reads and anybody may delete.

    Raises:
        StorageError: the disk refused it; the partial folder is removed.
    """
    if target.is_dir():
        return False
    partial = target.with_name(f"{PARTIAL}{os.getpid()}-{os.urandom(6).hex()}")
    try:
        partial.mkdir(parents=True)
        for name, data in content.items():
            _write_file(partial / name, data)
        _sync(partial)
        return _claim(partial, target)
    except OSError as error:
        raise StorageError(
            f"the package can't be written: {error.strerror or error}.",
            where=str(target),
            fix="Free disk space (or make the folder writable) and run the step again; nothing was half-written.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def differs(target: Path, content: Mapping[str, bytes]) -> bool:
    """Whether a folder holds anything else than exactly `content`.

    Raises:
        StorageError, NotFoundError: it can't be read.
    """
    try:
        with opened(target) as source:
            if source.names() != set(content):
                return True
            return any(source.read(name, len(data)) != data for name, data in content.items())
    except IntegrityError:
        return True


class Folder:
    """An open folder. Names are resolved from its descriptor, so renaming or replacing the path changes nothing."""

    def __init__(self, path: str | Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def where(self, name: str) -> str:
        """A file's path, for messages."""
        return f"{self._path}/{name}"

    def names(self) -> set[str]:
        """The names of everything in the folder."""
        return set(os.listdir(self._descriptor))  # noqa: PTH208  (pathlib can't list a descriptor)

    def read(self, name: str, limit: int) -> bytes:
        """A file's content, of which at most `limit` + 1 bytes are ever read.

        Raises:
            IntegrityError: it is missing, a link, not a regular file, or has more than `limit` bytes.
            StorageError: the disk can't be read.
        """
        # O_NONBLOCK: opening a FIFO that somebody put there must not hang.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except OSError as error:
            self._fail(name, error)
        # Unbuffered, and not os.fdopen(): that one leaks the descriptor if it belongs to a folder.
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                self._refuse(name, "is not a regular file.")
            content = _read_all(descriptor, limit + 1) if status.st_size <= limit else None
        except OSError as error:
            self._fail(name, error)
        finally:
            os.close(descriptor)
        if content is None or len(content) > limit:
            self._refuse(name, f"has more than the {limit} bytes that it may have.")
        return content

    def _refuse(self, name: str, problem: str) -> NoReturn:
        raise IntegrityError(problem, where=self.where(name), fix="Copy the package again from where it was built.")

    def _fail(self, name: str, error: OSError) -> NoReturn:
        if error.errno == errno.ENOENT:
            self._refuse(name, "is missing.")
        # ELOOP is what O_NOFOLLOW gives for a symbolic link; a socket gives ENXIO (macOS: EOPNOTSUPP).
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EOPNOTSUPP):
            self._refuse(name, "is not a regular file.")
        raise StorageError(
            f"can't be read: {error.strerror}.", where=self.where(name), fix="Check the disk and the permissions."
        ) from error


@contextmanager
def opened(path: str | Path) -> Iterator[Folder]:
    """A folder, open for reading. `path` itself may be a link: KServe mounts OCI model images behind one.

    Raises:
        NotFoundError: there is no such folder.
        StorageError: it can't be opened.
    """
    try:
        descriptor = os.open(local(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            "there is no model package.", where=str(path), fix="Check the path, or publish the model again."
        ) from error
    except OSError as error:
        raise StorageError(
            f"can't be opened: {error.strerror}.", where=str(path), fix="Check the permissions."
        ) from error
    try:
        yield Folder(path, descriptor)
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, limit: int) -> bytes:
    """Up to `limit` bytes; the caller bounds what a growing file can make us read."""
    parts: list[bytes] = []
    left = limit
    # One read(2) returns at most about 2 GiB on Linux, whatever it is asked for.
    while left and (part := os.read(descriptor, min(left, _CHUNK))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _write_file(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _claim(partial: Path, target: Path) -> bool:
    """Give the folder its name, and make the name durable."""
    try:
        partial.rename(target)
    except OSError as error:
        # POSIX lets rename(2) say either when a non-empty folder is there: another writer was first.
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    _sync(target.parent)
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
