"""``/v2/...``: the Open Inference Protocol, passed through untouched, so that any V2 client works."""

from __future__ import annotations

from typing import Final

import orjson

from api_gateway.call import Call
from api_gateway.deployments import Served
from api_gateway.edge import guard, public
from api_gateway.inference import error_of
from api_gateway.problems import refused
from api_gateway.reply import Reply, json_reply
from api_gateway.routes.bodies import check_encoding
from api_gateway.routes.operations import readiness
from api_gateway.tensors import InferBody, probabilities
from api_gateway.upstream import Answer
from fasttrack import __version__
from fasttrack.errors import InvalidRequestError

_LENGTH: Final = "inference-header-content-length"
_PASSED: Final = ("content-type", _LENGTH)
_TYPES: Final = ("", "application/json", "application/octet-stream")


@guard("metadata")
async def server(call: Call) -> Reply:
    """Server metadata."""
    return json_reply({"name": "fasttrack", "version": __version__, "extensions": ["binary_tensor_data"]})


@public
async def live(call: Call) -> Reply:
    """Whether the gateway lives."""
    return json_reply({"live": True})


@public
async def ready(call: Call) -> Reply:
    """Whether the gateway is ready."""
    good = readiness(call.parts)["status"] != "unavailable"
    return json_reply({"ready": good}, 200 if good else 503)


@guard("metadata")
async def model(call: Call, name: str) -> Reply:
    """Metadata of a model: its inputs and outputs as tensors."""
    return await _forwarded(call, f"/v2/models/{call.served.name}")


@guard("metadata")
async def model_ready(call: Call, name: str) -> Reply:
    """Whether a model is ready."""
    return await _forwarded(call, f"/v2/models/{call.served.name}/ready")


@guard("infer")
async def infer(call: Call, name: str) -> Reply:
    """Infer with tensors, as JSON or binary; nothing of the body is changed."""
    check_encoding(call)
    kind = call.fields.get(b"content-type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        raise refused(
            415,
            "the body is neither JSON nor binary tensors.",
            where="header Content-Type",
            fix="Send application/json.",
        )
    content = await call.read(call.parts.options.max_infer_bytes)
    body, served = InferBody(content, call.fields.get(_LENGTH.encode())), call.served
    if served.usecase.serving.query_budget is not None:
        await call.spend(body.rows)
    call.audit["request_hash"] = body.digest
    call.assign(lambda: body.question(served.validator.entity_keys))
    return _reply(call, await _inferred(call, content))


class _Refused(InvalidRequestError):
    """A model server's answer that is neither a prediction nor a failure; it passes as it is."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"the model server answered {answer.status}.")
        self.answer = answer


async def _inferred(call: Call, content: bytes) -> Answer:
    """The answer of the request's arm; afterwards `call.served` is who gave it."""
    path, assignment, experiments = f"/v2/models/{call.served.name}/infer", call.assignment, call.parts.experiments
    if assignment is None:
        return await _asked(call, call.served, path, content, call.deadline)

    async def ask(served: Served, until: float) -> Answer:
        answer = await _asked(call, served, path, content, until)
        if answer.status != 200:
            raise _Refused(answer)
        return answer

    try:
        found, served = await experiments.asked(assignment, ask, started=call.started, deadline=call.deadline)
    except _Refused as refusal:
        call.answer_by(assignment.champion)
        return refusal.answer
    call.answer_by(served)
    experiments.mirror(
        assignment, ask, found, probabilities=lambda each: probabilities(each.body, each.headers.get(_LENGTH)),
        seconds=served.deadline, size=len(content) + len(found.body),
    )  # fmt: skip
    return found


async def _forwarded(call: Call, path: str) -> Reply:
    return _reply(call, await _asked(call, call.served, path, None, call.deadline))


async def _asked(call: Call, served: Served, path: str, body: bytes | None, deadline: float) -> Answer:
    headers = {name: value for name in _PASSED if (value := call.fields.get(name.encode())) is not None}
    if body is not None:
        headers.setdefault("content-type", "application/octet-stream")
    answer = await call.parts.upstreams.call(
        "transformer",
        served.transformer,
        path,
        deadline=deadline,
        usual=served.deadline,
        trace=call.trace,
        body=body,
        headers=headers,
    )
    if answer.status >= 500:
        raise error_of(answer.status, _json(answer), "transformer")
    return answer


def _reply(call: Call, answer: Answer) -> Reply:
    kind = answer.headers.get("content-type", "application/json").encode("latin-1")
    length = answer.headers.get(_LENGTH)
    passed = [(_LENGTH.encode(), length.encode("latin-1"))] if length else []
    if call.assignment is not None:
        # The body is not ours to write into.
        said = 'rollout="{rollout}", mode={mode}, arm={arm}'.format_map(call.experiment)
        passed.append((b"x-experiment", said.encode()))
    return Reply(answer.status, answer.body, kind, passed)


def _json(answer: Answer) -> object:
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        # Only its absence matters: the caller is told no more than that the server failed.
        return None
