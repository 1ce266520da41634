"""The body of a webhook as messages: mapped as other sources' records are, each told apart."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api_gateway.events import mapped, records
from fasttrack.errors import InvalidRequestError
from fasttrack.ingest.rowcheck import Rejected, RowChecker
from fasttrack.ingest.sources.message import Mapper, Message
from fasttrack.usecase.sources import WebhookSource
from tests.unit.ingest_usecase import event, usecase

STREAM = usecase().streams["placed"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def mapper(**more: Any) -> Mapper:
    declared = {"kind": "webhook", "stream": "placed", "secret_env": "HOOK", **more}
    return Mapper("hook", WebhookSource.model_validate(declared), STREAM, 7)


def messages(body: Any, **more: Any) -> list[Message]:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return mapped(mapper(**more), records("msg_1", text, 100))


def document(message: Message) -> Any:
    assert message.value[:5] == b"\0\0\0\0\7"
    return json.loads(message.value[5:])


def test_one_object_is_one_event() -> None:
    (found,) = messages(event())
    assert found.source == b"hook:msg_1"
    assert (found.key, found.partition) == (b"o1", zlib.crc32(b"o1") % STREAM.partitions)
    assert RowChecker(STREAM).check(found.value, found.key, {7})["event_id"] == "placed-1"


def test_a_list_is_a_batch_in_its_order() -> None:
    found = messages([event(n) for n in range(3)])
    assert [m.source for m in found] == [b"hook:msg_1.0", b"hook:msg_1.1", b"hook:msg_1.2"]
    assert [document(m)["event_id"] for m in found] == ["placed-0", "placed-1", "placed-2"]
    assert messages([]) == []


def test_fields_and_constants_are_mapped_as_of_other_sources() -> None:
    body = {
        "type": "order.placed",
        "data": {"id": "placed-9", "order": {"number": "o9"}, "at": "2020-01-01T12:00+02:00"},
    }
    paths = {"event_id": "data.id", "order_id": "data.order.number", "placed_at": "data.at"}
    (found,) = messages(body, fields=paths, constants={"amount": 1.5, "pieces": 2, "gift": False})
    assert document(found) == {
        "event_id": "placed-9", "order_id": "o9", "placed_at": "2020-01-01T10:00:00Z", "amount": 1.5, "pieces": 2,
        "gift": False,
    }  # fmt: skip
    assert found.key == b"o9"


@pytest.mark.parametrize(
    "body",
    [{}, {"order_id": None}, event(pieces="many"), event(serial=2**80), event(city="Atlantis"), event(city="\ud800"),
     event(placed_at="yesterday"), [17], [None], ["x\0y"]],
)  # fmt: skip
def test_what_does_not_fit_is_sent_all_the_same_and_refused_by_the_drain(body: Any) -> None:
    (found,) = messages(body)
    with pytest.raises(Rejected):
        RowChecker(STREAM).check(found.value, found.key, {7})


def test_numbers_beyond_64_bits_are_kept_in_full() -> None:
    (found,) = messages(event(serial=2**80 + 1))
    assert str(2**80 + 1).encode() in found.value


@pytest.mark.parametrize(
    ("body", "told"),
    [(b"", "not JSON"), (b"{", "not JSON"), (b"<html>", "not JSON"), (b'{"a": NaN}', "NaN"),
     (b"[Infinity]", "Infinity"),
     (b'{"a": 1, "a": 2}', "given twice"), (b'\xff{"a": 1}', "not UTF-8"), ('{"a": 1}'.encode("utf-16"), "UTF-8"),
     (b"\xef\xbb\xbf{}", "JSON"), (b"17", "neither"), (b'"x"', "neither"), (b"null", "neither"),
     (b"[" * 100_000 + b"]" * 100_000, "too deep"), (b"[" + b"9" * 5000 + b"]", "strict")],
)  # fmt: skip
def test_what_is_not_json_is_refused(body: bytes, told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told) as caught:
        messages(body)
    assert caught.value.status == 400


def test_a_batch_has_a_limit() -> None:
    assert len(messages([{}] * 100)) == 100
    with pytest.raises(InvalidRequestError, match="more than 100 events") as caught:
        messages([{}] * 101)
    assert caught.value.status == 413


@given(st.lists(JSON, max_size=8))
def test_every_item_becomes_one_message_of_its_own(items: list[Any]) -> None:
    found = messages(items)
    assert len({m.source for m in found}) == len(found) == len(items)
    for item, message in zip(items, found, strict=True):
        if not isinstance(item, dict):
            assert json.loads(message.value) == item
