"""Values of PostgreSQL that Python can't hold: the row is sent as it is, and nothing stops."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.ingest.checkers import row_checker
from fasttrack.ingest.rowcheck import Rejected
from fasttrack.ingest.sources.message import Mapper
from fasttrack.ingest.sources.postgres_link import TableColumn
from fasttrack.ingest.sources.postgres_values import Unreadable, converter
from fasttrack.ingest.sources.rows import Rows, decoded, needed
from fasttrack.ingest.sources.source import Record
from fasttrack.usecase.sources import PostgresSource
from tests.unit.ingest_usecase import event, usecase

TEXT, JSONB, INTEGER = 25, 3802, 23
STREAM = usecase().streams["placed"]
LONG = "9" * 5_000


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def source(**fields: str) -> PostgresSource:
    return PostgresSource.model_validate(
        {"kind": "postgres", "stream": "placed", "connection_env": "URL", "table": "orders", "cursor": "at",
         "keys": ["id"], "fields": fields}
    )  # fmt: skip


def columns(**types: int) -> list[TableColumn]:
    return [TableColumn(name, "", True, 0.0, False, converter(oid)) for name, oid in types.items()]


def record(declared: PostgresSource, texts: list[str | None], **types: int) -> Record:
    rows = Rows(needed(declared, STREAM), "source shop, table orders")
    return rows.record("7", columns(**types), texts)


def sent(declared: PostgresSource, given: Record) -> tuple[bytes, bool]:
    mapper = Mapper("shop", declared, STREAM, 1)
    value = mapper.message(given).value
    assert value is not None
    return value, mapper.unparsable(given)


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(documents)
def test_documents_are_read(document: Any) -> None:
    assert converter(JSONB)(json.dumps(document)) == document
    assert converter(JSONB)(json.dumps(document, ensure_ascii=False)) == document


@pytest.mark.parametrize(
    ("text", "why"),
    [(LONG, "4300 digits"), (f'{{"a": [{LONG}]}}', "4300 digits"), (nested(501), "deep"), (nested(100_000), "deep")],
)
def test_a_document_that_cannot_be_read_stays_text_and_says_why(text: str, why: str) -> None:
    found = converter(JSONB)(text)
    assert isinstance(found, Unreadable) and found == text and why in found.why
    of_many = converter(3807, JSONB)("{" + json.dumps(text) + ",1}")
    assert isinstance(of_many, Unreadable) and why in of_many.why


def test_brackets_in_texts_and_in_a_row_are_not_depth() -> None:
    text = json.dumps({"a": nested(3_000), "b": [[]] * 3_000, "c": '\\"[' * 3_000})
    assert converter(JSONB)(text) == json.loads(text)


@given(st.integers(1, 500))
def test_what_is_read_can_be_sent(depth: int) -> None:
    declared = source(amount="document")
    value, unparsable = sent(declared, record(declared, [nested(depth)], document=JSONB))
    assert not unparsable and nested(depth) in value.decode().replace(" ", "")


@pytest.mark.parametrize("path", ["document", "document.total"])
def test_a_row_is_sent_whole_if_its_event_needs_what_cannot_be_read(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Else a field that may be null would be, with nobody told."""
    declared = source(rating=path)
    found = record(declared, ["7", LONG, None, "x"], id=INTEGER, document=JSONB, note=TEXT, city=TEXT)
    value, unparsable = sent(declared, found)
    assert unparsable
    row = json.loads(value)
    assert "4300 digits" in row.pop("_unreadable")["document"]
    assert row == {"id": "7", "document": LONG, "note": None, "city": "x"}
    assert "source shop, table orders, row 7: document can't be read" in capfd.readouterr().err


def test_what_the_event_does_not_need_may_be_anything() -> None:
    declared = source()
    found = record(declared, ["7", nested(2_000), "2.5"], id=INTEGER, document=JSONB, amount=TEXT)
    value, unparsable = sent(declared, found)
    assert not unparsable and b"2.5" in value and found.fields and found.fields["id"] == 7


@given(st.binary(max_size=12).filter(lambda data: b"\0" not in data))
def test_bytes_without_an_encoding_are_text_from_which_they_can_be_had_again(data: bytes) -> None:
    (text, none) = decoded([data.decode("latin-1"), None])
    assert none is None and text is not None and text.encode("utf-8", "surrogateescape") == data
    message = Mapper("shop", source(), STREAM, 1).message(Record("7", event() | {"order_id": text}))
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        with pytest.raises(Rejected):
            row_checker(STREAM).check(message.value, message.key, [1])
    else:
        assert row_checker(STREAM).check(message.value, message.key, [1])["order_id"] == data.decode()
