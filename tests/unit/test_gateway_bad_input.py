"""Bad requests: each gets a clear problem, and none reaches a model server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api_gateway.strict_json import parse
from fasttrack.errors import InvalidRequestError
from tests.unit.gateway_harness import ENTITY, ModelServer, Running, deployment, gateway

GOOD = {"features": {"distance": 1000}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, server: ModelServer) -> Iterator[Running]:
    limit = {"requests": 100000, "per": "1m", "burst": 10000}
    document = deployment(server.url, server.url, rate_limit=limit)
    with gateway(tmp_path_factory.mktemp("gateway"), lambda: [document], max_body_bytes=20_000) as it:
        yield it


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is empty"),
        (b"   ", "the body is empty"),
        (b"{", "not JSON"),
        (b'{"entity": {"flight_id": "x"}} trailing', "not JSON"),
        (b'{"features": {"distance": NaN}}', "NaN and Infinity"),
        (b'{"features": {"distance": Infinity}}', "NaN and Infinity"),
        (b'{"features": {"distance": -Infinity}}', "NaN and Infinity"),
        (b'{"features": {"distance": 1e999}}', "NaN and Infinity"),
        (b'{"features": {"distance": 1, "distance": 2}}', "'distance' is given twice"),
        (b'{"entity": {"flight_id": "x"}, "entity": {"flight_id": "y"}}', "'entity' is given twice"),
        (b'{"features": {"a": ' + b"[" * 40 + b"]" * 40 + b"}}", "nested too deep"),
        (b"[" * 5000 + b"]" * 5000, "nested too deep"),
        (b'{"entity": {"flight_id": "\\ud800"}}', "not JSON"),
        (b'{"entity": {"flight_id": "a\\u0000b"}}', "NUL"),
        (b'{"entity": {"flight_id": "\xff"}}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"\xff\xfe{\x00}\x00", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "exactly one of entity, features and event"),
        (b'{"entity": {"flight_id": "x"}, "features": {"distance": 1}}', "exactly one of entity, features and event"),
        (b'{"entity": {"flight_id": "x"}, "explian": true}', "'explian' is not a field"),
        (b'{"entity": {"flight_id": "x"}, "explain": "tea"}', "not a method"),
        (b'{"entity": {"flight_id": "x"}, "explain": 1}', "not a method"),
        (b'{"entity": {"flight_id": "x"}, "explain": null}', "not a method"),
        (b'{"entity": "x"}', "entity is a string"),
        (b'{"entity": {}}', "'flight_id' is missing"),
        (b'{"entity": {"flight": "x"}}', "'flight' is not a key"),
        (b'{"entity": {"flight_id": 7}}', "is a number, not a string"),
        (b'{"entity": {"flight_id": null}}', "is null, not a string"),
        (b'{"entity": {"flight_id": ""}}', "1 to 256"),
        (b'{"entity": {"flight_id": "a\\nb"}}', "printable"),
        (b'{"entity": {"flight_id": "' + b"x" * 300 + b'"}}', "1 to 256"),
        (b'{"features": []}', "features is a list"),
        (b'{"event": {"origin": "JFK"}, "entity": {"flight_id": "x"}}', "exactly one of entity, features and event"),
        (b'{"event": []}', "event is a list"),
        (b'{"event": {}}', "no field with a value"),
        (b'{"event": {"origin": null}}', "no field with a value"),
        (b'{"event": {"orgin": "JFK"}}', "no field 'orgin'"),
        (b'{"event": {"origin": ["JFK"]}}', "origin is ['JFK'], not a string"),
        (b'{"event": {"origin": "LAX"}}', "origin is 'LAX', allowed are EWR, JFK, LGA (out of range)"),
        (b'{"event": {"distance": true}}', "distance is True, not an integer (wrong type)"),
        (b'{"event": {"origin": "JFK", "scheduled_departure": "2013-02-31T10:00:00Z"}}', "day is out of range"),
        (b'{"features": {}}', "missing features: distance"),
        (b'{"features": {"origin": "JFK"}}', "missing features: distance"),
        (b'{"features": {"distance": null}}', "missing features: distance"),
        (b'{"features": {"distnace": 1000}}', "no feature 'distnace'"),
        (b'{"features": {"distance": "far"}}', "distance is a string, not a number"),
        (b'{"features": {"distance": true}}', "distance is a boolean, not a number"),
        (b'{"features": {"distance": [1]}}', "distance is a list, not a number"),
        (b'{"features": {"distance": 1, "origin": 1.5}}', "origin is a number, not a string"),
        (b'{"features": {"distance": 1, "origin": "' + b"x" * 300 + b'"}}', "origin is longer"),
        (b'{"features": {"distance": 1, "recent_flights": 1}}', "recent_flights is a number"),
        (b'{"features": {"distance": 1, "recent_flights": [[1, 2]]}}', "not a list of 4 numbers"),
        (b'{"features": {"distance": 1, "recent_flights": [[1, 2, 3, "x"]]}}', "recent_flights is a string"),
        (
            b'{"features": {"distance": 1, "recent_flights": ' + json.dumps([[1, 2, 3, 4]] * 9).encode() + b"}}",
            "9 steps",
        ),
    ],
)
def test_bad_bodies(running: Running, server: ModelServer, body: bytes, said: str) -> None:
    before = len(server.requests)
    answer = running.predict(body)
    assert answer.status == 400
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert said in problem["detail"]
    assert problem["title"] == "Invalid request"
    assert problem["where"].startswith("body")
    assert problem["status"] == 400
    assert len(server.requests) == before


def test_suggestions(running: Running) -> None:
    assert running.predict({"features": {"distnace": 1}}).json()["fix"] == "Did you mean 'distance'?"
    assert running.predict({"entity": {"fligth_id": "x"}}).json()["fix"] == "Did you mean 'flight_id'?"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/xml"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "application/json; charset=utf-16"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "application/json; charset=UTF-8"}, 200),
        ({"Content-Type": "Application/JSON"}, 200),
    ],
)
def test_content_types(running: Running, headers: dict[str, str], status: int) -> None:
    assert running.predict(headers=headers).status == status


def test_large_bodies_are_refused_with_and_without_a_length(running: Running) -> None:
    body = json.dumps({"entity": {"flight_id": "x" * 30_000}}).encode()
    assert running.predict(body).status == 413
    token = running.issuer.token("flights-predictor")
    head = (
        f"POST /v1/usecases/flights/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    ).encode()
    chunked = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert b" 413 " in running.raw(chunked).split(b"\r\n")[0]


def test_the_limit_counts_nonsense_too(tmp_path_factory: pytest.TempPathFactory, server: ModelServer) -> None:
    limit = {"requests": 1, "per": "1h", "burst": 3}
    document = deployment(server.url, server.url, rate_limit=limit)
    with gateway(tmp_path_factory.mktemp("gateway"), lambda: [document]) as running:
        statuses = [running.predict(b"{").status for _ in range(5)]
        assert statuses == [400, 400, 400, 429, 429]
        refused = running.predict()
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) > 3000
        assert refused.headers["ratelimit"].startswith('"usecase";r=0;t=')
        assert refused.headers["ratelimit-policy"] == '"usecase";q=1;w=3600'
        # Another subject has a limit of its own.
        assert running.predict(token=running.issuer.token("flights-predictor", sub="bob")).status == 200


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_whatever_comes_is_answered_and_never_with_500(running: Running, value: Any) -> None:
    try:
        body = json.dumps(value).encode()
    except (UnicodeEncodeError, ValueError):
        return
    assert running.predict(body).status in (400, 413)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_strict_json_reads_what_json_writes(value: Any) -> None:
    text = json.dumps(value)
    if "\\u0000" in text or "\\ud" in text.lower():
        return
    assert parse(text.encode(), depth=50) == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_strict_json_never_fails_otherwise(content: bytes) -> None:
    try:
        parse(content, depth=5)
    except InvalidRequestError as error:
        assert error.where


def test_a_good_body_is_good(running: Running) -> None:
    assert running.predict(GOOD).status == 200
    assert running.predict(ENTITY).status == 200


def test_knocking_at_closed_doors_is_limited(
    tmp_path_factory: pytest.TempPathFactory, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    from api_gateway import call
    from fasttrack.usecase.serving import RateLimit

    monkeypatch.setattr(call, "GENERAL_LIMIT", RateLimit(requests=1, per=timedelta(hours=1), burst=3))
    document = deployment(server.url, server.url)
    with gateway(tmp_path_factory.mktemp("gateway"), lambda: [document]) as running:
        token = running.issuer.token("stranger")
        statuses = [running.predict(token=token).status for _ in range(5)]
        assert statuses == [403, 403, 403, 429, 429]
