"""``POST /v1/usecases/{name}/explain``: which features drive a prediction, and how much."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from api_gateway import inference
from api_gateway.cache import complete
from api_gateway.call import Call
from api_gateway.edge import guard
from api_gateway.reply import Reply
from api_gateway.routes.bodies import explanation_method, json_body


@guard("explain")
async def explain(call: Call, name: str) -> Reply:
    """Explain the prediction for one entity, or for raw features."""
    body = await json_body(call)
    question = call.served.validator.question(body, ("method",))
    asked = body.get("method")
    method = explanation_method(call.served, True if asked is None else asked, "method")
    # The explanation is of the model that predicts for the same key.
    call.assign(lambda: question.entity or question.as_json())
    served = call.served
    request: dict[str, Any] = {**question.as_json(), "method": method}
    call.audit["request_hash"] = hashlib.sha256(orjson.dumps(request, option=orjson.OPT_SORT_KEYS)).hexdigest()
    explanation = await inference.explain(
        call.parts.upstreams, served, question, method, deadline=call.deadline, trace=call.trace
    )
    answer = {
        "usecase": name,
        "explanation": explanation,
        "model": {"version": served.version, "digest": served.digest},
        "warnings": question.warnings,
    }
    call.audit["response"] = answer
    return Reply(200, complete(orjson.dumps(answer), cached=False, trace_id=call.trace.trace_id))
