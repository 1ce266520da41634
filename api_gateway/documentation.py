"""The page under ``/docs``: renders the OpenAPI document with its own few lines of script, from no other host."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from copy import deepcopy
from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api_gateway.deployments import Served
from api_gateway.schemas import Problem
from fasttrack import __version__

PAGE: Final = files("api_gateway").joinpath("documentation.html").read_bytes()
_ABOUT: Final = (
    "Predictions with intervals and explanations, for bearers of a token. Every error is a problem document "
    "(RFC 9457) with a trace id."
)
_USECASE: Final = "/v1/usecases/{name}"
_ERRORS: Final = {
    400: "The request is malformed or doesn't fit the model's signature.",
    401: "No token or signature, or one that is not accepted.",
    403: "No role of the token allows this.",
    404: "No such use case or entity.",
    409: "It does not fit what runs, or what was decided.",
    413: "The body is too large.",
    415: "The body has another type than JSON.",
    429: "Over the rate limit; see Retry-After.",
    503: "A model server, or Kafka, is away; see Retry-After.",
    504: "The deadline has passed.",
}


def _digest(tag: str) -> str:
    """The source expression that lets exactly the page's own inline block run."""
    match = re.search(rb"<%b>(.*?)</%b>" % (tag.encode(), tag.encode()), PAGE, re.DOTALL)
    content = match[1] if match else b""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"


POLICY: Final = (
    b"content-security-policy",
    f"default-src 'none'; script-src {_digest('script')}; style-src {_digest('style')}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'".encode(),
)


def problem_responses(*statuses: int, roles: bool = True) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route for FastAPI: 401, 429, with `roles` 403, and `statuses`, all problem documents."""
    return {
        status: {"description": _ERRORS[status], "content": {"application/problem+json": {"schema": _PROBLEM}}}
        for status in sorted({401, 429, *statuses, *([403] if roles else [])})
    }


_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the app, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title="FastTrack gateway", version=__version__, description=_ABOUT, routes=app.routes)
        components = document.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
        components["securitySchemes"] = {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "A token of the configured issuer with exp, iat, iss, aud, sub and roles.",
            },
            "signature": {
                "type": "apiKey",
                "in": "header",
                "name": "webhook-signature",
                "description": "Standard Webhooks: v1,<base64 of HMAC-SHA256 over webhook-id.webhook-timestamp.body>.",
            },
        }
        for methods in document["paths"].values():
            for operation in methods.values():
                # Parameters are checked by the routes themselves, and answered with 400 or 404.
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema


def with_events(document: dict[str, Any], deployed: Iterable[Served]) -> dict[str, Any]:
    """The document with the contract of each use case's prediction event, which the requests' bodies refer to.

    Args:
        document: as `describe` gives it; it is not changed.
        deployed: what is deployed now.
    """
    events = {f"{served.name}_event": served.validator.event_schema for served in deployed}
    if not events:
        return document
    schemas = {**document["components"]["schemas"], **events}
    allowed = [*({"$ref": f"#/components/schemas/{name}"} for name in events), {"type": "null"}]
    paths = {**document["paths"]}
    for path in (f"{_USECASE}/predict", f"{_USECASE}/explain"):
        paths[path] = deepcopy(paths[path])
        body = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        body["properties"]["event"]["anyOf"] = allowed
    return {**document, "components": {**document["components"], "schemas": schemas}, "paths": paths}
