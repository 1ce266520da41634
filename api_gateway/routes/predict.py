"""``POST /v1/usecases/{name}/predict``: check the cache, infer, explain, store, answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import orjson

from api_gateway import inference
from api_gateway.cache import cache_key, complete
from api_gateway.call import Call
from api_gateway.deployments import Served
from api_gateway.edge import guard
from api_gateway.inference import Predicted
from api_gateway.reply import Reply
from api_gateway.routes.bodies import explanation_method, json_body
from api_gateway.upstream import cancelled
from api_gateway.validation import Question
from fasttrack.errors import AuthorizationError, FastTrackError, InvalidRequestError
from fasttrack.registry.records import PredictionRow

_UNUSUAL = {
    "code": "out_of_distribution",
    "detail": "the features together are unlike the rows that the model was trained on",
}


@dataclass(frozen=True)
class _Asked:
    question: Question
    method: str | None

    def as_json(self) -> dict[str, Any]:
        return {**self.question.as_json(), "explain": self.method}


@guard("predict", limits_itself=True)
async def predict(call: Call, name: str) -> Reply:
    """Predict for one entity, or for raw features.

    With `explain`, the features that mattered most come along; that needs the action explain too. If the
    explainer can't answer in time, the prediction comes without an explanation, and a warning says so.
    """
    try:
        asked = await _asked(call)
    except InvalidRequestError:
        # Nonsense counts against the caller's limit too.
        await call.limit()
        raise
    call.assign(lambda: asked.question.entity or asked.question.as_json())
    served = call.served
    request = asked.as_json()
    key = _key(call, request)
    call.audit["request_hash"] = hashlib.sha256(orjson.dumps(request, option=orjson.OPT_SORT_KEYS)).hexdigest()
    decision = await call.limit(key if served.cache_seconds > 0 else None, asks=1)
    if served.cache_seconds > 0:
        call.parts.cache.looked_up(name, hit=decision.cached is not None)
    if decision.cached is not None:
        # The row of the first answer, with the same request hash and digest, holds what was said.
        call.audit["cached"] = call.facts["fasttrack.cached"] = True
        return _reply(call, decision.cached, cached=True)
    answer, predicted = await _answered(call, asked)
    return _stored(call, asked, key, answer, predicted)


def _key(call: Call, request: dict[str, Any]) -> str:
    served = call.served
    return cache_key(served.name, tenant=call.who.tenant, actions=call.actions, digest=served.digest, request=request)


async def _asked(call: Call) -> _Asked:
    body = await json_body(call)
    question = call.served.validator.question(body, ("explain",))
    explain = body.get("explain", False)
    if explain is False:
        return _Asked(question, None)
    method = explanation_method(call.served, explain, "explain")
    if "explain" not in call.actions:
        raise AuthorizationError(
            f"no role of this token allows 'explain' on use case {call.served.name!r}.", fix="Ask without `explain`."
        )
    return _Asked(question, method)


async def _answered(call: Call, asked: _Asked) -> tuple[dict[str, Any], Predicted]:
    """The answer and the prediction in it; the explanation is made at the same time."""
    explaining = _explaining(call, asked)
    try:
        arm = call.served
        predicted = await _predicted(call, asked.question)
        if explaining is not None and call.served is not arm:
            # The challenger failed: what it says of its own model explains nothing.
            await cancelled(explaining)
            explaining = _explaining(call, asked)
        warnings: list[dict[str, str]] = list(asked.question.warnings)
        if predicted.unusual:
            warnings.append(_UNUSUAL)
        explanation: dict[str, Any] | None = None
        if explaining is not None:
            try:
                explanation = await explaining
            except FastTrackError as error:
                warnings.append({"code": "explanation_unavailable", "detail": error.what})
    finally:
        if explaining is not None:
            # Also where it has failed already: somebody must look at its error.
            await cancelled(explaining)
    served = call.served
    usecase = served.usecase
    positive = usecase.label.positive_name
    answer = {
        "usecase": served.name,
        "prediction": {
            "class": positive if predicted.probability >= 0.5 else f"not {positive}",
            "probability": predicted.probability,
            "value": predicted.value,
            "unit": usecase.label.unit,
            "interval": {"lower": predicted.lower, "upper": predicted.upper, "coverage": usecase.gate.coverage},
        },
        "explanation": explanation,
        "model": {"version": predicted.version, "digest": predicted.digest},
        "as_of": predicted.as_of,
        "warnings": warnings,
    }
    return answer, predicted


def _explaining(call: Call, asked: _Asked) -> asyncio.Task[dict[str, Any]] | None:
    if asked.method is None:
        return None
    parts, until = call.parts, call.started + (call.deadline - call.started) * call.parts.options.explain_share
    return asyncio.create_task(
        inference.explain(parts.upstreams, call.served, asked.question, asked.method, deadline=until, trace=call.trace)
    )


async def _predicted(call: Call, question: Question) -> Predicted:
    """The prediction of the request's arm; afterwards `call.served` is who made it."""

    def ask(served: Served, until: float) -> Awaitable[Predicted]:
        return inference.infer(call.parts.upstreams, served, question, deadline=until, trace=call.trace)

    assignment, experiments = call.assignment, call.parts.experiments
    if assignment is None:
        return await ask(call.served, call.deadline)
    found, served = await experiments.asked(assignment, ask, started=call.started, deadline=call.deadline)
    call.answer_by(served)
    experiments.mirror(assignment, ask, found, probabilities=lambda each: [each.probability], seconds=served.deadline)
    return found


def _stored(call: Call, asked: _Asked, key: str, answer: dict[str, Any], predicted: Predicted) -> Reply:
    served = call.served
    body = orjson.dumps(answer)
    if call.assignment is not None and served is not call.assignment.served:
        # The champion has answered in the challenger's place; the answer is filed under whose it is.
        key = _key(call, asked.as_json())
    whole = asked.method is None or answer["explanation"] is not None
    if whole and predicted.digest == served.digest:
        # An answer of a model that is being replaced, or without its explanation, must not be given again.
        call.parts.cache.put(key, body, served.cache_seconds)
    call.audit |= {"model_version": predicted.version, "digest": predicted.digest, "response": answer}
    call.predictions.append(
        PredictionRow(
            usecase=served.name,
            version=predicted.version,
            entity=asked.question.entity if asked.question.entity is not None else asked.question.as_json(),
            probability=predicted.probability,
            value=predicted.value,
            lower=predicted.lower,
            upper=predicted.upper,
            explanation=answer["explanation"],
            trace_id=call.trace.trace_id,
        )
    )
    return _reply(call, body, cached=False)


def _reply(call: Call, body: bytes, *, cached: bool) -> Reply:
    experiment = None if call.assignment is None else call.experiment
    return Reply(200, complete(body, cached=cached, trace_id=call.trace.trace_id, experiment=experiment))
