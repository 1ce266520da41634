"""Results of trials on disk: what was computed once is not computed again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson

from fasttrack.errors import StorageError
from fasttrack.training.files import dump_json


class TrialCache:
    """One JSON line a finished trial, in ``<folder>/trials.jsonl``; without a folder, in memory only."""

    def __init__(self, folder: str | Path | None) -> None:
        """Read what is there; a line that a crash cut short is left out.

        Raises:
            StorageError: the file can't be read.
        """
        self._path = None if folder is None else Path(folder) / "trials.jsonl"
        self._found: dict[str, dict[str, Any]] = {}
        if self._path is None or not self._path.is_file():
            return
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError as error:
            raise StorageError(f"can't be read: {error.strerror}.", where=str(self._path)) from error
        for line in lines:
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                # Only the last line can be short, and its trial simply runs again.
                continue
            self._found[record["key"]] = record

    def get(self, key: str) -> dict[str, Any] | None:
        """The record kept under `key`."""
        return self._found.get(key)

    def put(self, key: str, record: dict[str, Any]) -> None:
        """Keep a finished trial.

        Raises:
            StorageError: the disk refused it.
        """
        self._found[key] = {"key": key, **record}
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # A leading newline ends a line that a crash may have cut short.
            with self._path.open("ab") as file:
                file.write(b"\n" + orjson.dumps(self._found[key]) + b"\n")
        except OSError as error:
            raise StorageError(
                f"can't be written: {error.strerror}.", where=str(self._path), fix="Free disk space."
            ) from error


def key(document: Any) -> str:
    """Digest of all that a trial depends on."""
    return hashlib.sha256(dump_json(document)).hexdigest()
