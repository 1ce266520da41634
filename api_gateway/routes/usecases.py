"""``GET /v1/usecases``: what there is for a token, and what each use case takes and gives."""

from __future__ import annotations

from typing import Any

from api_gateway import roles
from api_gateway.call import Call
from api_gateway.deployments import Served
from api_gateway.edge import guard
from api_gateway.reply import Reply, json_reply


@guard("metadata")
async def list_usecases(call: Call) -> Reply:
    """List the use cases that the token may see."""
    seen = roles.visible(call.who, call.parts.deployments)
    return json_reply({"usecases": [_summary(call, served) for served in seen]})


@guard("metadata")
async def usecase(call: Call, name: str) -> Reply:
    """Describe a use case: entity, event, features with their ranges, signature, roles, limits."""
    served = call.served
    spec, signature = served.usecase, served.signature
    limit = spec.serving.rate_limit
    answer = {
        **_summary(call, served),
        "entity": {"name": spec.prediction.entity, "keys": list(served.validator.entity_keys)},
        "prediction": {
            "classes": [spec.label.positive_name, f"not {spec.label.positive_name}"],
            "unit": spec.label.unit,
            "coverage": spec.gate.coverage,
        },
        "event": served.validator.event_schema,
        "features": signature.get("features", []),
        "signature": {"inputs": signature.get("inputs", []), "outputs": signature.get("outputs", [])},
        "roles": {role: list(grants.may) for role, grants in spec.roles.items()},
        "explanations": list(spec.serving.explanations),
        "limits": {
            "requests": limit.requests,
            "per_seconds": limit.per.total_seconds(),
            "burst": limit.burst,
            "deadline_seconds": served.deadline,
            "cache_seconds": served.cache_seconds,
        },
    }
    return json_reply(answer)


def _summary(call: Call, served: Served) -> dict[str, Any]:
    return {
        "name": served.name,
        "description": served.usecase.description,
        "model": {"version": served.version, "digest": served.digest},
        "may": sorted(roles.allowed(call.who, served.usecase.roles)),
    }
