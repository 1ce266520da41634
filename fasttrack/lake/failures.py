"""What the disk or object store says, as one of FastTrack's errors."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
from deltalake.exceptions import DeltaError

from fasttrack.errors import ConfigurationError, StorageError, UnavailableError

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
_STORE = "Generic S3 error"
_AGAIN = "Start again once it does: nothing was lost, it goes on where it stopped."
# What the object store's client says, in this order: which error that is, what is wrong, what to do.
_ANSWERS: tuple[tuple[re.Pattern[str], type[StorageError | UnavailableError | ConfigurationError], str, str], ...] = (
    (re.compile(r"NoSuchBucket"), StorageError, "there is no such bucket", "Create it, or correct FASTTRACK_LAKE."),
    (re.compile(r"169\.254\.|/latest/api/token|Missing ?(AccessKeyId|SecretAccessKey|Credentials)"), ConfigurationError,
     "no credentials for the object store were found", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."),
    (re.compile(r"InvalidAccessKeyId|SignatureDoesNotMatch|InvalidClientTokenId|ExpiredToken|401 Unauthorized"),
     StorageError, "the object store does not accept the credentials",
     "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_REGION."),
    (re.compile(r"AccessDenied|403 Forbidden|Unauthorized"), StorageError,
     "the object store denies access", "Give these credentials the right to list, read, write and delete there."),
    (re.compile(r"PermanentRedirect|AuthorizationHeaderMalformed|301 Moved"), ConfigurationError,
     "the bucket is in another region", "Correct AWS_REGION (and AWS_ENDPOINT_URL)."),
    (re.compile(r"dns error|lookup address"), UnavailableError,
     "the object store's name is not known", f"Check AWS_ENDPOINT_URL. {_AGAIN}"),
    # An upload that is not known was finished, and the answer lost.
    (re.compile(r"HTTP error(?!.*builder error)|[Cc]onnect|\b(429|500|502|503|504) [A-Z]|SlowDown|NoSuchUpload"),
     UnavailableError, "the object store does not answer", _AGAIN),
)  # fmt: skip


def storage_error(error: BaseException, where: str) -> StorageError | UnavailableError | ConfigurationError:
    """The error that says what `error` means; libraries that hide the error number are read by their text.

    Of an object store: `UnavailableError` if it does not answer, `ConfigurationError` if it was never asked rightly.
    Everything else is a `StorageError`.
    """
    text = _plain(error)
    if _STORE in text:
        for pattern, kind, what, fix in _ANSWERS:
            if pattern.search(text):
                return kind(f"{what}.", where=where, fix=fix)
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        number = next((code for word, code in _WORDS.items() if word in text.lower()), None)
    fix = _FIXES.get(number or 0, "Look at the storage, then start again: it goes on where it stopped.")
    reason = getattr(error, "strerror", None) or text or type(error).__name__
    return StorageError(f"the storage refused: {reason}.", where=where, fix=fix)


def _plain(error: BaseException) -> str:
    """The error's text in one line, without colours and arrows."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|\u21b3", " ", str(error)).split())


@contextmanager
def storage(where: str) -> Iterator[None]:
    """Run the block and turn whatever storage refuses into one of FastTrack's errors, as `storage_error` does.

    Args:
        where: the path or URI that the block works on.
    """
    try:
        yield
    except (OSError, DeltaError, pa.ArrowInvalid) as error:
        raise storage_error(error, where) from error
