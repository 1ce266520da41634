"""The row check and the column check are one contract: over good, bad and odd messages they never disagree."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fasttrack.ingest.columncheck import ColumnChecker
from fasttrack.ingest.contracts import contract_version, json_schema
from fasttrack.ingest.encode import header
from fasttrack.ingest.rowcheck import Rejected, RowChecker
from fasttrack.usecase.limits import portable
from tests.unit.ingest_usecase import event, message, usecase

STREAM = usecase().streams["placed"]
ROWS = RowChecker(STREAM)
COLUMNS = ColumnChecker(STREAM)
HEAD = header(1)

NUMBERS = st.sampled_from(
    ["0", "-0", "5", "5.0", "5.5", "1e1", "1E400", "99", "100", "-10.5", "-10.6", "1000", "1000.1", "9007199254740993",
     "9223372036854775807", "9223372036854775808", "1" * 400, "NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1",
     "0x1", "1_0"]
)  # fmt: skip
TEXTS = st.sampled_from(['""', '"a-1"', '"placed-1"', '"o1"', '"Paris"', '"Łódź"', '"paris"', '"123"', '"12"', '"١٢٣"',
                         '"none"', '"none\\n"', '"\\ud800"', '"\\udc00"', '"\\ud83d\\ude00"', '"\\u0000"', '"{"', '"}"',
                         '"a b"', '"' + "x" * 13 + '"', '"' + "ł" * 12 + '"', '"\x01"', '"\x7f"'])  # fmt: skip
TIMES = st.sampled_from(['"2020-01-01T10:00:00Z"', '"2020-01-01T10:00:00.1Z"', '"2020-01-01T10:00:00.1234567Z"',
                         '"2020-02-30T10:00:00Z"', '"2020-01-01 10:00:00Z"', '"2020-01-01T10:00:00+00:00"',
                         '"2020-01-01T24:00:00Z"', '"2020-01-01T10:00:60Z"', '"0000-01-01T00:00:00Z"', '"2020-01-01"',
                         '"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59.999999Z"', '"2020-01-01T10:00Z"',
                         '"2020-01-01T10:00:00z"'])  # fmt: skip
OTHERS = st.sampled_from(["null", "true", "false", "[]", "{}", '{"a":1}', "[1]", "nul", ""])
VALUES = NUMBERS | TEXTS | TIMES | OTHERS
NAMES = st.sampled_from([*STREAM.fields, "other", "", "Event_id"])


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """A good event with some fields replaced, dropped, added or given twice, and odd spacing."""
    pairs = [[name, json.dumps(value, ensure_ascii=False)] for name, value in event().items()]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(pairs) - 1))
        match draw(st.sampled_from(["replace", "replace", "drop", "add"])):
            case "replace":
                pairs[at][1] = draw(VALUES)
            case "drop" if len(pairs) > 1:
                del pairs[at]
            case _:
                pairs.insert(at, [draw(NAMES), draw(VALUES)])
    space = draw(st.sampled_from(["", " ", "\n", "\t", "\r\n", "\x0b"]))
    return ("{" + ("," + space).join(f'"{n}":{space}{v}' for n, v in pairs) + "}").encode("utf-8", "surrogatepass")


@st.composite
def messages(draw: st.DrawFn) -> bytes | None:
    """Whole messages: objects, cut, joined, damaged, framed in the wrong way."""
    text = draw(objects())
    match draw(st.sampled_from(["whole"] * 5 + ["cut", "twice", "tail", "bytes", "head", "odd"])):
        case "cut":
            text = text[: draw(st.integers(0, len(text)))]
        case "twice":
            text += draw(st.sampled_from([b"", b" ", b"\n", b",", b"null"])) + draw(objects())
        case "tail":
            text += draw(st.sampled_from([b" ", b"\n", b"\x00", b"}", b"null}", b"\x00}", b"//", b"\xef\xbb\xbf"]))
        case "bytes":
            at = draw(st.integers(0, len(text)))
            text = text[:at] + draw(st.binary(min_size=1, max_size=3)) + text[at:]
        case "head":
            heads = [None, b"", b"\x00", HEAD[:4], b"\x01" + HEAD[1:] + text, header(9) + text, HEAD, header(2) + text]
            return draw(st.sampled_from(heads))
        case "odd":
            texts = [b"{}", b"null", b"[]", b"{", b"}", b"  ", b'""', b"\xef\xbb\xbf" + text, b"x" * 3000, b"[" * 1500]
            text = draw(st.sampled_from(texts))
    return HEAD + text


def by_rows(values: list[bytes | None], keys: list[bytes | None]) -> list[Any]:
    found: list[Any] = []
    for value, key in zip(values, keys, strict=True):
        try:
            found.append(ROWS.check(value, key, {1, 2}))
        except Rejected as error:
            found.append(error.rejection)
    return found


@settings(max_examples=250, deadline=None)
@given(st.lists(st.tuples(messages(), st.sampled_from([b"o1"] * 6 + [b"o2", b"", None])), max_size=60))
@example([(HEAD + b"null", b"o1")])
@example([(message(event()) + b'null{"a":1}', b"o1"), (message(event()), b"o1")])
@example([(message(event()) + message(event())[5:], b"o1"), (HEAD + b"  ", b"o1")])
def test_row_and_column_checks_agree(batch: list[tuple[bytes | None, bytes | None]]) -> None:
    values, keys = [value for value, _ in batch], [key for _, key in batch]
    expected = by_rows(values, keys)
    checked = COLUMNS.check(values, keys, {1, 2})
    got: list[Any] = [None] * len(batch)
    for at, row in zip(checked.index.tolist(), checked.rows.to_pylist(), strict=True):
        got[at] = row
    for at, rejection in checked.rejected:
        assert got[at] is None
        got[at] = rejection
    assert got == expected
    assert np.all(np.diff(checked.index) > 0)


def test_many_messages_agree_whatever_the_bisection_does() -> None:
    good = [message(event(n)) for n in range(20_000)]
    bad = {5: b"x", 8191: b'{"pieces":"x"}', 8192: b'{"pieces":1.5}', 12_000: b'{"zzz":1}', 19_999: b"{"}
    values: list[bytes | None] = [HEAD + bad[n] if n in bad else value for n, value in enumerate(good)]
    checked = COLUMNS.check(values, [f"o{n}".encode() for n in range(20_000)], {1})
    assert sorted(at for at, _ in checked.rejected) == sorted(bad)
    assert checked.rows.column("order_id").to_pylist() == [f"o{n}" for n in range(20_000) if n not in bad]


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (None, b"o1", "empty"),
        (b"{}", b"o1", "no schema header"),
        (message(event(), 7), b"o1", "unknown schema id"),
        (message(event(code="9" * 3000)), b"o1", "too large"),
        (HEAD + b'{"event_id":"\xff"}', b"o1", "invalid UTF-8"),
        (message(event())[:60], b"o1", "truncated JSON"),
        (HEAD, b"o1", "truncated JSON"),
        (HEAD + b"hello", b"o1", "not JSON"),
        (HEAD + b"[1]", b"o1", "not an object"),
        (HEAD + b"[" * 1900, b"o1", "not JSON"),
        (HEAD + b'{"gift":true,"gift":true}', b"o1", "duplicate field"),
        (message(event(zip="x")), b"o1", "unknown field"),
        (message({k: v for k, v in event().items() if k != "gift"}), b"o1", "missing field"),
        (message(event(gift=1)), b"o1", "wrong type"),
        (message(event(gift=None)), b"o1", "wrong type"),
        (message(event(amount="1")), b"o1", "wrong type"),
        (message(event(pieces=1.5)), b"o1", "wrong type"),
        (message(event(placed_at="yesterday")), b"o1", "wrong type"),
        (message(event(placed_at="2020-02-30T10:00:00Z")), b"o1", "out of range"),
        (message(event(amount=1001)), b"o1", "out of range"),
        (message(event(city="Rome")), b"o1", "out of range"),
        (message(event(amount=float("nan"))), b"o1", "not JSON"),
        (message(event()), b"o2", "key mismatch"),
    ],
)
def test_each_fault_has_its_reason(value: bytes | None, key: bytes, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        ROWS.check(value, key, {1})
    assert caught.value.rejection.reason == reason
    assert caught.value.rejection.detail.isprintable()


def test_a_good_event_becomes_python_values() -> None:
    found = ROWS.check(message(event(pieces=3.0)), b"o1", {1})
    assert found["placed_at"] == datetime(2020, 1, 1, 10, tzinfo=UTC)
    assert (found["pieces"], type(found["pieces"])) == (3, int)
    assert found["rating"] is None


@settings(max_examples=200, deadline=None)
@given(objects(), st.sets(st.sampled_from(sorted(STREAM.fields))))
def test_some_fields_of_an_event_are_checked_like_all(text: bytes, kept: set[str]) -> None:
    try:
        found = ROWS.check(HEAD + text, b"o1", {1})
    except Rejected:
        found = None
    if found is not None:
        document = {name: value for name, value in json.loads(text).items() if name in kept}
        given = {name for name, value in document.items() if value is not None}
        assert ROWS.fields(document) == {name: found[name] for name in given}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"gift": 1}, "wrong type"), ({"amount": 1001}, "out of range"), ({"zip": 1}, "unknown field")],
)
def test_fields_that_break_the_contract_are_rejected(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        ROWS.fields(changes)
    assert caught.value.rejection.reason == reason


@settings(max_examples=200, deadline=None)
@given(objects())
def test_the_json_schema_accepts_what_the_checks_accept(text: bytes) -> None:
    try:
        found = ROWS.check(HEAD + text, b"o1", {1})
    except Rejected:
        found = None
    if found is not None:
        jsonschema.validate(json.loads(text), json_schema(STREAM), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("changes", [{"gift": 1}, {"amount": 1001}, {"city": "Rome"}, {"zip": 1}, {"placed_at": "x"}])
def test_the_json_schema_refuses_what_the_checks_refuse(changes: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(event(**changes), json_schema(STREAM), cls=jsonschema.Draft202012Validator)


def test_the_version_changes_with_the_contract() -> None:
    looser = STREAM.model_copy(update={"max_bytes": 3000})
    assert contract_version(STREAM) == contract_version(usecase().streams["placed"]) != contract_version(looser)


@pytest.mark.parametrize("pattern", [r"\d", "^a", "a$", "a.b", "(?i)a", "a++", "[[:alpha:]]", "[]a]", "[a--b]", "{,3}"])
def test_patterns_that_engines_read_differently_are_left_to_python(pattern: str) -> None:
    assert not portable(pattern)


@pytest.mark.parametrize("pattern", ["[a-z]+-[0-9A-Z-]+", "[0-9A-Z]{2}", "a|b", "x{1,3}(y|z)?", "none"])
def test_plain_patterns_are_portable(pattern: str) -> None:
    assert portable(pattern)
