"""Events of stream ``placed`` as typed values, and the values at the borders of each type."""

from __future__ import annotations

import math
from typing import Any

DOUBLES = [0.0, -0.0, -10.5, -10.6, 1000.0, 1000.1, math.nan, math.inf, -math.inf, 5e-324, 1e308]
WHOLE = [0, 1, 99, 100, -1, 63, 64, 2**31 - 1, -(2**31)]
LONGS = WHOLE + [2**k - 1 for k in range(7, 64)] + [-(2**k) for k in range(7, 64)]
STRINGS = ["", "a-1", "o1", "Paris", "Łódź", "paris", "12", "123", "١٢٣", "none", "none\n", "\x00", "x" * 12, "x" * 13,
           "ł" * 12, "😀" * 12, "y" * 63, "y" * 64, "y" * 300]  # fmt: skip
MOMENTS = [*LONGS, -62_135_596_800_000_000, -62_135_596_800_000_001, 253_402_300_799_999_999, 253_402_300_800_000_000]
BORDERS: dict[str, list[Any]] = {
    "null": [None], "string": STRINGS, "boolean": [True, False], "long": LONGS, "int": WHOLE, "double": DOUBLES,
    "float": [0.5, -10.5, math.inf, -math.inf, math.nan, 1000.0, 1e6], "timestamp": MOMENTS,
}  # fmt: skip


def borders(kind: Any) -> list[Any]:
    if isinstance(kind, list):
        return [value for branch in kind for value in borders(branch)]
    return BORDERS["timestamp" if isinstance(kind, dict) else kind]


def event(**changes: Any) -> dict[str, Any]:
    """A good event, timestamps in microseconds."""
    return {
        "event_id": "placed-1", "order_id": "o1", "placed_at": 1_577_872_800_000_000, "amount": 12.25, "rating": None,
        "pieces": 3, "serial": 2**60, "gift": True, "city": "Łódź", "code": "123", "shipped_at": 5,
    } | changes  # fmt: skip
