"""A JSON API as a source, against a server on loopback that does what servers do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.errors import ConfigurationError, DataLossError, DataQualityError, FastTrackError, UnavailableError
from fasttrack.ingest.sources import answers, rest
from fasttrack.ingest.sources.rest import RestReader
from fasttrack.ingest.sources.source import Position, Record
from fasttrack.usecase.sources import RestSource
from tests.unit.ingest_usecase import usecase
from tests.unit.rest_api import Api, send, serving

PATHS = {"cursor": {"records": "data.items", "cursor": "next.cursor"}, "link": {}, "list": {}}


@pytest.fixture(params=["cursor", "link", "list"])
def api(request: pytest.FixtureRequest) -> Iterator[Api]:
    with serving(Api(request.param, page=3)) as it:
        it.records = [{"id": n, "v": "a"} for n in range(10)]
        yield it


@pytest.fixture
def plain() -> Iterator[Api]:
    with serving(Api("list")) as it:
        it.records = [{"id": 1, "v": "a"}]
        yield it


def reader(api: Api, environment: dict[str, str] | None = None, **more: Any) -> RestReader:
    declared = {"kind": "rest", "stream": "placed", "url": api.url, "identity": ["id"], "poll": "1ms", **PATHS[api.how]}
    source = RestSource.model_validate({**declared, **more})
    found = RestReader(usecase(), "api", source, environment or {})
    found.open(None)
    return found


def drained(source: RestReader, seconds: float = 0.05) -> tuple[list[Record], Position]:
    """All that is new, and the position behind it, as Kafka keeps it."""
    records: list[Record] = []
    position: Position = source._position()
    while (batch := source.read(seconds)) is not None or source.waiting():
        if batch is not None:
            records += batch.records
            position = batch.position
    return records, json.loads(json.dumps(position))


def values(records: list[Record]) -> list[Any]:
    return [record.fields for record in records]


def test_every_page_is_read_and_then_what_is_new(api: Api) -> None:
    source = reader(api)
    assert values(drained(source)[0]) == api.records
    assert drained(source)[0] == []
    api.records += [{"id": n, "v": "b"} for n in range(10, 18)]
    assert values(drained(source)[0]) == api.records[10:]


def test_what_was_read_is_not_read_again_after_a_restart(api: Api) -> None:
    records, position = drained(reader(api))
    api.records.append({"id": 77, "v": "z"})
    later = reader(api)
    later.open(position)
    fresh, _ = drained(later)
    assert values(fresh) == [{"id": 77, "v": "z"}]
    identities = [record.identity for record in records + fresh]
    assert len(set(identities)) == len(identities)


def test_a_restart_in_the_middle_gives_the_rest_with_the_same_identities(api: Api) -> None:
    whole = drained(reader(api))[0]
    source = reader(api)
    first = source.read(0)
    assert first is not None
    later = reader(api)
    later.open(json.loads(json.dumps(first.position)))
    assert first.records + drained(later)[0] == whole


def test_a_record_that_changes_is_new_and_one_that_comes_back_too(plain: Api) -> None:
    source = reader(plain)
    seen = []
    for value in ("a", "a", "b", "a"):
        plain.records = [{"v": value, "id": 1}]
        seen.append(values(drained(source)[0]))
    assert seen == [[{"v": v, "id": 1}] if v else [] for v in ("a", "", "b", "a")]


def test_what_has_not_changed_is_not_sent_by_the_server(plain: Api) -> None:
    source = reader(plain)
    drained(source)
    assert [status for _, status in plain.asked][:1] == [200]
    assert {status for _, status in plain.asked[1:]} == {304}
    plain.records.append({"id": 2, "v": "a"})
    assert values(drained(source)[0]) == plain.records[1:]


def test_the_etag_of_a_first_page_says_nothing_of_the_others() -> None:
    with serving(Api("link", page=3)) as api:
        api.records = [{"id": n} for n in range(4)]
        source = reader(api)
        drained(source)
        api.records.append({"id": 4})
        assert values(drained(source)[0]) == [{"id": 4}]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("later", ["1", "date"])
def test_a_server_that_asks_to_wait_is_left_alone(plain: Api, status: int, later: str) -> None:
    moments = []

    def busy(number: int, handler: BaseHTTPRequestHandler) -> bool:
        moments.append(time.monotonic())
        if number > 1:
            return False
        send(handler, status, b"", {"Retry-After": "1" if later == "1" else formatdate(time.time() + 2, usegmt=True)})
        return True

    plain.fault = busy
    source = reader(plain)
    assert source.read(0) is None
    assert source.waiting()
    assert source.read(0.1) is None and len(moments) == 1
    batch = source.read(30)
    assert batch is not None and values(batch.records) == plain.records and not source.waiting()
    assert moments[1] - moments[0] > 0.9


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Retry-After": "0"},
        {"Retry-After": "soon"},
        # By its own clock, which is behind ours: now.
        {
            "Retry-After": formatdate(time.time() - 3600, usegmt=True),
            "Date": formatdate(time.time() - 3600, usegmt=True),
        },
    ],
)
def test_a_server_that_goes_on_refusing_is_asked_less_and_less_often(plain: Api, headers: dict[str, str]) -> None:
    moments: list[float] = []

    def busy(_: int, handler: BaseHTTPRequestHandler) -> bool:
        moments.append(time.monotonic())
        handler.send_response_only(429)
        for name, value in {**headers, "Content-Length": "0"}.items():
            handler.send_header(name, value)
        handler.end_headers()
        return True

    plain.fault = busy
    source = reader(plain)
    while len(moments) < 3:
        assert source.read(0.1) is None and source.waiting()
    assert moments[1] - moments[0] >= 0.5
    assert moments[2] - moments[1] >= 1.0
    told = source.failures()
    assert [failure.error.status for failure in told] == [429] * 3 and source.failures() == []
    assert told[0].lasts == 0 and told[2].lasts == pytest.approx(moments[2] - moments[0], abs=0.3)


@given(st.integers(0, 2000))
def test_when_to_come_back_is_told_by_the_servers_clock(seconds: int) -> None:
    ahead = time.time() - 10**6
    later = formatdate(ahead + seconds, usegmt=True)
    assert answers._retry_after(later, formatdate(ahead, usegmt=True)) == pytest.approx(seconds, abs=1)
    assert answers._retry_after(str(seconds), formatdate(ahead, usegmt=True)) == seconds


def broken(status: int, body: bytes, headers: dict[str, str] | None = None) -> Any:
    def fault(_: int, handler: BaseHTTPRequestHandler) -> bool:
        send(handler, status, body, headers)
        return True

    return fault


def cut(_: int, handler: BaseHTTPRequestHandler) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"[1, 2")
    handler.close_connection = True
    return True


def slow(_: int, handler: BaseHTTPRequestHandler) -> bool:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (broken(200, b'[{"id": 1'), UnavailableError, "is not JSON"),
        (broken(200, b"<html>"), UnavailableError, r"<html>"),
        (broken(200, b"[NaN]"), UnavailableError, "NaN is no JSON value"),
        (broken(200, b"[" * 100_000), UnavailableError, "is not JSON"),
        (broken(500, b""), UnavailableError, "status 500"),
        (broken(502, b""), UnavailableError, "status 502"),
        (broken(503, b""), UnavailableError, "status 503"),
        (cut, UnavailableError, "does not answer"),
        (slow, UnavailableError, "takes longer than"),
        (broken(401, b""), ConfigurationError, "status 401"),
        (broken(404, b""), ConfigurationError, "status 404"),
        (broken(200, b'{"error": "x"}'), ConfigurationError, "there is: error"),
        (broken(302, b"", {"Location": "/items"}), ConfigurationError, "redirects again and again"),
        (broken(200, b" " * 1001), DataQualityError, "larger than 1,000 bytes"),
    ],
)
def test_what_can_be_wrong_with_an_answer(
    plain: Api, fault: Callable[..., bool], error: type[FastTrackError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if error is DataQualityError:
        monkeypatch.setattr(answers, "MOST_BYTES", 1000)
    source = reader(plain, timeout="500ms")
    plain.fault = fault
    with pytest.raises(error, match=says) as raised:
        source.read(0)
    assert raised.value.where is not None and plain.url in raised.value.where
    if error is UnavailableError:
        plain.fault = lambda number, handler: False
        assert values(drained(source)[0]) == plain.records


def test_nobody_is_there(plain: Api) -> None:
    source = reader(plain, url="http://127.0.0.1:9/items?key=secret")
    with pytest.raises(UnavailableError, match="refused") as raised:
        source.read(0)
    assert "secret" not in str(raised.value)


def test_the_token_is_sent_and_has_to_be_there(plain: Api) -> None:
    plain.token = "t0ken"
    with pytest.raises(ConfigurationError, match="API_TOKEN is not set"):
        reader(plain, token_env="API_TOKEN")
    assert values(drained(reader(plain, {"API_TOKEN": "t0ken"}, token_env="API_TOKEN"))[0]) == plain.records


@pytest.mark.parametrize("way", ["redirect", "link"])
def test_the_token_is_sent_to_no_other_server(plain: Api, way: str) -> None:
    with serving(Api("list")) as other:
        other.records = [{"id": 2}]
        if way == "redirect":
            plain.fault = broken(307, b"", {"Location": other.url})
        else:
            plain.fault = broken(200, b'[{"id": 1}]', {"Link": f'<{other.url}>; rel="next"'})
        with pytest.raises(ConfigurationError, match="must not get the token"):
            drained(reader(plain, {"API_TOKEN": "t0ken"}, token_env="API_TOKEN"))
        assert other.headers == []
        # Without a token there is nothing to hide.
        source = reader(plain)
        found = [batch.records for batch in iter(lambda: source.read(0), None)][-1]
        assert values(found) == [{"id": 2}]


def test_pages_that_go_round_are_told_of() -> None:
    with serving(Api("cursor")) as api:
        pages = iter("abab")
        api.fault = lambda _, handler: bool(
            send(handler, 200, json.dumps({"data": {"items": []}, "next": {"cursor": next(pages)}}).encode()) or True
        )
        with pytest.raises(DataQualityError, match="circle"):
            drained(reader(api))


def test_a_cursor_that_stays_is_the_end() -> None:
    with serving(Api("cursor")) as api:
        api.fault = lambda _, handler: bool(
            send(handler, 200, json.dumps({"data": {"items": [{"id": 5}]}, "next": {"cursor": "here"}}).encode())
            or True
        )
        # The page is asked for once without and once with the cursor, and holds the same record.
        assert len(drained(reader(api))[0]) == 1


@given(grows=st.lists(st.integers(1, 12), min_size=1, max_size=6), page=st.integers(2, 5), restarts=st.booleans())
@settings(deadline=None, max_examples=5)
def test_a_cursor_that_is_a_time_gives_each_record_once(grows: list[int], page: int, restarts: bool) -> None:
    """Pages that begin with the record that the cursor was taken from, and whose last one has a cursor too."""
    with serving(Api("cursor")) as api:
        api.fault = partial(since, api, page)
        source, position, records = reader(api), None, list[Record]()
        for count in grows:
            api.records += [{"id": len(api.records) + n} for n in range(count)]
            if restarts and position is not None:
                source = reader(api)
                source.open(position)
            found, position = drained(source)
            records += found
        assert values(records) == api.records


def since(api: Api, page: int, _: int, handler: BaseHTTPRequestHandler) -> bool:
    start = int(parse_qs(urlsplit(handler.path).query).get("cursor", ["0"])[0])
    items = api.records[start : start + page]
    document = {"data": {"items": items}, "next": {"cursor": items[-1]["id"] if items else None}}
    send(handler, 200, json.dumps(document).encode())
    return True


@pytest.mark.parametrize("how", ["cursor", "link", "list"])
def test_no_content_is_an_empty_answer(how: str) -> None:
    with serving(Api(how, page=3)) as api:
        source = reader(api)
        silent = api.fault
        api.fault = broken(204, b"")
        assert drained(source)[0] == [] and not source.waiting()
        api.records, api.fault = [{"id": n} for n in range(5)], silent
        assert values(drained(source)[0]) == api.records
        # Behind a cursor it means that nothing has been added; a list without one is empty then.
        api.fault = broken(204, b"")
        assert drained(source)[0] == []
        api.records.append({"id": 5})
        api.fault = silent
        assert values(drained(source)[0]) == (api.records[5:] if how == "cursor" else api.records)


@pytest.mark.parametrize(
    ("status", "error"), [(410, DataLossError), (400, ConfigurationError), (404, ConfigurationError)]
)
def test_a_cursor_that_the_server_no_longer_knows(status: int, error: type[FastTrackError]) -> None:
    with serving(Api("cursor", page=3)) as api:
        api.records = [{"id": n} for n in range(5)]
        _, position = drained(reader(api))
        api.fault = lambda _, handler: "cursor" in handler.path and (send(handler, status, b"") or True)
        later = reader(api)
        later.open(position)
        with pytest.raises(error, match=r"the cursor '3'.*(g|G)ive the source another name") as told:
            later.read(0)
        assert str(status) in str(told.value)
        # What it says works: under another name there is no position.
        api.fault = lambda _, handler: False
        assert values(drained(reader(api))[0]) == api.records


def test_a_page_of_a_list_that_is_gone_begins_the_list_anew() -> None:
    with serving(Api("link", page=3)) as api:
        api.records = [{"id": n} for n in range(5)]
        api.fault = lambda _, handler: "cursor" in handler.path and (send(handler, 410, b"") or True)
        source = reader(api)
        first = source.read(0)
        assert first is not None
        with pytest.raises(UnavailableError, match="no longer has a page"):
            source.read(0)
        api.fault = lambda _, handler: False
        source.open(first.position)
        assert values(first.records + drained(source)[0]) == api.records


def test_a_long_list_without_a_cursor_is_refused(plain: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "MOST", 5)
    plain.records = [{"id": n} for n in range(6)]
    with pytest.raises(DataQualityError, match="more than 5 records"):
        reader(plain).read(0)
    # Twelve bytes each, twice while the list is read, in base64.
    monkeypatch.undo()
    assert rest.MOST * 12 * 2 * 4 / 3 < 900_000


def test_records_that_are_no_objects_are_raw_and_lack_of_identity_is_no_loss(plain: Api) -> None:
    plain.records = [7, "x", None, [1], {"v": 1}, {"v": 2}]
    records, _ = drained(reader(plain))
    assert [record.raw for record in records] == [b"7", b'"x"', b"null", b"[1]", None, None]
    assert len({record.identity for record in records}) == 6


def test_another_address_begins_anew(plain: Api, capfd: pytest.CaptureFixture[str]) -> None:
    position = drained(reader(plain))[1]
    moved = reader(plain, url=plain.url + "?from=2020")
    moved.open(position)
    assert values(drained(moved)[0]) == plain.records
    assert "`url` is another one" in capfd.readouterr().err
