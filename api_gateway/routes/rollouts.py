"""``/v1/usecases/{name}/rollout``: start, look at, promote and abort the rollout of a challenger."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from api_gateway.call import Call
from api_gateway.edge import guard
from api_gateway.reply import Reply, json_reply
from api_gateway.routes.bodies import json_body
from api_gateway.schemas import RolloutDecision, RolloutStart
from fasttrack.errors import InvalidRequestError
from fasttrack.rollout.records import Rollout
from fasttrack.rollout.verdict import METRICS

_Body = TypeVar("_Body", bound=BaseModel)


@guard("metadata")
async def status(call: Call, name: str) -> Reply:
    """The newest rollout: its step, counts, evidence and decisions."""
    return _reply(await asyncio.to_thread(call.parts.rollouts.newest, name))


@guard("admin")
async def start(call: Call, name: str) -> Reply:
    """Begin a rollout of a version whose servers run beside the champion's."""
    body = await _body(call, RolloutStart)
    made = await asyncio.to_thread(
        call.parts.rollouts.start, name, body.version, body.plan, who=_who(call), why=body.why
    )
    call.audit["model_version"] = body.version
    return _reply(made, 201)


@guard("admin")
async def promote(call: Call, name: str) -> Reply:
    """Make the challenger the champion now, whatever the evidence says."""
    body = await _body(call, RolloutDecision)
    ended = await asyncio.to_thread(call.parts.rollouts.promote, name, who=_who(call), why=body.why)
    await call.parts.deployments.refresh()
    return _reply(ended)


@guard("admin")
async def abort(call: Call, name: str) -> Reply:
    """End the rollout; the champion stays."""
    body = await _body(call, RolloutDecision)
    return _reply(await asyncio.to_thread(call.parts.rollouts.abort, name, who=_who(call), why=body.why))


def _who(call: Call) -> str:
    return f"{call.who.subject} of {call.who.tenant}"


async def _body(call: Call, model: type[_Body]) -> _Body:
    try:
        return model.model_validate(await json_body(call))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(["body", *(str(part)[:64] for part in first["loc"])])
        raise InvalidRequestError(f"{first['msg']}.", where=where, fix="/docs shows the fields.") from error


def _reply(rollout: Rollout, status: int = 200) -> Reply:
    plan = rollout.plan
    document: dict[str, Any] = {
        **asdict(rollout),
        "plan": plan.model_dump(),
        "percent": plan.weight(rollout.step) * 100 if rollout.live else 0.0,
        "odds": {metric: {"worse": rollout.evidence.log_harm(metric), "no_worse": rollout.evidence.log_fine(metric)}
                 for metric in METRICS},
    }  # fmt: skip
    del document["evidence"]
    return json_reply(orjson.loads(orjson.dumps(document, default=str)), status)
