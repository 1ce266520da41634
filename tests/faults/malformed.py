"""Messages that no contract accepts, of every kind that the wild has; each is malformed whatever the event was."""

from __future__ import annotations

import random
from collections.abc import Callable

HEADER = 5
_NO_SCHEMA = (2**31 - 1).to_bytes(4, "big")

Damage = Callable[[random.Random, bytes, int], bytes | None]


def _cut(chance: random.Random, value: bytes, _: int) -> bytes:
    return value[: chance.randrange(HEADER, len(value))]


def _cut_header(chance: random.Random, value: bytes, _: int) -> bytes:
    return value[: chance.randrange(1, HEADER)]


def _nothing(chance: random.Random, _: bytes, __: int) -> bytes | None:
    return chance.choice([None, b""])


def _wrong_type(chance: random.Random, value: bytes, _: int) -> bytes:
    field, wrong = chance.choice(
        [
            ("event_id", "17"),
            ("order_id", "[]"),
            ("placed_at", "1577836800"),
            ("placed_at", '"yesterday"'),
            ("amount", '"12"'),
            ("amount", "{}"),
            ("serial", "0.5"),
            ("serial", "true"),
            ("gift", "1"),
            ("gift", '"no"'),
            ("event_id", "null"),
        ]
    )
    return _with(value, field, wrong.encode())


def _not_finite(chance: random.Random, value: bytes, _: int) -> bytes:
    return _with(value, "amount", chance.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e400", b"nan"]))


def _out_of_range(chance: random.Random, value: bytes, _: int) -> bytes:
    field, wrong = chance.choice(
        [
            ("amount", b"-0.5"),
            ("amount", b"1e300"),
            ("serial", b"-1"),
            ("serial", b"9223372036854775808"),
            ("serial", b"9" * 400),
            ("city", '"Ł"'.encode()),
            ("placed_at", b'"2020-02-30T00:00:00Z"'),
            ("placed_at", b'"2020-01-01T25:00:00Z"'),
            ("order_id", b'"' + b"x" * 65 + b'"'),
        ]
    )
    return _with(value, field, wrong)


def _huge(chance: random.Random, value: bytes, most: int) -> bytes:
    # Most just above the limit, some as large as the broker takes.
    size = chance.choice([most + 1, most + 1, 2 * most, 4 * most, 900_000 if chance.random() < 0.01 else 3 * most])
    return value[:-1] + b" " * (size - len(value)) + value[-1:]


def _deep(chance: random.Random, value: bytes, most: int) -> bytes:
    depth = chance.choice([2, 100, 1000, (most - len(value)) // 3])
    opened, closed = chance.choice([(b"[", b"]"), (b'{"a":', b"}")])
    depth = min(depth, (most - len(value)) // len(opened + closed) - 1)
    return _with(value, "city", opened * depth + b"1" + closed * depth)


def _too_deep_to_end(chance: random.Random, value: bytes, most: int) -> bytes:
    return value[:HEADER] + chance.choice([b"[", b'{"a":']) * ((most - HEADER) // 5)


def _invalid_utf8(chance: random.Random, value: bytes, _: int) -> bytes:
    bad = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xe2\x82", b"\\ud800"]
    return _with(value, "order_id", b'"' + chance.choice(bad) + b'"')


def _wrong_schema(chance: random.Random, value: bytes, _: int) -> bytes:
    return value[:1] + _NO_SCHEMA + value[HEADER:]


def _no_magic(chance: random.Random, value: bytes, _: int) -> bytes:
    return bytes([chance.randrange(1, 256)]) + value[1:]


def _not_an_object(chance: random.Random, value: bytes, _: int) -> bytes:
    return value[:HEADER] + chance.choice(
        [
            b"[]",
            b"null",
            b"1",
            b'"text"',
            b"[" + value[HEADER:] + b"]",
            b"<event/>",
            b"   ",
            bytes(chance.randbytes(64)),
        ]
    )


def _more_than_json(chance: random.Random, value: bytes, _: int) -> bytes:
    text = value[HEADER:]
    found = [
        text + b"}",
        text + text,
        b"\xef\xbb\xbf" + text,
        text + b"\x00",
        text[:-1] + b",}",
        text.replace(b'"', b"'"),
        text.replace(b":", b"=", 1),
        b"\x00" + text,
    ]
    return value[:HEADER] + chance.choice(found)


def _fields(chance: random.Random, value: bytes, _: int) -> bytes:
    """One field too many, given twice, or missing."""
    text = value[HEADER:]
    found = [
        text[:-1] + b',"more":1}',
        text[:-1] + b',"serial":1}',
        text.replace(b'"event_id"', b'"eventid"', 1),
        text.replace(b'"gift"', b'"gift "', 1),
    ]
    return value[:HEADER] + chance.choice(found)


DAMAGES: tuple[Damage, ...] = (
    _cut, _cut_header, _nothing, _wrong_type, _not_finite, _out_of_range, _huge, _deep, _too_deep_to_end,
    _invalid_utf8, _wrong_schema, _no_magic, _not_an_object, _more_than_json, _fields,
)  # fmt: skip


def malformed(value: bytes, kind: int, seed: int, most: int) -> bytes | None:
    """A message made of a good one that must become a dead letter.

    Args:
        value: a good message, header included.
        kind: which of `DAMAGES`.
        seed: what else is chosen.
        most: the contract's largest message in bytes.
    """
    return DAMAGES[kind](random.Random(seed), value, most)


def _with(value: bytes, field: str, raw: bytes) -> bytes:
    """The message with another raw JSON value of one field; the load's values hold no commas."""
    name = f'"{field}":'.encode()
    start = value.index(name) + len(name)
    ends = [at for at in (value.find(b",", start), value.find(b"}", start)) if at >= 0]
    return value[:start] + raw + value[min(ends) :]
