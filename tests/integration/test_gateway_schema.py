"""Schemathesis over the gateway's OpenAPI document: no 5xx, no accepted nonsense, no route without authentication."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from api_gateway.app import create_app
from api_gateway.options import GatewayOptions
from fasttrack.local.platform import Platform
from fasttrack.registry.store import Registry
from fasttrack.rollout.store import Rollouts
from fasttrack.settings import Settings
from tests.integration.registry_database import digest, opened, scratch_database
from tests.unit.gateway_harness import AUDIENCE, ISSUER, ModelServer, Running, TestIssuer, deployment, gateway

PLENTY = {"requests": 100_000_000, "per": "1m", "burst": 10_000_000}
CHECKS = [
    not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
    checks.response_schema_conformance, checks.response_headers_conformance, checks.negative_data_rejection,
    checks.missing_required_header, checks.unsupported_method, checks.ignored_auth,
]  # fmt: skip


@pytest.fixture(scope="module")
def running(platform: Platform, server: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with scratch_database(platform.settings().postgres) as dsn, opened(dsn) as registry:
        _deploy(registry, server)
        rollouts = Rollouts(dsn, pool_size=4)
        folder = tmp_path_factory.mktemp("gateway")
        with gateway(
            folder, registry.deployments, redis=platform.settings().redis, exchange=rollouts.exchange, rollouts=rollouts
        ) as it:
            yield it
        rollouts.close()


def _deploy(registry: Registry, server: ModelServer) -> None:
    registry.migrate()
    registry.register_model("flights", "/packages/x", digest=digest(1))
    wanted = deployment(server.url, server.url, rate_limit=PLENTY)
    registry.deploy(
        "flights", 1, signature=wanted.signature, usecase_document=wanted.usecase_document,
        transformer_url=server.url, predictor_url=server.url, explainer_url=server.url,
    )  # fmt: skip


def _document() -> dict[str, Any]:
    """The OpenAPI document of a gateway that is never started; the use case is the only one that there is."""
    with tempfile.TemporaryDirectory() as folder:
        issuer = TestIssuer(Path(folder))
        nowhere = Settings(postgres="postgresql://127.0.0.1:1/none", redis="redis://127.0.0.1:1", jwks=str(issuer.path),
                           issuer=ISSUER, audience=AUDIENCE)  # fmt: skip
        content = create_app(nowhere, GatewayOptions(spool=Path(folder))).openapi()
    for methods in content["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "name":
                    parameter["schema"] = {"type": "string", "enum": ["flights"]}
    return content


schema = schemathesis.openapi.from_dict(_document())


@schema.parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_route_keeps_its_word(case: Any, running: Running) -> None:
    token = running.issuer.token("flights-admin")
    asked = list(CHECKS)
    if case.path.endswith("/infer"):
        # The gateway passes tensors on unread, and this test's model server takes anything.
        asked.remove(checks.negative_data_rejection)
    case.call_and_validate(
        base_url=f"http://127.0.0.1:{running.port}", headers={"Authorization": f"Bearer {token}"}, checks=asked
    )
