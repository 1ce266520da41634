"""Rows that PostgreSQL could not take yet, on disk: one file a batch, whole or absent, whatever dies when."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import orjson

from fasttrack.errors import StorageError
from fasttrack.registry.records import AuditRow, PredictionRow

Row = AuditRow | PredictionRow
_KINDS: Final[dict[str, type[AuditRow] | type[PredictionRow]]] = {"audit": AuditRow, "prediction": PredictionRow}
_SUFFIX: Final = ".jsonl"


class Spool:
    """A folder of batches. Several gateways may share it: rows carry ids, so a batch sent twice lands once.

    Args:
        folder: made if needed.

    Raises:
        StorageError: the folder can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, rows: Sequence[Row]) -> None:
        """Keep a batch; it is on the disk when this returns.

        Raises:
            StorageError: the disk refuses.
        """
        content = b"".join(orjson.dumps({"kind": kind_of(row), "row": row}) + b"\n" for row in rows)
        name = f"{time.time_ns():020d}-{uuid4().hex}"
        partial, final = self._folder / f"{name}.partial", self._folder / f"{name}{_SUFFIX}"
        try:
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(final)
            self._sync_folder()
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise self._failed(error) from error

    def batches(self) -> list[Path]:
        """The waiting batches, oldest first."""
        return sorted(self._folder.glob(f"*{_SUFFIX}"))

    def read(self, batch: Path) -> list[Row]:
        """The rows of a batch; none if another gateway delivered it meanwhile.

        Raises:
            StorageError: the disk refuses.
        """
        try:
            return list(_rows(batch.read_bytes()))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._failed(error) from error

    def remove(self, batch: Path) -> None:
        """Forget a delivered batch."""
        batch.unlink(missing_ok=True)

    def set_aside(self, rows: Sequence[Row]) -> None:
        """Keep rows that the database refuses for good in ``refused.log``, for a person to look at.

        Raises:
            StorageError: the disk refuses.
        """
        try:
            with (self._folder / "refused.log").open("ab") as file:
                file.writelines(orjson.dumps({"kind": kind_of(row), "row": row}) + b"\n" for row in rows)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failed(error) from error

    def _sync_folder(self) -> None:
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(
            f"audit rows can't be spooled: {error.strerror}.",
            where=str(self._folder),
            fix="Free space, or set FASTTRACK_GATEWAY_SPOOL.",
        )


def kind_of(row: Row) -> str:
    """``audit`` or ``prediction``."""
    return "audit" if isinstance(row, AuditRow) else "prediction"


def _rows(content: bytes) -> Iterator[Row]:
    for line in content.splitlines():
        item = orjson.loads(line)
        kind = _KINDS[item["kind"]]
        known = {field.name for field in fields(kind)}
        row: dict[str, Any] = {name: value for name, value in item["row"].items() if name in known}
        row["at"] = datetime.fromisoformat(row["at"])
        identity = "id" if kind is AuditRow else "prediction_id"
        row[identity] = UUID(row[identity])
        yield kind(**row)
