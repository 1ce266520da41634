"""``/v2/...``: the Open Inference Protocol, passed through untouched, so that any V2 client works."""

from __future__ import annotations

import hashlib
from typing import Final

import orjson

from api_gateway.call import Call
from api_gateway.edge import guard, public
from api_gateway.inference import error_of
from api_gateway.problems import refused
from api_gateway.reply import Reply, json_reply
from api_gateway.routes.bodies import check_encoding
from api_gateway.routes.operations import readiness
from api_gateway.upstream import Answer
from fasttrack import __version__

_PASSED: Final = ("content-type", "inference-header-content-length")
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
    return await _forwarded(call, f"/v2/models/{call.served.name}", None)


@guard("metadata")
async def model_ready(call: Call, name: str) -> Reply:
    """Whether a model is ready."""
    return await _forwarded(call, f"/v2/models/{call.served.name}/ready", None)


@guard("infer")
async def infer(call: Call, name: str) -> Reply:
    """Infer with tensors, as JSON or binary; nothing of the body is changed or looked at."""
    check_encoding(call)
    kind = call.fields.get(b"content-type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        raise refused(
            415,
            "the body is neither JSON nor binary tensors.",
            where="header Content-Type",
            fix="Send application/json.",
        )
    body = await call.read(call.parts.options.max_infer_bytes)
    served = call.served
    if served.usecase.serving.query_budget is not None:
        await call.spend(_rows(body, call.fields.get(b"inference-header-content-length")))
    call.audit |= {
        "request_hash": hashlib.sha256(body).hexdigest(),
        "model_version": served.version,
        "digest": served.digest,
    }
    return await _forwarded(call, f"/v2/models/{served.name}/infer", body)


def _rows(body: bytes, header: str | None) -> int:
    """How many rows an infer request asks for; what can't be read is left to the model server to refuse, as one."""
    try:
        document = orjson.loads(body if header is None else body[: int(header)])
        return max([1, *(int(tensor["shape"][0]) for tensor in document["inputs"])])
    except (ValueError, KeyError, TypeError, IndexError, orjson.JSONDecodeError):
        return 1


async def _forwarded(call: Call, path: str, body: bytes | None) -> Reply:
    headers = {name: value for name in _PASSED if (value := call.fields.get(name.encode())) is not None}
    if body is not None:
        headers.setdefault("content-type", "application/octet-stream")
    answer = await call.parts.upstreams.call(
        "transformer",
        call.served.transformer,
        path,
        deadline=call.deadline,
        usual=call.served.deadline,
        trace=call.trace,
        body=body,
        headers=headers,
    )
    if answer.status >= 500:
        raise error_of(answer.status, _json(answer), "transformer")
    kind = answer.headers.get("content-type", "application/json").encode("latin-1")
    length = answer.headers.get("inference-header-content-length")
    passed = [(b"inference-header-content-length", length.encode("latin-1"))] if length else []
    return Reply(answer.status, answer.body, kind, passed)


def _json(answer: Answer) -> object:
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        # Only its absence matters: the caller is told no more than that the server failed.
        return None
