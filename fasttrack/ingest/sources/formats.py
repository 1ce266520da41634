"""The rows of one file, from any row on: CSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from fasttrack.errors import DataQualityError
from fasttrack.ingest.sources.documents import document

#: A row: its values by name, or None and its bytes if it can't be read.
Row = tuple[dict[str, Any] | None, bytes | None]
#: Gives the rows of a file, but for the first so many.
Reader = Callable[[pafs.FileSystem, str, int], Iterator[Row]]

_BLOCK = 2**20
_LONGEST_LINE = 64 * 2**20
_PARQUET_ROWS = 4096
_BOM = b"\xef\xbb\xbf"
# What pyarrow raises for a value that it can't make a Python object of: dates, zones, text that is no UTF-8.
_UNKNOWN = (ArithmeticError, LookupError, ValueError)


def _lines(filesystem: pafs.FileSystem, path: str) -> Iterator[bytes]:
    """The lines of a file (unpacked if its name ends in .gz, .bz2, .zst), with their ends."""
    with filesystem.open_input_stream(path) as stream:
        rest, first = b"", True
        while block := stream.read(_BLOCK):
            if first:
                block, first = block.removeprefix(_BOM), False
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                yield line + b"\n"
            if len(rest) > _LONGEST_LINE:
                raise DataQualityError(
                    f"has a line of more than {_LONGEST_LINE:,} bytes.", where=path, fix="Is it of this `format`?"
                )
        if rest:
            yield rest


def jsonl(filesystem: pafs.FileSystem, path: str, skip: int) -> Iterator[Row]:
    """JSON objects, one a line; any other line is a raw row, an empty one is none."""
    number = 0
    for line in _lines(filesystem, path):
        if line.isspace():
            continue
        number += 1
        if number > skip:
            text = line.rstrip(b"\r\n")
            fields = document(text)
            yield fields, text if fields is None else None


class _Physical:
    """A file's lines as text, which can be put back; remembers those of the row that is being read."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._back: list[bytes] = []
        self.taken: list[bytes] = []

    def __iter__(self) -> _Physical:
        return self

    def __next__(self) -> str:
        line = self._back.pop() if self._back else next(self._lines)
        self.taken.append(line)
        # Bytes that aren't UTF-8 become half surrogates: they are found below, and the row stays readable for csv.
        return line.decode("utf-8", "surrogateescape")

    def put_back(self, lines: list[bytes]) -> None:
        self._back += reversed(lines)


def comma_separated(filesystem: pafs.FileSystem, path: str, skip: int) -> Iterator[Row]:
    """CSV (RFC 4180) with a row of names first; a row that isn't well-formed is a raw row.

    Raises:
        DataQualityError: the first row doesn't name the columns.
    """
    physical = _Physical(_lines(filesystem, path))
    reader = csv.reader(physical, strict=True)
    names = _names(reader, physical, path)
    number = 0
    while True:
        physical.taken = []
        cells = _cells(reader, physical)
        if cells is None:
            return
        if not cells and not b"".join(physical.taken).strip():
            continue
        number += 1
        if number <= skip:
            continue
        raw = b"".join(physical.taken)
        well = len(cells) == len(names) and _is_text(raw)
        yield (dict(zip(names, cells, strict=True)), None) if well else (None, _bare(raw))


def _names(reader: Any, physical: _Physical, path: str) -> list[str]:
    try:
        names: list[str] = next(reader, [])
    except csv.Error as error:
        raise DataQualityError(f"the row of names: {error}.", where=path, fix="Is it CSV?") from error
    named = bool(names) and len(set(names)) == len(names) and all(names)
    if physical.taken and not (named and _is_text(b"".join(physical.taken))):
        raise DataQualityError(
            "the first row does not name each column once.", where=path, fix="Put the names of the columns there."
        )
    return names


def _cells(reader: Any, physical: _Physical) -> list[str] | None:
    """The next row's cells; none at all for a row that isn't well-formed; None at the end."""
    try:
        cells: list[str] = next(reader)
        return cells
    except StopIteration:
        return None
    except csv.Error:
        # An open quote swallows what follows: only the line that it stands in is bad.
        physical.put_back(physical.taken[1:])
        del physical.taken[1:]
        return []


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _bare(raw: bytes) -> bytes:
    return raw.removesuffix(b"\n").removesuffix(b"\r")


def parquet(filesystem: pafs.FileSystem, path: str, skip: int) -> Iterator[Row]:
    """Rows of a Parquet file; whole row groups before the first wanted row aren't read."""
    with filesystem.open_input_file(path) as file:
        opened = pq.ParquetFile(file)
        first = 0
        while first < opened.num_row_groups and skip >= opened.metadata.row_group(first).num_rows:
            skip -= opened.metadata.row_group(first).num_rows
            first += 1
        groups = list(range(first, opened.num_row_groups))
        for batch in opened.iter_batches(_PARQUET_ROWS, row_groups=groups) if groups else ():
            left = batch.slice(skip)
            skip = max(0, skip - batch.num_rows)
            names = left.schema.names
            for values in zip(*(_values(column) for column in left.columns), strict=True):
                yield dict(zip(names, values, strict=True)), None


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.type) and column.type.tz:
        # It is the same moment; the zone only says how to show it, and Python may not know it.
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        return _to_the_nanosecond(column)
    try:
        found: list[Any] = column.to_pylist()
    except _UNKNOWN:
        found = [_value(scalar) for scalar in column]
    return found


def _to_the_nanosecond(column: pa.Array) -> list[Any]:
    """Python has no nanoseconds: where there are some, the text has them, and the contract refuses them."""
    rounded = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    found: list[Any] = rounded.to_pylist()
    finer = pc.not_equal(column.cast(pa.int64()), pc.multiply(rounded.cast(pa.int64()), 1000))
    for at in np.flatnonzero(finer.fill_null(False).to_numpy(zero_copy_only=False)).tolist():
        found[at] = column[at].cast(pa.string()).as_py()
    return found


def _value(scalar: pa.Scalar) -> Any:
    """A value; one that Python can't hold (a year beyond 9999) as a text that no contract takes for a time."""
    try:
        return scalar.as_py()
    except _UNKNOWN:
        if isinstance(scalar, pa.DictionaryScalar):
            return _value(scalar.value)
        if isinstance(scalar, pa.StructScalar):
            return {name: _value(scalar[name]) for name in scalar}
        if isinstance(scalar, pa.ListScalar):
            return [_value(each) for each in scalar]
        if isinstance(scalar, pa.StringScalar):
            return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
        if isinstance(scalar, pa.TimestampScalar) and scalar.type.tz != "UTC":
            return _value(scalar.cast(pa.timestamp(scalar.type.unit, "UTC")))
        return f"{scalar.value} {scalar.type}"


READERS: dict[str, Reader] = {"csv": comma_separated, "jsonl": jsonl, "parquet": parquet}
