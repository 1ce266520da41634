"""Rows of a table, which the server gives as texts, as records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg2.extensions import connection as Connection

from fasttrack.ingest.sources.postgres_link import TableColumn
from fasttrack.ingest.sources.postgres_values import Unreadable
from fasttrack.ingest.sources.source import Record
from fasttrack.progress import note
from fasttrack.usecase.sources import Source
from fasttrack.usecase.streams import Stream


class Rows:
    """Makes records of rows.

    Args:
        needed: the columns that events are made of.
        where: table and source, named in messages.
    """

    def __init__(self, needed: Iterable[str], where: str) -> None:
        self._needed, self._where = frozenset(needed), where
        self._told: set[str] = set()

    def record(self, identity: str, columns: Sequence[TableColumn], texts: Sequence[str | None]) -> Record:
        """The record of a row; without fields, as all its texts, if the event needs a value that can't be read.

        Args:
            identity: the record's.
            columns: the table's.
            texts: their values, as the server writes them.
        """
        fields = {
            column.name: None if text is None else column.convert(text)
            for column, text in zip(columns, texts, strict=True)
        }
        wrong = self._wrong(fields)
        if not wrong:
            return Record(identity, fields)
        self._tell(identity, wrong)
        row = dict(zip((column.name for column in columns), texts, strict=True))
        return Record(identity, None, json.dumps({**row, "_unreadable": wrong}).encode())

    def replicated(self, identity: str, fields: Mapping[str, Any]) -> Record:
        """The record of a row that replication told; as `record`, of values instead of texts."""
        wrong = self._wrong(fields)
        if not wrong:
            return Record(identity, fields)
        self._tell(identity, wrong)
        return Record(identity, None, json.dumps({**fields, "_unreadable": wrong}, default=str).encode())

    def _wrong(self, fields: Mapping[str, Any]) -> dict[str, str]:
        return {
            name: value.why for name, value in fields.items() if isinstance(value, Unreadable) and name in self._needed
        }

    def _tell(self, identity: str, wrong: Mapping[str, str]) -> None:
        for name in wrong.keys() - self._told:
            self._told.add(name)
            note(
                f"{self._where}, row {identity}: {name} can't be read ({wrong[name]}), so that the row becomes a dead "
                "letter; further ones are counted only"
            )


def needed(source: Source, stream: Stream) -> set[str]:
    """The names of the columns, or what may be one, that the stream's events are made of."""
    paths = [source.fields.get(field, field) for field in stream.fields if field not in source.constants]
    return {*paths, *(path.partition(".")[0] for path in paths)}


def identity(values: tuple[Any, ...]) -> str:
    """The values as one text that no other values make: separators and backslashes in them are escaped."""
    return "|".join(str(value).replace("\\", "\\\\").replace("|", "\\|") for value in values)


def take_any_text(connection: Connection) -> bool:
    """Have texts in an encoding that takes all that the database can hold, whatever the role or libpq are set to.

    A database without an encoding (SQL_ASCII) holds any bytes. They come as Latin-1, which has a letter for each, so
    that a key can be given back to the server as it was; `decoded` makes text of them.

    Returns:
        Whether it is such a database.
    """
    any_bytes = connection.get_parameter_status("server_encoding") == "SQL_ASCII"
    connection.set_client_encoding("LATIN1" if any_bytes else "UTF8")
    return any_bytes


def decoded(texts: Sequence[str | None]) -> tuple[str | None, ...]:
    """Texts that came as Latin-1 as UTF-8; what is none becomes half surrogates, which no contract takes."""
    return tuple(
        text if text is None or text.isascii() else text.encode("latin-1").decode("utf-8", "surrogateescape")
        for text in texts
    )
