"""Tensors of the Open Inference Protocol (V2), apart from any transport."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from fasttrack.errors import InvalidRequestError

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BYTES": np.dtype(object),
}
#: What numpy makes of a JSON list of numbers that fits the datatype.
_JSON_KINDS: Final = {"b": "b", "u": "iu", "i": "i", "f": "fiu"}


@dataclass(frozen=True)
class Tensor:
    """One named tensor; `array` has the shape that was declared, and for BYTES holds ``bytes`` or ``str``.

    A value that JSON gave as null is ``None`` in an array of objects; only BYTES tensors and those read with
    ``nullable=True`` can hold one.
    """

    name: str
    datatype: str
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The declared shape."""
        return tuple(self.array.shape)


@dataclass(frozen=True)
class WantedOutput:
    """An output that the client asked for, and whether in binary form (REST)."""

    name: str
    binary: bool


@dataclass(frozen=True)
class InferenceCall:
    """A decoded inference request.

    Attributes:
        inputs: the tensors by name.
        id: the client's request id, empty if it gave none.
        parameters: of the whole request.
        outputs: the wanted outputs; empty means all.
        binary: whether outputs are answered in binary form unless `outputs` says otherwise.
    """

    inputs: dict[str, Tensor]
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[WantedOutput, ...] = ()
    binary: bool = False


@dataclass(frozen=True)
class InferenceAnswer:
    """The outputs of a model, and the response's parameters (text values)."""

    model_name: str
    model_version: str
    id: str
    outputs: tuple[Tensor, ...]
    parameters: dict[str, str]


def checked_shape(name: str, shape: Any) -> tuple[int, ...]:
    """A tensor's shape as a tuple of whole numbers from 0.

    Raises:
        InvalidRequestError: if it is anything else.
    """
    good = isinstance(shape, (list, tuple)) and all(type(size) is int and size >= 0 for size in shape)
    if not good:
        raise InvalidRequestError(
            f"shape {shape!r} is not a list of sizes.", where=f"input {name!r}", fix="Such as [1, 4]."
        )
    return tuple(shape)


def dtype_of(name: str, datatype: Any) -> np.dtype[Any]:
    """The numpy type of a V2 datatype.

    Raises:
        InvalidRequestError: if there is no such datatype.
    """
    found = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if found is None:
        raise InvalidRequestError(
            f"datatype {datatype!r} is unknown.", where=f"input {name!r}", fix=f"There is: {', '.join(DTYPES)}."
        )
    return found


def from_values(name: str, datatype: str, shape: Sequence[int], values: Any, *, nullable: bool = False) -> Tensor:
    """A tensor from JSON values, nested or flat in row-major order.

    Args:
        name: the tensor's name.
        datatype: V2 datatype.
        shape: the declared shape.
        values: a list.
        nullable: keep nulls, as ``None`` in an array of objects.

    Raises:
        InvalidRequestError: if the values don't fit datatype or shape.
    """
    dtype = dtype_of(name, datatype)
    flat = _flat(name, values, math.prod(shape))
    if dtype.hasobject:
        wrong = next((value for value in flat if not isinstance(value, (str, bytes, type(None)))), None)
        if wrong is not None or (None in flat and not nullable):
            raise _unfit(name, datatype, wrong)
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
    else:
        array = _numbers(name, datatype, dtype, flat, nullable)
    return Tensor(name, datatype, array.reshape(tuple(shape)))


def _flat(name: str, values: Any, count: int) -> list[Any]:
    if not isinstance(values, list):
        raise InvalidRequestError("data is not a list.", where=f"input {name!r}", fix="Send the values as a JSON list.")
    while values and isinstance(values[0], list):
        if not all(isinstance(part, list) for part in values):
            raise InvalidRequestError("data mixes lists and values.", where=f"input {name!r}", fix="Nest it evenly.")
        values = [value for part in values for value in part]
    flat: list[Any] = values
    if len(flat) != count:
        raise InvalidRequestError(
            f"data has {len(flat)} values, but its shape needs {count}.",
            where=f"input {name!r}",
            fix="Make shape and data agree.",
        )
    return flat


def _numbers(name: str, datatype: str, dtype: np.dtype[Any], flat: list[Any], nullable: bool) -> Array:
    known = [value for value in flat if value is not None] if nullable else flat
    try:
        array = np.array(known) if known else np.empty(0, dtype)
    except (ValueError, OverflowError) as error:
        raise _unfit(name, datatype, None) from error
    # Lists among the values make an array of more dimensions, or none of numbers: [[]] is one of no floats.
    if known and (array.ndim != 1 or array.dtype.kind not in _JSON_KINDS[dtype.kind]):
        raise _unfit(
            name, datatype, next((v for v in flat if isinstance(v, (str, bool, type(None), list, dict))), None)
        )
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(cast, array):
        raise _unfit(name, datatype, None)
    if len(known) == len(flat):
        return cast
    holes = np.empty(len(flat), dtype=object)
    holes[[value is not None for value in flat]] = cast.tolist()
    return holes


def _unfit(name: str, datatype: str, value: Any) -> InvalidRequestError:
    what = "a value" if value is None else f"the value {str(value)[:40]!r}"
    return InvalidRequestError(
        f"{what} is not of datatype {datatype}.", where=f"input {name!r}", fix="Send values of the declared datatype."
    )


def from_bytes(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    """A tensor from its binary form: little-endian numbers, or length-prefixed strings for BYTES.

    Raises:
        InvalidRequestError: if the number of bytes doesn't fit.
    """
    dtype = dtype_of(name, datatype)
    count = math.prod(shape)
    if dtype.hasobject:
        return Tensor(name, datatype, _strings(name, bytes(raw), count).reshape(tuple(shape)))
    if len(raw) != count * dtype.itemsize:
        raise InvalidRequestError(
            f"{len(raw)} bytes of data, but shape and datatype need {count * dtype.itemsize}.",
            where=f"input {name!r}",
            fix="Make shape, datatype and data agree.",
        )
    # Copied: a view of the request's bytes can't be written to, which torch warns about.
    return Tensor(name, datatype, np.frombuffer(raw, dtype=dtype).reshape(tuple(shape)).copy())


def _strings(name: str, raw: bytes, count: int) -> Array:
    found: list[bytes] = []
    offset = 0
    while offset + 4 <= len(raw) and len(found) < count:
        (length,) = struct.unpack_from("<I", raw, offset)
        found.append(raw[offset + 4 : offset + 4 + length])
        offset += 4 + length
    if offset != len(raw) or len(found) != count:
        raise InvalidRequestError(
            f"the binary data doesn't hold {count} length-prefixed strings.",
            where=f"input {name!r}",
            fix="Each string: 4 bytes of length, little-endian, then its bytes.",
        )
    array = np.empty(count, dtype=object)
    array[:] = found
    return array


def to_bytes(tensor: Tensor) -> bytes:
    """The binary form of a tensor."""
    if not tensor.array.dtype.hasobject:
        return tensor.array.astype(DTYPES[tensor.datatype], copy=False).tobytes()
    parts = [value.encode() if isinstance(value, str) else value for value in tensor.array.reshape(-1)]
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)
