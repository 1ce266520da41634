"""The gateway as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from api_gateway.documentation import describe, problem_responses, with_events
from api_gateway.edge import Edge, GuardedRoute
from api_gateway.options import GatewayOptions
from api_gateway.parts import Parts
from api_gateway.routes import explain, operations, predict, protocol_v2, rollouts, usecases, webhooks
from api_gateway.schemas import (
    ExplainRequest,
    ExplainResponse,
    PredictRequest,
    PredictResponse,
    RolloutDecision,
    RolloutStart,
    RolloutStatus,
    UseCaseDetail,
    UseCaseList,
    WebhookReceipt,
)
from fasttrack.settings import Settings

_INFER_EXAMPLE: Final = {"inputs": [{"name": "id", "shape": [1], "datatype": "BYTES", "data": ["..."]}]}


class Gateway(FastAPI):
    """FastAPI with one difference: requests go through `Edge`, which no route can be reached around."""

    parts: Parts
    edge: Edge

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, with the events of what is deployed now."""
        return with_events(describe(self), self.parts.deployments)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve HTTP through the edge; anything else (start and end of life) is FastAPI's."""
        if scope["type"] == "http":
            scope["app"] = self
            await self.edge(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings, options: GatewayOptions | None = None) -> Gateway:
    """Make a gateway; its parts connect when the application starts.

    Args:
        settings: `postgres`, `redis`, `jwks`, `issuer` and `audience` are needed.
        options: limits and deadlines; by default from the environment.

    Raises:
        ConfigurationError: a setting is missing or can't be used.
        StorageError: the spool folder can't be made.
    """
    return assemble(Parts.build(settings, options or GatewayOptions.from_environment()))


def assemble(parts: Parts) -> Gateway:
    """A gateway made of these parts."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        async with parts.running():
            yield

    app = Gateway(lifespan=life, openapi_url=None, docs_url=None, redoc_url=None)
    app.parts = parts
    app.router.route_class = GuardedRoute
    _add_usecase_routes(app)
    _add_webhook_route(app)
    _add_v2_routes(app)
    _add_operation_routes(app)
    app.edge = Edge(parts, app.routes)
    return app


def _add_usecase_routes(app: FastAPI) -> None:
    def add(
        path: str, endpoint: Any, answer: type[BaseModel], *errors: int, body: type[BaseModel] | None = None
    ) -> None:
        app.add_api_route(
            path,
            endpoint,
            methods=["POST" if body else "GET"],
            response_model=answer,
            responses=problem_responses(*errors),
            tags=["use cases"],
            openapi_extra=_json_body(body.model_json_schema()) if body else None,
        )

    one = "/v1/usecases/{name}"
    add("/v1/usecases", usecases.list_usecases, UseCaseList)
    add(one, usecases.usecase, UseCaseDetail, 404)
    add(f"{one}/predict", predict.predict, PredictResponse, 400, 404, 413, 415, 503, 504, body=PredictRequest)
    add(f"{one}/rollout", rollouts.status, RolloutStatus, 404, 503)
    add(f"{one}/rollout", rollouts.start, RolloutStatus, 400, 404, 409, 413, 415, 503, body=RolloutStart)
    for name, endpoint in (("promote", rollouts.promote), ("abort", rollouts.abort)):
        add(f"{one}/rollout/{name}", endpoint, RolloutStatus, 400, 404, 409, 413, 415, 503, body=RolloutDecision)
    add(f"{one}/explain", explain.explain, ExplainResponse, 400, 404, 413, 415, 503, 504, body=ExplainRequest)


def _add_webhook_route(app: FastAPI) -> None:
    headers = {
        "webhook-id": "the same for each delivery of the same message; no dots",
        "webhook-timestamp": "Unix seconds of this delivery",
    }
    event = {"type": "object", "additionalProperties": True}
    schema = {"oneOf": [event, {"type": "array", "items": event}]}
    parameters = [
        {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in headers.items()
    ]
    app.add_api_route(
        "/v1/usecases/{name}/webhooks/{source}",
        webhooks.webhook,
        methods=["POST"],
        status_code=202,
        response_model=WebhookReceipt,
        responses=problem_responses(400, 413, 415, 503, roles=False),
        tags=["webhooks"],
        openapi_extra={**_json_body(schema), "parameters": parameters},
    )


def _add_v2_routes(app: FastAPI) -> None:
    def add(path: str, endpoint: Any, *errors: int, secured: bool = True, body: dict[str, Any] | None = None) -> None:
        app.add_api_route(
            path,
            endpoint,
            methods=["POST" if body else "GET"],
            response_model=None,
            responses=problem_responses(*errors) if secured else None,
            tags=["open inference protocol"],
            openapi_extra=body,
        )

    one = "/v2/models/{name}"
    add("/v2", protocol_v2.server)
    add("/v2/health/live", protocol_v2.live, secured=False)
    add("/v2/health/ready", protocol_v2.ready, secured=False)
    add(one, protocol_v2.model, 404, 503, 504)
    add(f"{one}/ready", protocol_v2.model_ready, 404, 503, 504)
    schema = {"type": "object", "required": ["inputs"], "examples": [_INFER_EXAMPLE]}
    add(f"{one}/infer", protocol_v2.infer, 400, 404, 413, 415, 503, 504, body=_json_body(schema))


def _add_operation_routes(app: FastAPI) -> None:
    for path, endpoint, kind in (
        ("/livez", operations.livez, JSONResponse),
        ("/readyz", operations.readyz, JSONResponse),
        ("/metrics", operations.metrics, PlainTextResponse),
        ("/openapi.json", operations.openapi, JSONResponse),
        ("/docs", operations.docs, HTMLResponse),
    ):
        # The class is for the OpenAPI document only.
        app.add_api_route(
            path, endpoint, methods=["GET"], response_model=None, response_class=kind, tags=["operations"]
        )


def _json_body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
