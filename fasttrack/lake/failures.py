"""What the disk or object store says, as one of FastTrack's errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from deltalake.exceptions import DeltaError

from fasttrack.errors import StorageError

_FIXES = {
    errno.ENOSPC: "Free space on the disk and start again: nothing was lost, it goes on where it stopped.",
    errno.EDQUOT: "Raise the disk quota and start again: nothing was lost, it goes on where it stopped.",
    errno.EFBIG: "Raise the file-size limit (ulimit -f) and start again: nothing was lost.",
    errno.EROFS: "The file system is read-only: give a lake folder that can be written.",
    errno.EACCES: "Give this user the right to read and write the folder.",
    errno.EPERM: "Give this user the right to read and write the folder.",
    errno.ENOENT: "Check the path of the lake.",
}
_WORDS = {
    "no space left": errno.ENOSPC,
    "quota": errno.EDQUOT,
    "read-only": errno.EROFS,
    "permission denied": errno.EACCES,
}


def storage_error(error: BaseException, where: str) -> StorageError:
    """The StorageError that says what `error` means; libraries that hide the error number are read by their text."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        text = str(error).lower()
        number = next((code for word, code in _WORDS.items() if word in text), None)
    fix = _FIXES.get(number or 0, "Look at the storage, then start again: it goes on where it stopped.")
    reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
    return StorageError(f"the storage refused: {reason}.", where=where, fix=fix)


@contextmanager
def storage(where: str) -> Iterator[None]:
    """Run the block and turn whatever storage refuses into StorageError.

    Args:
        where: the path or URI that the block works on.
    """
    try:
        yield
    except (OSError, DeltaError, pa.ArrowInvalid) as error:
        raise storage_error(error, where) from error
