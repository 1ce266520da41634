"""The checkers of a stream, by its encoding."""

from __future__ import annotations

from fasttrack.ingest.avro import AvroRowChecker
from fasttrack.ingest.avrocolumns import AvroColumnChecker
from fasttrack.ingest.columncheck import ColumnChecker
from fasttrack.ingest.rowcheck import RowChecker
from fasttrack.usecase.streams import Stream


def row_checker(stream: Stream) -> RowChecker | AvroRowChecker:
    """The precise check of single messages; both take the registered schemas as `schemas.known` gives them."""
    return AvroRowChecker(stream) if stream.encoding == "avro" else RowChecker(stream)


def column_checker(stream: Stream) -> ColumnChecker | AvroColumnChecker:
    """The check of many messages at once, which never disagrees with the precise one."""
    return AvroColumnChecker(stream) if stream.encoding == "avro" else ColumnChecker(stream)
