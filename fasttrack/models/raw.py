"""Raw feature values as clients and tables give them, checked and turned into arrays; numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from fasttrack.errors import InvalidRequestError
from fasttrack.models.batch import Array

_PLAIN = {float, type(None)}
_TOO_LARGE = "an infinite or too large number"


def floats(name: str, values: Array | Sequence[Any]) -> Array:
    """float32 [B] with NaN for missing.

    Raises:
        InvalidRequestError: a value is not a number, is infinite, or is NaN in a list (where None means missing).
    """
    if isinstance(values, np.ndarray) and values.dtype != object:
        if values.ndim != 1 or values.dtype.kind not in "fiu":
            raise _wrong(name, f"an array of {values.dtype} with shape {values.shape}", "one number a row")
        given = values
    else:
        given = np.array([_number(name, value) for value in values], dtype=np.float64)
    # A number too large for float32 becomes infinite, which is refused below.
    with np.errstate(over="ignore"):
        found = given.astype(np.float32)
    if np.isinf(found).any():
        raise _wrong(name, _TOO_LARGE, "a finite number")
    return found


def few_floats(columns: Sequence[tuple[str, Array | Sequence[Any]]]) -> Array:
    """What `floats` says of each column, as float32 [columns, B]; quicker where there are few rows.

    Raises:
        InvalidRequestError: as `floats`.
    """
    found = _plain_floats([values for _, values in columns])
    if found is None:
        found = np.array([_listed(name, values) for name, values in columns], np.float64)
    with np.errstate(over="ignore"):
        found = found.astype(np.float32)
    if np.isinf(found).any():
        raise _wrong(columns[int(np.isinf(found).any(axis=1).argmax())][0], _TOO_LARGE, "a finite number")
    return found


def _plain_floats(columns: Sequence[Array | Sequence[Any]]) -> Array | None:
    """Lists of nothing but floats and None as float64 [columns, B]; None where one has to look at each value."""
    if set(map(type, columns)) != {list}:
        return None
    flat = list(chain.from_iterable(columns))
    if not set(map(type, flat)) <= _PLAIN:
        return None
    found = np.array(flat, np.float64)
    # NaN in a list is refused.
    return found.reshape(len(columns), -1) if np.count_nonzero(np.isnan(found)) == flat.count(None) else None


def _listed(name: str, values: Array | Sequence[Any]) -> list[float]:
    if isinstance(values, np.ndarray) and values.dtype != object:
        listed: list[float] = floats(name, values).tolist()
        return listed
    return [_number(name, value) for value in values]


def categories(name: str, values: Array | Sequence[Any]) -> list[str | None]:
    """Words, None for missing.

    Raises:
        InvalidRequestError: a value is not a string.
    """
    words = values.tolist() if isinstance(values, np.ndarray) else list(values)
    for word in words:
        if word is not None and not isinstance(word, str):
            raise _wrong(name, repr(word), "a string")
    return words


def sequences(
    name: str, values: Array | Sequence[Any] | None, lengths: Array | Sequence[Any] | None, shape: tuple[int, int, int]
) -> tuple[Array, Array]:
    """Events as float32 [B, N, k], left-padded with NaN, and their count int64 [B].

    Args:
        name: the sequence column, for messages.
        values: an array [B, N, k], or B lists of events, or None for no events.
        lengths: how many of the last events are real; None to take all that are not wholly NaN.
        shape: (B, N, k).

    Raises:
        InvalidRequestError: a wrong shape or type, an infinite number, or a length outside 0..N.
    """
    count, longest, channels = shape
    if values is None:
        return np.full(shape, np.nan, np.float32), np.zeros(count, np.int64)
    if isinstance(values, np.ndarray) and values.dtype != object:
        if values.shape not in (shape, (count, longest * channels)) or values.dtype.kind not in "fiu":
            raise _wrong(name, f"an array of {values.dtype} with shape {values.shape}", f"numbers of shape {shape}")
        events = values.astype(np.float32).reshape(shape)
    else:
        events = np.stack([_events(name, row, longest, channels) for row in values])
    if np.isinf(events).any():
        raise _wrong(name, _TOO_LARGE, "finite numbers")
    return events, _lengths(name, events, lengths)


def _lengths(name: str, events: Array, lengths: Array | Sequence[Any] | None) -> Array:
    count, longest, _ = events.shape
    real: Array = np.asarray(~np.isnan(events).all(axis=2))
    counted = np.where(real.any(axis=1), longest - real.argmax(axis=1), 0).astype(np.int64)
    if lengths is None:
        return counted
    given = [counted[row] if value is None else value for row, value in enumerate(lengths)]
    found = np.array([_number(f"{name}_length", value) for value in given], np.float64)
    if not (np.isfinite(found) & (found >= 0) & (found <= longest) & (found == np.floor(found))).all():
        raise _wrong(f"{name}_length", repr(given), f"whole numbers from 0 to {longest}")
    return found.astype(np.int64).reshape(count)


def _events(name: str, row: Any, longest: int, channels: int) -> Array:
    out = np.full((longest, channels), np.nan, np.float32)
    if row is None:
        return out
    if isinstance(row, np.ndarray):
        row = row.tolist()
    if not isinstance(row, (list, tuple)):
        raise _wrong(name, repr(row), "a list of events")
    if row and not isinstance(row[0], (list, tuple)):
        # The table's form: one flat list of N*k, where the padding is null or NaN.
        if len(row) != longest * channels:
            raise _wrong(name, f"{len(row)} numbers", f"{longest} x {channels} numbers")
        flat = [np.nan if value is None or value != value else _number(name, value) for value in row]
        return np.array(flat, np.float32).reshape(longest, channels)
    if len(row) > longest:
        raise _wrong(name, f"{len(row)} events", f"at most {longest} events, the newest last")
    for position, event in enumerate(row, start=longest - len(row)):
        if not isinstance(event, (list, tuple)) or len(event) != channels:
            raise _wrong(name, repr(event), f"events of {channels} numbers")
        out[position] = [_number(name, value) for value in event]
    return out


def _number(name: str, value: Any) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise _wrong(name, repr(value), "a number, or null where it is missing")
    if value != value:
        raise _wrong(name, "NaN", "a number, or null where it is missing")
    return float(value)


def _wrong(name: str, got: str, wanted: str) -> InvalidRequestError:
    short = got if len(got) <= 80 else got[:77] + "..."
    return InvalidRequestError(f"feature {name!r} has {short}.", where=name, fix=f"Send {wanted}.")
