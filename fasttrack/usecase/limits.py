"""What a contract's limits mean, for whoever enforces them: rows, columns of Arrow, columns of Spark."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fasttrack.usecase.streams import FieldContract

INT64 = (-(2**63), 2**63 - 1)

#: From here on, whole numbers that were different look alike as doubles: what was written 1e18 is no integer.
INEXACT = 2**53


@dataclass(frozen=True)
class Limits:
    """The least and greatest value of a numeric field, in the field's own type so that no comparison rounds."""

    least: int | float
    greatest: int | float


def limits(field: FieldContract) -> Limits:
    """The bounds of an ``integer`` (never wider than int64) or ``number`` field."""
    low, high = field.minimum, field.maximum
    if field.type == "integer":
        least = INT64[0] if low is None else max(INT64[0], math.ceil(low))
        return Limits(least, INT64[1] if high is None else min(INT64[1], math.floor(high)))
    return Limits(-math.inf if low is None else float(low), math.inf if high is None else float(high))


_UNSAFE = re.compile(r"[\\^$.]|\(\?|\[\[|\[:|\{(?![0-9]+(,[0-9]*)?\})|[+*?}][+*]|\[\]|--|&&|\|\||~~")
_NESTED = re.compile(r"\[[^\]]*\[")


def portable(pattern: str) -> bool:
    """Whether Arrow's regular expressions (RE2) and Python's surely agree on `pattern`.

    Escapes, anchors, dots, look-around, set operations and possessive repeats differ between the two, so patterns
    with any of them are left to Python's.
    """
    return pattern.isascii() and pattern.isprintable() and _UNSAFE.search(pattern) is None


def portable_to_java(pattern: str) -> bool:
    """Whether Java's regular expressions (Spark) surely agree too: to Java, a class within a class is a union."""
    return portable(pattern) and _NESTED.search(pattern) is None
