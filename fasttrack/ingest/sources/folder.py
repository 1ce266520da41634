"""The files of a source: where they are, and which there are now."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from fasttrack.errors import ConfigurationError, UnavailableError
from fasttrack.usecase.sources import FilesSource

_PARTIAL = (".tmp", ".part", ".partial", ".crdownload", ".swp")


@dataclass(frozen=True)
class Found:
    """A file as it was listed.

    Attributes:
        path: relative to the source's folder.
        size: bytes.
        changed: modification time, nanoseconds since 1970.
    """

    path: str
    size: int
    changed: int

    @property
    def state(self) -> str:
        """Tells one content from another."""
        return f"{self.size}/{self.changed}"


class Folder:
    """A folder or an S3 prefix.

    Args:
        name: the source's.
        source: its declaration.
        base: what a relative path counts from.
        environment: AWS_ENDPOINT_URL and AWS's other usual variables for s3://.

    Raises:
        ConfigurationError: S3 can't be used with these.
    """

    def __init__(self, name: str, source: FilesSource, base: Path, environment: Mapping[str, str]) -> None:
        self._name, self._source = name, source
        self.filesystem, self._root = _filesystem(source.path, environment, base)

    def require(self) -> None:
        """See that it is there; a prefix of S3 need not be there yet, its bucket must.

        Raises:
            ConfigurationError: it isn't.
            UnavailableError: it can't be looked at.
        """
        s3 = self._source.path.startswith("s3://")
        place = self._root.split("/", 1)[0] if s3 else self._root
        if self._info(place).type != pafs.FileType.Directory:
            raise ConfigurationError(
                f"is no {'bucket' if s3 else 'folder'}.",
                where=self.where(),
                fix="Make it, or mend the source's `path`.",
            )

    def look(self) -> Iterator[Found]:
        """The files that are there and wanted.

        Raises:
            UnavailableError: they can't be listed.
        """
        selector = pafs.FileSelector(self._root, allow_not_found=True, recursive=True)
        for entry in self._info(selector):
            path = entry.path.removeprefix(self._root).lstrip("/")
            if entry.type == pafs.FileType.File and self._wanted(path):
                yield Found(path, entry.size, entry.mtime_ns or 0)

    def unchanged(self, each: Found) -> bool:
        """Whether a file is as it was listed.

        Raises:
            UnavailableError: it can't be looked at.
        """
        now = self._info(self.place(each.path))
        return (now.size, now.mtime_ns or 0) == (each.size, each.changed)

    def place(self, path: str) -> str:
        """A file's path for `filesystem`."""
        return f"{self._root}/{path}"

    def where(self, path: str = "") -> str:
        """How people are told of a file, or of the folder."""
        return f"source {self._name}, {self._source.path.rstrip('/')}{'/' + path if path else ''}"

    def _info(self, place: str | pafs.FileSelector) -> Any:
        try:
            return self.filesystem.get_file_info(place)
        except OSError as error:
            raise UnavailableError(
                f"can't be listed: {error}.", where=self.where(), fix="Check address and rights."
            ) from error

    def _wanted(self, path: str) -> bool:
        parts = path.split("/")
        if any(part.startswith((".", "_")) for part in parts) or path.lower().endswith(_PARTIAL):
            return False
        return fnmatch.fnmatchcase(path if "/" in self._source.glob else parts[-1], self._source.glob)


def _filesystem(path: str, environment: Mapping[str, str], base: Path) -> tuple[pafs.FileSystem, str]:
    """Where a source's files are; a relative path counts from the use case's file."""
    if not path.startswith("s3://"):
        return pafs.LocalFileSystem(), str((base / Path(path).expanduser()).absolute())
    options = {
        "access_key": environment.get("AWS_ACCESS_KEY_ID"),
        "secret_key": environment.get("AWS_SECRET_ACCESS_KEY"),
        "session_token": environment.get("AWS_SESSION_TOKEN"),
        "region": environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"),
    }
    if endpoint := environment.get("AWS_ENDPOINT_URL"):
        address = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        options |= {"endpoint_override": address.netloc, "scheme": address.scheme}
        options["region"] = options["region"] or "us-east-1"
    try:
        filesystem = pafs.S3FileSystem(**{key: value for key, value in options.items() if value})
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"S3: {error}.", where=path, fix="Check AWS_ENDPOINT_URL and the keys.") from error
    return filesystem, path.removeprefix("s3://").rstrip("/")
