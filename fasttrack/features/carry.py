"""Columns packed into one binary column, so that Spark moves a row's numbers through a shuffle as one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fasttrack.features.compute import sequence_array
from fasttrack.features.kernel import Floats

_NULL = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Slot:
    """One packed column.

    Attributes:
        field: its name and type: float64, int32, a timestamp, or a list of float64 of fixed size.
        width: how many 8-byte values it takes.
    """

    field: pa.Field
    width: int = 1


def pack(payload: pa.ChunkedArray | None, table: pa.Table, slots: Sequence[Slot]) -> pa.Array:
    """Append the columns of `slots` to each row's payload.

    Args:
        payload: what was packed before, one binary value a row; None to start.
        table: the columns.
        slots: which, in order.

    Returns:
        Binary values of 8 bytes a slot value. Floats keep their bits, null is NaN; whole numbers and times lie there
        as int64.
    """
    parts = [] if payload is None else [_matrix(payload, len(table))]
    parts += [_values(table[slot.field.name], slot) for slot in slots]
    matrix = np.ascontiguousarray(np.concatenate(parts, axis=1)) if parts else np.zeros((len(table), 0))
    rows = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(matrix.shape[1] * 8), len(matrix), [None, pa.py_buffer(matrix.tobytes())]
    )
    return rows.cast(pa.binary())


def unpack(payload: pa.ChunkedArray, slots: Sequence[Slot]) -> dict[str, pa.Array]:
    """The columns that were packed, by name; `slots` are all of them in the order of packing."""
    matrix = _matrix(payload, len(payload))
    found: dict[str, pa.Array] = {}
    at = 0
    for slot in slots:
        part = np.ascontiguousarray(matrix[:, at : at + slot.width])
        found[slot.field.name] = _array(part, slot.field.type)
        at += slot.width
    return found


def _matrix(payload: pa.ChunkedArray, rows: int) -> Floats:
    data = payload.combine_chunks() if isinstance(payload, pa.ChunkedArray) else payload
    if not rows:
        return np.zeros((0, 0))
    offsets = np.frombuffer(data.buffers()[1], dtype=np.int32)[data.offset : data.offset + rows + 1]
    values = np.frombuffer(data.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
    return values.reshape(rows, -1).view(np.float64)


def _values(column: pa.ChunkedArray, slot: Slot) -> Floats:
    array = column.combine_chunks()
    if pa.types.is_list(array.type):
        return np.asarray(array.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(len(array), slot.width)
    if pa.types.is_floating(array.type):
        return np.asarray(array.to_numpy(zero_copy_only=False), np.float64).reshape(-1, 1)
    whole = array.cast(pa.int64()).fill_null(int(_NULL)).to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(whole).view(np.float64).reshape(-1, 1)


def _array(part: Floats, kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind):
        return sequence_array(part[:, :, None])
    if pa.types.is_floating(kind):
        return pa.array(part.reshape(-1), from_pandas=True)
    whole = part.reshape(-1).view(np.int64)
    return pa.array(whole, mask=whole == _NULL).cast(kind)
