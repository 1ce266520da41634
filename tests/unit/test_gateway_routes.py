"""Roles by route, the OpenAPI document, the open routes, and what HTTP itself asks for."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api_gateway.edge import GuardedRoute
from fasttrack.errors import ConfigurationError
from tests.faults.forged import mutated
from tests.unit.gateway_harness import ENTITY, ModelServer, Running, deployment, gateway

PUBLIC = {"/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"}
SIGNED = {"/v1/usecases/{name}/webhooks/{source}"}
ROUTES: dict[str, tuple[str, str, Any]] = {
    "predict": ("POST", "/v1/usecases/flights/predict", ENTITY),
    "explain": ("POST", "/v1/usecases/flights/explain", ENTITY),
    "infer": ("POST", "/v2/models/flights/infer", {"inputs": []}),
    "metadata": ("GET", "/v1/usecases/flights", None),
    "metadata v2": ("GET", "/v2/models/flights", None),
    "metadata ready": ("GET", "/v2/models/flights/ready", None),
    "metadata list": ("GET", "/v1/usecases", None),
    "metadata server": ("GET", "/v2", None),
    "metadata rollout": ("GET", "/v1/usecases/flights/rollout", None),
    "admin start": ("POST", "/v1/usecases/flights/rollout", {"version": 2, "why": "test"}),
    "admin promote": ("POST", "/v1/usecases/flights/rollout/promote", {"why": "test"}),
    "admin abort": ("POST", "/v1/usecases/flights/rollout/abort", {"why": "test"}),
}
ROLES = {
    "flights-predictor": {"predict", "explain", "metadata"},
    "flights-integrator": {"predict", "infer", "metadata"},
    "flights-admin": {"predict", "explain", "infer", "metadata", "admin"},
    "unknown-role": set(),
    "": set(),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, server: ModelServer) -> Iterator[Running]:
    limit = {"requests": 100000, "per": "1m", "burst": 10000}
    document = deployment(server.url, server.url, rate_limit=limit)
    other = deployment(server.url, server.url, name="other", rate_limit=limit)
    other.usecase_document["roles"] = {
        "others": {"may": ["predict", "explain", "infer", "metadata", "admin"], "tenants": ["acme", "zeta"]},
        "acme-only": {"may": ["predict", "metadata"], "tenants": ["acme"]},
    }
    with gateway(tmp_path_factory.mktemp("gateway"), lambda: [document, other]) as it:
        yield it


@pytest.mark.parametrize(("role", "route"), list(itertools.product(ROLES, ROUTES)))
def test_role_by_route(running: Running, role: str, route: str) -> None:
    method, path, body = ROUTES[route]
    answer = running.ask(method, path, body, token=running.issuer.token(*[role] if role else []))
    # Rollouts are in a database that this test does not have: whoever may learns that.
    good = 503 if "rollout" in path else 200
    expected = good if route.split()[0] in ROLES[role] else 403
    assert answer.status == expected, answer.body
    if expected == 403:
        assert answer.headers["content-type"] == "application/problem+json"


#: Of the use case `other`: by role what it grants, and to which tenants.
ELSEWHERE: dict[str, tuple[set[str], set[str]]] = {
    "others": ({"predict", "explain", "infer", "metadata", "admin"}, {"acme", "zeta"}),
    "acme-only": ({"predict", "metadata"}, {"acme"}),
    "flights-admin": (set(), set()),
}


@pytest.mark.parametrize(("role", "tenant"), list(itertools.product(ELSEWHERE, ["acme", "zeta", "", "Acme"])))
def test_role_by_tenant_by_route(running: Running, role: str, tenant: str) -> None:
    may, tenants = ELSEWHERE[role]
    token = running.issuer.token(role, tenant=tenant or None)
    answers = {}
    for route, (method, path, body) in ROUTES.items():
        if "flights" in path:
            answers[route] = running.ask(method, path.replace("flights", "other"), body, token=token).status
    granted = may if tenant in tenants else set()
    # Whoever may do nothing at all is not told that there is such a use case, unless they know of none.
    denied = 403 if granted or role != "flights-admin" else 404
    for route, status in answers.items():
        good = 503 if "rollout" in ROUTES[route][1] else 200
        assert status == (good if route.split()[0] in granted else denied), (route, status)


def test_forged_tokens_open_no_route(running: Running) -> None:
    good = [running.issuer.token(role, sub=role or "nobody") for role in ROLES]
    routes = itertools.cycle(ROUTES.values())
    for token, (method, path, body) in zip(mutated(good, 600, seed=7), routes, strict=False):
        if "\x00" in token or not token.isascii() or token != token.strip():
            continue  # what the client itself refuses to send, or HTTP takes away
        assert running.ask(method, path, body, token=token).status == 401, token


@pytest.mark.parametrize("route", ROUTES)
def test_nobody_gets_in_without_a_token(running: Running, route: str) -> None:
    method, path, body = ROUTES[route]
    for token in (None, "x", running.issuer.token("flights-admin", exp=1)):
        answer = running.ask(method, path, body, token=token)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "eyJ" not in answer.body.decode()


def test_every_route_declares_its_action(running: Running) -> None:
    routes = list(running.app.routes)
    assert len(routes) >= len(PUBLIC) + len(ROUTES)
    for route in routes:
        assert isinstance(route, GuardedRoute), route
        assert (route.action is None) == (route.path in PUBLIC | SIGNED), route.path
        assert route.signed == (route.path in SIGNED), route.path
    # The matrix above asks every one of them that needs an action.
    asked = {re.sub("flights", "{name}", path) for _, path, _ in ROUTES.values()}
    assert {route.path for route in routes if isinstance(route, GuardedRoute)} == asked | PUBLIC | SIGNED


def test_a_route_without_an_action_can_not_be_made(running: Running) -> None:
    async def forgotten(name: str) -> None:
        """A route whose author forgot the roles."""

    with pytest.raises(ConfigurationError, match="declares no action"):
        running.app.add_api_route("/v1/forgotten/{name}", forgotten)


def test_openapi_says_who_may_and_what_goes_wrong(running: Running) -> None:
    document = running.ask("GET", "/openapi.json").json()
    scheme = document["components"]["securitySchemes"]["bearer"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, methods in document["paths"].items():
        for operation in methods.values():
            needed = [{"signature": []}] if path in SIGNED else None if path in PUBLIC else [{"bearer": []}]
            assert operation.get("security") == needed, path
            assert operation["summary"]
            if path not in PUBLIC:
                assert {"401", "429"} <= operation["responses"].keys()
                assert ("403" in operation["responses"]) == (path not in SIGNED)
                assert "422" not in operation["responses"]
    predict = document["paths"]["/v1/usecases/{name}/predict"]["post"]
    assert predict["parameters"][0]["name"] == "name"
    body = predict["requestBody"]["content"]["application/json"]["schema"]
    assert body["examples"] and "explain" in body["properties"]
    assert "PredictResponse" in str(predict["responses"]["200"])
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references <= document["components"]["schemas"].keys()


def test_the_documentation_page_needs_no_other_host(running: Running) -> None:
    answer = running.ask("GET", "/docs")
    page = answer.body.decode()
    assert answer.headers["content-type"].startswith("text/html")
    assert "http://" not in page and "https://" not in page
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy


def test_a_token_sees_its_own_use_cases_only(running: Running) -> None:
    token = running.issuer.token("flights-predictor")
    listed = running.ask("GET", "/v1/usecases", token=token).json()["usecases"]
    assert [item["name"] for item in listed] == ["flights"]
    assert listed[0]["may"] == ["explain", "metadata", "predict"]
    hidden, absent = (running.ask("GET", f"/v1/usecases/{name}", token=token) for name in ("other", "nowhere"))
    assert hidden.status == absent.status == 404
    assert hidden.json()["detail"] == absent.json()["detail"].replace("nowhere", "other")
    assert hidden.json()["fix"] == absent.json()["fix"]
    assert "flights" in running.ask("GET", "/v1/usecases/fligths", token=token).json()["fix"]


def test_metadata_tells_what_is_needed_to_ask(running: Running) -> None:
    answer = running.ask("GET", "/v1/usecases/flights", token=running.issuer.token("flights-predictor")).json()
    assert answer["entity"] == {"name": "flight", "keys": ["flight_id"]}
    assert "distance" in {feature["name"] for feature in answer["features"]}
    assert answer["roles"]["flights-predictor"] == ["predict", "explain", "metadata"]
    assert answer["prediction"]["classes"] == ["late", "not late"]


def test_an_explanation_needs_the_action_explain(running: Running) -> None:
    token = running.issuer.token("flights-integrator")
    assert running.predict({**ENTITY, "explain": True}, token=token).status == 403
    assert running.predict(ENTITY, token=token).status == 200


def test_v2_bodies_pass_untouched(running: Running, server: ModelServer) -> None:
    head = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}'
    body = head + b"\x00\xff\x00\x01"
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    token = running.issuer.token("flights-integrator")
    answer = running.ask("POST", "/v2/models/flights/infer", body, token=token, headers=headers)
    assert answer.status == 200
    path, sent, received = server.requests[-1]
    assert (path, received) == ("/v2/models/flights/infer", body)
    assert sent["inference-header-content-length"] == str(len(head))
    assert "authorization" not in sent
    assert running.ask("GET", "/v2/models/flights", token=token).body == server.answer("/v2/models/flights")


def test_v2_errors_speak_both_dialects(running: Running, server: ModelServer) -> None:
    token = running.issuer.token("flights-integrator")
    try:
        server.status, server.body = 400, b'{"error":"wrong shape"}'
        assert running.ask("POST", "/v2/models/flights/infer", {}, token=token).json() == {"error": "wrong shape"}
        server.status = 500
        failed = running.ask("POST", "/v2/models/flights/infer", {}, token=token)
        assert failed.status == 503
        assert failed.json()["error"] == failed.json()["detail"]
        assert "wrong shape" not in failed.body.decode()
    finally:
        server.status, server.body = 200, None


def test_open_routes_tell_how_things_stand(running: Running) -> None:
    assert running.ask("GET", "/livez").json() == {"status": "ok"}
    ready = running.ask("GET", "/readyz")
    assert ready.status == 200
    assert ready.json()["status"] == "degraded"
    assert ready.json()["checks"]["deployments"] == "ok"
    assert "does not answer" in ready.json()["checks"]["redis"]
    assert running.ask("GET", "/v2/health/live").json() == {"live": True}
    assert running.ask("GET", "/v2/health/ready").json() == {"ready": True}
    metrics = running.ask("GET", "/metrics").body.decode()
    assert 'fasttrack_gateway_requests_total{method="GET",route="/readyz",status="200",usecase=""} 1.0' in metrics


def test_answers_are_counted_by_use_case_and_invented_names_make_no_series(running: Running) -> None:
    token = running.issuer.token("flights-predictor")
    assert running.predict(ENTITY, token=token).status == 200
    for name in ("made-up", "flights%0A", "other"):
        assert running.ask("GET", f"/v1/usecases/{name}", token=token).status == 404
    metrics = running.ask("GET", "/metrics").body.decode()
    counted = dict.fromkeys(
        re.findall(r'^fasttrack_gateway_requests_total\{.*usecase="([^"]*)"\}', metrics, re.MULTILINE)
    )
    assert set(counted) == {"", "flights", "other"}


def test_not_ready_before_the_registry_has_answered(tmp_path: Path) -> None:
    from fasttrack.errors import UnavailableError

    def away() -> list[Any]:
        raise UnavailableError("the registry is away in this test.")

    with gateway(tmp_path, away) as running:
        ready = running.ask("GET", "/readyz")
        assert ready.status == 503
        assert "registry" in ready.json()["checks"]["deployments"]
        assert running.ask("GET", "/v2/health/ready").status == 503
        assert running.ask("GET", "/livez").status == 200


def test_methods_and_paths(running: Running) -> None:
    assert running.ask("HEAD", "/livez").status == 200
    assert running.ask("HEAD", "/livez").body == b""
    options = running.ask("OPTIONS", "/v1/usecases/flights/predict")
    assert (options.status, options.headers["allow"]) == (204, "OPTIONS, POST")
    assert running.ask("DELETE", "/v1/usecases/flights/predict").status == 405
    assert running.ask("GET", "/nothing/here").status == 404
    assert running.ask("GET", "/v1/usecases/").status == 404
    assert running.ask("GET", "/v1/usecases/%2e%2e%2fx", token=running.issuer.token("flights-admin")).status == 404


def test_security_headers_are_on_every_answer(running: Running) -> None:
    for path in ("/livez", "/nothing", "/v1/usecases", "/docs"):
        headers = running.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert re.fullmatch("[0-9a-f]{32}", headers["x-trace-id"])
        assert "server" not in headers
