"""Events as Avro records, built column by column."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fasttrack.errors import DataQualityError
from fasttrack.usecase.streams import Stream

_LONGEST = 10


def records(stream: Stream, table: pa.Table, lead: bytes = b"") -> pa.Array:
    """One record for each row, as `avro.avro_schema` has it.

    Args:
        stream: the contract.
        table: its columns, as `encode.conform` gives them; a NaN becomes null where null is allowed.
        lead: put before each record.

    Returns:
        A binary (or large binary) array as long as the table.

    Raises:
        DataQualityError: a value is null where the contract allows none: Avro can't even write it.
    """
    pieces: list[pa.Array | pa.Scalar] = [pa.scalar(lead)]
    for name, field in stream.fields.items():
        column = table.column(name).combine_chunks()
        if field.nullable and pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
        if column.null_count and not field.nullable:
            raise DataQualityError(
                f"{column.null_count:,} values are null.", where=f"field {name}", fix="Make it nullable, or give them."
            )
        if field.nullable:
            pieces.append(_branches(column))
        pieces.extend(_values(column))
    return pc.binary_join_element_wise(*pieces, pa.scalar(b""))


def _branches(column: pa.Array) -> pa.Array:
    """The union's index: 0 for null, 1 (zigzag: 2) for a value."""
    return pc.if_else(pc.is_valid(column), pa.scalar(b"\x02"), pa.scalar(b"\x00"))


def _values(column: pa.Array) -> list[pa.Array]:
    """A column's values as bytes; a null is no byte."""
    empty = pa.scalar(b"")
    if pa.types.is_boolean(column.type):
        return [pc.fill_null(pc.if_else(column, pa.scalar(b"\x01"), pa.scalar(b"\x00")), empty)]
    if pa.types.is_string(column.type):
        text = column.cast(pa.binary())
        return [_varints(pc.binary_length(text)), pc.fill_null(text, empty)]
    if pa.types.is_floating(column.type):
        data = np.ascontiguousarray(pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False), "<f8")
        fixed = pa.Array.from_buffers(pa.binary(8), len(data), [None, pa.py_buffer(data)])
        return [pc.fill_null(pc.if_else(pc.is_valid(column), fixed.cast(pa.binary()), None), empty)]
    return [_varints(column)]


def _varints(column: pa.Array) -> pa.Array:
    """Whole numbers (or timestamps) as zigzag varints; a null is no byte."""
    numbers = pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    zigzag: npt.NDArray[np.uint64] = ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)
    size = np.ones(len(zigzag), np.int32)
    for bytes_ in range(1, _LONGEST):
        size += zigzag >= np.uint64(1 << 7 * bytes_)
    if column.null_count:
        size[pc.is_null(column).to_numpy(zero_copy_only=False)] = 0
    ends = np.cumsum(size, dtype=np.int32)
    offsets = np.concatenate([np.zeros(1, np.int32), ends])
    data = np.empty(int(offsets[-1]), np.uint8)
    rows = np.flatnonzero(size)
    for at in range(_LONGEST):
        rows = rows[size[rows] > at]
        if not len(rows):
            break
        more = (size[rows] > at + 1).astype(np.uint8) << 7
        data[offsets[rows] + at] = (zigzag[rows] >> np.uint64(7 * at)).astype(np.uint8) & 0x7F | more
    return pa.Array.from_buffers(pa.binary(), len(size), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
