"""The predict route from end to end, with a model server of the test's own."""

from __future__ import annotations

import gc
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from fasttrack.errors import UnavailableError
from fasttrack.registry.records import Deployment
from tests.unit.gateway_harness import DIGEST, ENTITY, ModelServer, Running, deployment, gateway, model_server, until


@pytest.fixture
def transformer() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def explainer() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def running(tmp_path: Path, transformer: ModelServer, explainer: ModelServer) -> Iterator[Running]:
    with gateway(tmp_path, lambda: [deployment(transformer.url, explainer.url)]) as it:
        yield it


def test_a_prediction_has_everything(running: Running, transformer: ModelServer) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    answer = running.predict(headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert answer.status == 200
    assert answer.json() == {
        "usecase": "flights",
        "prediction": {
            "class": "late",
            "probability": 0.75,
            "value": 21.5,
            "unit": "minutes",
            "interval": {"lower": -3.0, "upper": 60.0, "coverage": 0.9},
        },
        "explanation": None,
        "model": {"version": 3, "digest": DIGEST},
        "as_of": "2013-12-01T00:00:00Z",
        "warnings": [],
        "cached": False,
        "trace_id": trace,
    }
    assert answer.headers["x-trace-id"] == trace
    path, headers, body = transformer.requests[0]
    assert path == "/v2/models/flights/infer"
    assert headers["traceparent"].startswith(f"00-{trace}-")
    assert "b7ad6b7169203331" not in headers["traceparent"]
    assert 0 < int(headers["x-request-deadline-ms"]) <= 5000
    assert "authorization" not in headers
    tensor = {"name": "flight_id", "datatype": "BYTES", "shape": [1], "data": [ENTITY["entity"]["flight_id"]]}
    assert json.loads(body) == {"inputs": [tensor]}


def test_raw_features_become_tensors_and_odd_ones_are_flagged(running: Running, transformer: ModelServer) -> None:
    steps = [[1.0, None, 90, 2.5], [3, 4, 80, 1.0]]
    features = {"distance": 9000, "origin": "XXX", "weekday": 3, "seats": None, "recent_flights": steps}
    answer = running.predict({"features": features})
    assert answer.status == 200
    assert [(w["code"], w["feature"]) for w in answer.json()["warnings"]] == [
        ("out_of_range", "distance"),
        ("unknown_category", "origin"),
    ]
    sent = {tensor["name"]: tensor for tensor in json.loads(transformer.requests[0][2])["inputs"]}
    assert sent["distance"] == {"name": "distance", "datatype": "FP64", "shape": [1], "data": [9000.0]}
    assert sent["weekday"] == {"name": "weekday", "datatype": "BYTES", "shape": [1], "data": ["3"]}
    assert sent["recent_flights"]["shape"] == [1, 2, 4]
    assert "seats" not in sent


def test_what_is_unlike_the_training_rows_is_told(running: Running, transformer: ModelServer) -> None:
    transformer.parameters = {"out_of_distribution": "0"}
    assert [warning["code"] for warning in running.predict().json()["warnings"]] == ["out_of_distribution"]


def test_an_event_is_passed_on_as_it_is(running: Running, transformer: ModelServer, explainer: ModelServer) -> None:
    event = {"flight_id": "x", "origin": "JFK", "distance": 2475, "scheduled_departure": "2013-12-01T12:00:00Z"}
    answer = running.predict({"event": {**event, "seats": None}, "explain": True})
    assert answer.status == 200
    assert answer.json()["as_of"] == "2013-12-01T00:00:00Z"
    (tensor,) = json.loads(transformer.requests[0][2])["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("event", "BYTES", [1])
    assert json.loads(tensor["data"][0]) == event
    assert json.loads(explainer.requests[0][2])["instances"] == [{"event": event}]
    until(lambda: {"event": event} in [getattr(row, "entity", None) for row in running.sink.rows.values()])


def test_out_of_range_can_be_refused(tmp_path: Path, transformer: ModelServer) -> None:
    from api_gateway.deployments import compile_deployment
    from fasttrack.errors import InvalidRequestError

    served = compile_deployment(deployment(transformer.url, transformer.url), refuse_out_of_range=True)
    with pytest.raises(InvalidRequestError, match="outside 17"):
        served.validator.question({"features": {"distance": 1}}, ())


@pytest.mark.parametrize("explain", [True, "shap", "lime"])
def test_an_explanation_comes_along(running: Running, explainer: ModelServer, explain: object) -> None:
    answer = running.predict({**ENTITY, "explain": explain})
    assert len(answer.json()["explanation"]["features"]) == 5
    assert answer.json()["explanation"]["base_value"] == 0.2
    sent = json.loads(explainer.requests[0][2])
    assert sent == {"instances": [ENTITY["entity"]], "method": "lime" if explain == "lime" else "shap", "top": 5}


@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 503}, {"body": b"nonsense"}, {"body": b'{"explanations":[]}'}]
)
def test_without_explainer_the_prediction_still_comes(
    running: Running, explainer: ModelServer, fault: dict[str, object]
) -> None:
    for name, value in fault.items():
        setattr(explainer, name, value)
    answer = running.predict({**ENTITY, "explain": True})
    assert answer.status == 200
    assert answer.json()["prediction"]["probability"] == 0.75
    assert answer.json()["explanation"] is None
    assert answer.json()["warnings"][0]["code"] == "explanation_unavailable"


def test_a_late_or_absent_explainer_does_not_hold_the_prediction_up(tmp_path: Path, transformer: ModelServer) -> None:
    level = {"latency_p99": "250ms", "availability": 0.999, "deadline": "1s"}
    with model_server(delay=3.0) as slow:
        dead = deployment(transformer.url, "http://127.0.0.1:1", name="dead")
        with gateway(tmp_path, lambda: [deployment(transformer.url, slow.url, service_level=level), dead]) as running:
            for name in ("flights", "dead"):
                token = running.issuer.token("flights-predictor")
                answer = running.ask("POST", f"/v1/usecases/{name}/predict", {**ENTITY, "explain": True}, token=token)
                assert answer.status == 200
                assert answer.json()["explanation"] is None
                assert [w["code"] for w in answer.json()["warnings"]] == ["explanation_unavailable"]


def test_explain_route(running: Running) -> None:
    token = running.issuer.token("flights-predictor")
    answer = running.ask("POST", "/v1/usecases/flights/explain", {**ENTITY, "method": "lime"}, token=token)
    assert answer.status == 200
    assert len(answer.json()["explanation"]["features"]) == 5
    refused = running.ask("POST", "/v1/usecases/flights/explain", {**ENTITY, "method": "tea"}, token=token)
    assert refused.status == 400
    assert "shap, lime" in refused.json()["fix"]


def test_a_dead_model_server_is_a_problem_with_retry_after(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:1"
    with gateway(tmp_path, lambda: [deployment(nowhere, nowhere)], breaker_failures=3, breaker_seconds=60.0) as running:
        for _ in range(5):
            answer = running.predict()
            assert answer.status == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1
            assert set(answer.json()) >= {"type", "title", "status", "detail", "instance", "trace_id"}
            assert "127.0.0.1" not in answer.body.decode()
        metrics = running.ask("GET", "/metrics").body.decode()
        # Three calls failed; then the breaker answered in the server's place.
        assert 'upstream_requests_total{part="transformer",result="unreachable"} 3.0' in metrics
        assert 'upstream_requests_total{part="transformer",result="refused"} 2.0' in metrics


def test_without_any_model_server_an_explained_prediction_is_a_problem_too(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with gateway(tmp_path, lambda: [deployment("http://127.0.0.1:1", "http://127.0.0.1:1")]) as running:
        assert running.predict({**ENTITY, "explain": True}).status == 503
    gc.collect()
    assert "never retrieved" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b'{"error":"there is no such flight."}', 404),
        (400, b'{"error":"bad tensor"}', 400),
        (422, b"", 400),
        (500, b'{"error":"secret stack trace"}', 503),
        (503, b'{"error":"predictor at 10.0.0.7 is down"}', 503),
        (504, b"", 504),
        (200, b'{"outputs":[]}', 502),
        (200, b"nonsense", 502),
    ],
)
def test_what_a_model_server_says_is_translated(
    running: Running, transformer: ModelServer, status: int, body: bytes, expected: int
) -> None:
    transformer.status, transformer.body = status, body
    answer = running.predict()
    assert answer.status == expected
    assert "secret" not in answer.body.decode()
    assert "10.0.0.7" not in answer.body.decode()


def test_a_late_model_server_is_504_and_the_caller_may_be_stricter(running: Running, transformer: ModelServer) -> None:
    transformer.delay = 2.0
    answer = running.predict(headers={"X-Request-Deadline-Ms": "150"})
    assert answer.status == 504
    assert answer.json()["title"] == "Deadline exceeded"
    assert int(transformer.requests[0][1]["x-request-deadline-ms"]) <= 150


def test_callers_in_a_hurry_do_not_shut_the_others_out(running: Running, transformer: ModelServer) -> None:
    transformer.delay = 0.2
    for _ in range(10):
        assert running.predict(headers={"X-Request-Deadline-Ms": "20"}).status == 504
    assert running.predict().status == 200


def test_servers_that_never_answer_are_given_up_and_then_left_alone(tmp_path: Path) -> None:
    level = {"latency_p99": "100ms", "availability": 0.999, "deadline": "200ms"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with gateway(tmp_path, lambda: [deployment(url, url, service_level=level)]) as running:
            answers = [running.predict() for _ in range(6)]
    assert [answer.status for answer in answers] == [504] * 5 + [503]
    assert answers[0].json()["type"] == "urn:fasttrack:problem:deadline-exceeded"
    assert "did not answer in time" in answers[0].json()["detail"]
    assert answers[0].headers["retry-after"] == "1"


def test_rows_tell_what_was_answered_and_to_whom(running: Running) -> None:
    running.predict({**ENTITY, "explain": True})
    running.predict({"features": {}})
    running.ask("POST", "/v1/usecases/flights/predict", ENTITY, token=running.issuer.token("stranger"))
    until(lambda: len(running.sink.rows) >= 4)
    good, bad, stranger = running.sink.audit()
    assert (good.status, good.subject, good.tenant, good.role) == (200, "alice", "acme", "flights-predictor")
    assert good.response is not None and good.response["prediction"]["probability"] == 0.75
    assert (good.model_version, good.digest, good.usecase) == (3, DIGEST, "flights")
    assert (bad.status, bad.response) == (400, None)
    assert (stranger.status, stranger.usecase, stranger.role) == (403, "flights", None)
    (prediction,) = (row for row in running.sink.rows.values() if not hasattr(row, "status"))
    assert prediction.entity == ENTITY["entity"]
    assert prediction.trace_id == good.trace_id
    assert prediction.explanation is not None


def test_many_who_ask_for_what_is_not_there_make_few_reads(tmp_path: Path, transformer: ModelServer) -> None:
    reads: list[float] = []

    def read() -> list[Deployment]:
        reads.append(time.monotonic())
        return [deployment(transformer.url, transformer.url)]

    with gateway(tmp_path, read, poll_seconds=3600.0) as running, ThreadPoolExecutor(20) as callers:
        # Of the start, and the poll's first.
        until(lambda: len(reads) == 2)
        token = running.issuer.token("flights-predictor")
        said = callers.map(lambda n: running.ask("GET", f"/v1/usecases/unknown-{n}", token=token).status, range(50))
        assert set(said) == {404}
    assert len(reads) > 2
    assert all(later - earlier >= 0.49 for earlier, later in pairwise(reads[1:]))


def test_a_new_use_case_is_found_at_once_and_the_last_state_outlives_the_registry(
    tmp_path: Path, transformer: ModelServer
) -> None:
    deployed: list[Deployment] = []
    away = False

    def read() -> list[Deployment]:
        if away:
            raise UnavailableError("the registry is away in this test.")
        return list(deployed)

    with gateway(tmp_path, read, poll_seconds=3600.0) as running:
        token = running.issuer.token("flights-predictor")
        assert running.predict().status == 403
        deployed.append(deployment(transformer.url, transformer.url))
        # Right after a read that did not have it yet.
        assert running.predict(token=token).status == 200
        away = True
        assert running.ask("GET", "/v1/usecases/unknown", token=token).status == 404
        assert running.predict().status == 200
