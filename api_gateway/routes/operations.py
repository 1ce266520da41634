"""Health, readiness, metrics and documentation: open to everybody that can reach the port."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api_gateway.call import Call
from api_gateway.documentation import PAGE, POLICY
from api_gateway.edge import public
from api_gateway.parts import Parts
from api_gateway.reply import Reply, json_reply


@public
async def livez(call: Call) -> Reply:
    """Whether the process lives; asks no other part."""
    return json_reply({"status": "ok"})


@public
async def readyz(call: Call) -> Reply:
    """Whether requests can be answered, and which parts are away.

    Redis and PostgreSQL may be away: limits are then local, nothing is cached, audit rows go to disk.
    """
    found = readiness(call.parts)
    return json_reply(found, 503 if found["status"] == "unavailable" else 200)


def readiness(parts: Parts) -> dict[str, Any]:
    """``status`` (ready, degraded, unavailable) and each check's outcome."""
    needed = {
        "deployments": "ok" if parts.deployments.loaded else "the registry has not answered yet",
        "keys": "ok" if parts.keys.keys else "the token issuer's keys could not be read yet",
    }
    if parts.leaving:
        needed["gateway"] = "is ending"
    useful = {
        "postgres": "ok" if parts.deployments.fresh else "does not answer; audit rows are spooled to disk",
        "redis": "ok" if parts.redis.up else "does not answer; limits are local and nothing is cached",
    }
    status = "ready"
    if any(text != "ok" for text in useful.values()):
        status = "degraded"
    if any(text != "ok" for text in needed.values()):
        status = "unavailable"
    return {"status": status, "checks": {**needed, **useful}, "usecases": len(parts.deployments)}


@public
async def metrics(call: Call) -> Reply:
    """Prometheus metrics."""
    body = await asyncio.to_thread(generate_latest, call.parts.metrics.registry)
    return Reply(200, body, CONTENT_TYPE_LATEST.encode())


@public
async def openapi(call: Call) -> Reply:
    """This API as an OpenAPI document."""
    return Reply(200, orjson.dumps(call.app.openapi()))


@public
async def docs(call: Call) -> Reply:
    """This API as a page to read and try; it loads nothing from elsewhere."""
    return Reply(200, PAGE, b"text/html; charset=utf-8", policy=POLICY)
