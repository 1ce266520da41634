"""Events of stream ``placed``, good and bad, with what is wrong with each: written down by hand, known to no check."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.unit.ingest_usecase import event, usecase

STREAM = usecase().streams["placed"]
#: The value of a field that is left out.
ABSENT = object()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Fault:
    """What is wrong.

    Attributes:
        kind: ``value`` (type, range, enum, pattern, length, form of a time), ``missing`` (absent, or null where none
            may be), ``unknown`` (field), ``moment`` (well written, but in no calendar), ``inexact`` (a whole number
            that was written as a double of 2**53 or more), ``not JSON`` (NaN, beyond any double, half a surrogate
            pair), ``key`` (another message key), ``twice`` (one field).
        field: where.
    """

    kind: str
    field: str


@dataclass(frozen=True)
class Example:
    """An event as JSON has it, its message key, and its faults: none of a good one."""

    document: dict[str, Any]
    key: bytes | None = b"o1"
    faults: tuple[Fault, ...] = ()
    twice: bool = False

    @property
    def text(self) -> bytes:
        """The event as JSON, or as nearly so as can be (NaN)."""
        broken = any(isinstance(value, str) and not is_text(value) for value in self.document.values())
        text = json.dumps(self.document, ensure_ascii=broken or len(self.document) % 2 == 0)
        return (text[:-1] + ', "gift": true}' if self.twice else text).encode()

    def good_for(self, blind: set[str]) -> bool:
        """Whether a point accepts it that can't see faults of these kinds, and sees all the others."""
        return all(fault.kind in blind for fault in self.faults)


def is_text(value: Any) -> bool:
    """Whether it is a text that UTF-8 can hold: none with half a surrogate pair."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


_TIMES = ["2020-01-01T10:00:00Z", "2020-02-29T23:59:59Z", "2020-01-01T10:00:00.1Z", "2020-01-01T10:00:00.123456Z",
          "1969-12-31T23:59:59.999999Z", "1582-10-10T00:00:00Z", "0001-01-01T00:00:00Z",
          "9999-12-31T23:59:59.999999Z"]  # fmt: skip
_NO_TIMES = ["", "yesterday", "2020-01-01", "2020-01-01 10:00:00Z", "2020-01-01T10:00:00", "2020-01-01T10:00:00z",
             "2020-01-01T10:00:00+00:00", "2020-01-01T10:00Z", "2020-01-01T10:00:00.1234567Z", "2020-01-01T10:00:00.Z",
             "2020-01-01T10:00:00Z\n", " 2020-01-01T10:00:00Z", "٢٠٢٠-01-01T10:00:00Z", "20200101T100000Z",
             "12020-01-01T10:00:00Z", 1577872800, 1577872800000000, 0.5, True, [], {}]  # fmt: skip
_NO_MOMENTS = ["2020-02-30T10:00:00Z", "2021-02-29T10:00:00Z", "2020-13-01T10:00:00Z", "2020-00-10T10:00:00Z",
               "2020-01-00T10:00:00Z", "2020-01-01T24:00:00Z", "2020-01-01T23:59:60Z", "2020-01-01T10:61:00Z",
               "0000-01-01T00:00:00Z"]  # fmt: skip
_MAY_LACK = [None, ABSENT]
_NO_TEXT = [7, 1.5, True, False, [], ["o1"], {}, {"a": 1}]
_NO_NUMBER = ["", "1", "NaN", True, False, [], [1], {}]

GOOD: dict[str, list[Any]] = {
    "event_id": ["placed-7", "a-0", "a" * 254 + "-1"],
    "order_id": ["o1", "", "x" * 12, "ł" * 12, "😀" * 12, "{", "}", 'a"b\\', "\x00", "\x7f", "\u2028", "a\nb"],
    "placed_at": _TIMES,
    "amount": [-10.5, 1000, 1000.0, 0, -0.0, 5e-324, 999.9999999999999, -10, 7],
    "rating": [*_MAY_LACK, 0, 1e308, -1.7976931348623157e308, 2**63, 2**64, -(2**70), 10**308, 5e-324, 1e18],
    "pieces": [1, 99, 5.0, 1e1, 99.0],
    "serial": [*_MAY_LACK, 0, 2**63 - 1, -(2**63), 2**53, 2**53 + 1, 5.0, -9007199254740991.0],
    "gift": [True, False],
    "city": [*_MAY_LACK, "Paris", "Łódź"],
    # To Python, which patterns are for, these are digits as well.
    "code": [*_MAY_LACK, "123", "none", "١٢٣"],
    "shipped_at": [*_MAY_LACK, *_TIMES],
}
BAD: dict[str, dict[str, list[Any]]] = {
    "event_id": {"missing": _MAY_LACK, "not JSON": ["\ud800"], "value": [
        "", "placed1", "Placed-1", "placed-1\n", "placed-1 ", " placed-1", "placed-١", "a" * 255 + "-1", *_NO_TEXT]},
    "order_id": {"missing": _MAY_LACK, "not JSON": ["\ud83d", "a\udc00"], "value": [
        "x" * 13, "ł" * 13, "😀" * 13, *_NO_TEXT]},
    "placed_at": {"missing": _MAY_LACK, "value": _NO_TIMES, "moment": _NO_MOMENTS},
    "amount": {"missing": _MAY_LACK, "not JSON": [math.nan, math.inf, -math.inf], "value": [
        -10.500000000000002, 1000.0000000000001, 1001, -11, 1e308, -1e308, 2**63, 2**64, *_NO_NUMBER]},
    "rating": {"not JSON": [math.nan, math.inf, -math.inf, 10**400, -(10**400)], "value": _NO_NUMBER},
    "pieces": {"missing": _MAY_LACK, "not JSON": [math.nan, 10**400], "value": [
        0, 100, -1, 1.5, 0.9999999999999999, 99.00000000000001, 2**63, 2**64, 10**30, 1e300, *_NO_NUMBER]},
    "serial": {"not JSON": [math.inf, 10**400], "inexact": [2.0**53, -(2.0**53), 1e18, -9e18], "value": [
        2**63, -(2**63) - 1, 2**64, -(2**64), 10**30, 0.5, 1e-300, 1e19, 1e300, *_NO_NUMBER]},
    "gift": {"missing": _MAY_LACK, "value": [0, 1, 1.0, "", "true", "True", [], {}]},
    "city": {"value": ["", "Rome", "paris", "Paris ", "Lodz", "Ło\u0301dz\u0301", *_NO_TEXT]},
    "code": {"not JSON": ["\udfff"], "value": [
        "", "12", "1234", "none\n", "123\n", "None", " 123", "noneX", *_NO_TEXT]},
    "shipped_at": {"value": _NO_TIMES, "moment": _NO_MOMENTS},
    **{name: {"unknown": [None, 5, "x", True]} for name in ("zip", "Event_id", "gift ", "")},
}  # fmt: skip

#: Single changes of a good event.
CHANGES: list[tuple[str, Any, str | None]] = [
    *((name, value, None) for name, values in GOOD.items() for value in values),
    *((name, value, kind) for name, kinds in BAD.items() for kind, values in kinds.items() for value in values),
]


def example(changes: list[tuple[str, Any, str | None]], odd: str | None = None, number: int = 1) -> Example:
    """A good event with changes of `CHANGES`, of which a later one of the same field counts.

    Args:
        changes: field, value, and the kind of fault that it is.
        odd: a fault of the message: ``key`` or ``twice``.
        number: names the event and its order.
    """
    document, faults = event(number), {}
    for name, value, kind in changes:
        document[name] = value
        faults[name] = kind
    document = {name: value for name, value in document.items() if value is not ABSENT}
    found = [Fault(kind, name) for name, kind in faults.items() if kind is not None]
    order = document.get("order_id")
    key = order.encode() if isinstance(order, str) and is_text(order) else b"o1"
    if odd == "key" and "order_id" not in {fault.field for fault in found}:
        found.append(Fault("key", "order_id"))
        key = b"" if number % 2 and key else key + b"\x00"
    twice = odd == "twice" and isinstance(document.get("gift"), bool)
    return Example(document, key, (*found, *([Fault("twice", "gift")] if twice else [])), twice)


def examples(seed: int, count: int) -> list[Example]:
    """So many events, each a good one with up to four good changes and at most two of any kind."""
    draw = random.Random(seed)
    good = CHANGES[: sum(map(len, GOOD.values()))]
    return [
        example(
            draw.choices(good, k=draw.randrange(5)) + draw.choices(CHANGES, k=draw.choice([0, 0, 1, 1, 2])),
            draw.choice([None] * 14 + ["key", "twice"]),
            draw.randrange(1, 10),
        )
        for _ in range(count)
    ]


#: Every single change, and every fault of a message.
SINGLE = [example([change]) for change in CHANGES] + [
    example([], "key", 1), example([], "key", 2), replace(example([], "key"), key=None), example([], "twice"),
]  # fmt: skip


def typed(document: dict[str, Any]) -> dict[str, Any] | None:
    """The values as Avro's and Spark's types hold them, times in microseconds; None where one doesn't fit its type."""
    try:
        return {n: v if v is None else _TYPED[STREAM.fields[n].type](v) for n, v in document.items() if _known(n)}
    except (ValueError, OverflowError):
        return None


def _known(name: str) -> bool:
    return name in STREAM.fields


def _text(value: Any) -> str:
    return value if is_text(value) else _no(value)


def _double(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else _no(value)


def _long(value: Any) -> int:
    exact = isinstance(value, int) or abs(_double(value)) < 2**53
    whole = exact and not isinstance(value, bool) and -(2**63) <= value < 2**63 and value == int(value)
    return int(value) if whole else _no(value)


def _boolean(value: Any) -> bool:
    return value if isinstance(value, bool) else _no(value)


def _micros(value: Any) -> int:
    return (datetime.strptime(_text(value), _form(value)).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def _form(value: str) -> str:
    # Python's parser takes z, single digits and the 61st second as well.
    if not value.isascii() or len(value) < 20 or not value.endswith("Z") or value[17:19] == "60":
        return _no(value)
    return "%Y-%m-%dT%H:%M:%S.%fZ" if "." in value else "%Y-%m-%dT%H:%M:%SZ"


def _no(value: Any) -> Any:
    raise ValueError(value)


_TYPED = {"string": _text, "number": _double, "integer": _long, "boolean": _boolean, "timestamp": _micros}
