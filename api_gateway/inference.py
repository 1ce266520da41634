"""What the model servers are asked, and what their answers mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from api_gateway.deployments import Served
from api_gateway.observability import Trace, log
from api_gateway.upstream import Answer, Part, Upstreams, overdue
from api_gateway.validation import Question
from fasttrack.errors import FastTrackError, InvalidRequestError, NotFoundError, UnavailableError

_JSON_HEADERS: Final = {"Content-Type": "application/json"}
_DIGITS: Final = 6
_MESSAGE: Final = 400


@dataclass(frozen=True, slots=True)
class Predicted:
    """A model's answer for one row; `version` and `digest` are those of the server that answered.

    `unusual`: the features together are unlike the rows that the model was trained on.
    """

    probability: float
    value: float
    lower: float
    upper: float
    version: int
    digest: str
    as_of: str | None
    unusual: bool = False


async def infer(
    upstreams: Upstreams, served: Served, question: Question, *, deadline: float, trace: Trace
) -> Predicted:
    """Ask the transformer, which looks features up and asks the predictor.

    Raises:
        NotFoundError: the entity is unknown.
        InvalidRequestError: the model refuses the values.
        UnavailableError: transformer or predictor don't answer.
        DeadlineError: not in time.
    """
    body = {"inputs": _tensors(served, question)}
    path = f"/v2/models/{served.name}/infer"
    document = await _asked(upstreams, served, "transformer", path, body, deadline=deadline, trace=trace)
    try:
        outputs = {output["name"]: float(output["data"][0]) for output in document["outputs"]}
        said = document.get("parameters") or {}
        return Predicted(
            probability=round(outputs["probability"], served.usecase.serving.score_digits),
            **{name: round(outputs[name], _DIGITS) for name in ("value", "lower", "upper")},
            version=_version(said.get("model_version"), served.version),
            digest=str(said.get("digest", served.digest)),
            as_of=str(said["as_of"]) if said.get("as_of") else None,
            unusual=bool(said.get("out_of_distribution")),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _nonsense("transformer", error) from error


async def explain(
    upstreams: Upstreams, served: Served, question: Question, method: str, *, deadline: float, trace: Trace
) -> dict[str, Any]:
    """Ask the explainer for the features that mattered most.

    Raises:
        NotFoundError, InvalidRequestError, UnavailableError, DeadlineError: as `infer`.
    """
    instance = {"event": question.event} if question.event is not None else question.entity or question.features
    body = {"instances": [instance], "method": method, "top": served.usecase.serving.top_features}
    path = f"/v1/models/{served.name}:explain"
    document = await _asked(upstreams, served, "explainer", path, body, deadline=deadline, trace=trace)
    try:
        found = document["explanations"][0]
        return {
            "method": str(found["method"]),
            "base_value": found.get("base_value"),
            "features": [
                {"feature": item["feature"], "value": item.get("value"), "contribution": item["contribution"]}
                for item in found["attributions"][: served.usecase.serving.top_features]
            ],
        }
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise _nonsense("explainer", error) from error


async def _asked(
    upstreams: Upstreams,
    served: Served,
    part: Part,
    path: str,
    body: dict[str, Any],
    *,
    deadline: float,
    trace: Trace,
) -> dict[str, Any]:
    """The JSON object that a model server answers `body` with."""
    base = served.transformer if part == "transformer" else served.explainer
    sent = orjson.dumps(body)
    answer = await upstreams.call(
        part, base, path, deadline=deadline, usual=served.deadline, trace=trace, body=sent, headers=_JSON_HEADERS
    )
    return _document(answer, part)


def _version(said: Any, registered: int) -> int:
    """The registry's number that the server was told; one that was started without shows a part of its digest."""
    return int(said) if isinstance(said, str) and said.isascii() and said.isdigit() else registered


def _tensors(served: Served, question: Question) -> list[dict[str, Any]]:
    if question.entity is not None:
        return [
            {"name": key, "datatype": "BYTES", "shape": [1], "data": [value]} for key, value in question.entity.items()
        ]
    if question.event is not None:
        return [{"name": "event", "datatype": "BYTES", "shape": [1], "data": [orjson.dumps(question.event).decode()]}]
    tensors: list[dict[str, Any]] = []
    for name, value in (question.features or {}).items():
        if isinstance(value, str):
            tensors.append({"name": name, "datatype": "BYTES", "shape": [1], "data": [value]})
        elif isinstance(value, list):
            shape = [1, len(value), len(value[0]) if value else 0]
            if value:
                tensors.append({"name": name, "datatype": "FP64", "shape": shape, "data": [value]})
        else:
            tensors.append({"name": name, "datatype": "FP64", "shape": [1], "data": [value]})
    return tensors


def _document(answer: Answer, part: str) -> dict[str, Any]:
    """The JSON object of a 200; every other status as one of our errors."""
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        if answer.status == 200:
            raise _nonsense(part, error) from error
        document = {}
    if answer.status == 200 and isinstance(document, dict):
        return document
    raise error_of(answer.status, document, part)


def error_of(status: int, document: Any, part: str) -> FastTrackError:
    """What a model server's refusal means to our caller; only what it says of the request itself is passed on."""
    message = document.get("error") if isinstance(document, dict) else None
    said = message[:_MESSAGE] if isinstance(message, str) else "the model server refused the request."
    if status == 404:
        return NotFoundError(said, where="body.entity", fix="Check the keys.")
    if status in (400, 413, 422):
        return InvalidRequestError(said, where="body", fix="Correct the request.")
    if status == 504:
        return overdue(part)
    log("warning", "a model server failed", part=part, status=status, said=said)
    return UnavailableError(f"the {part} can't answer now.", fix="Try again in a few seconds.")


def _nonsense(part: str, error: Exception) -> UnavailableError:
    log("error", "a model server's answer can't be read", part=part, reason=repr(error)[:200])
    failure = UnavailableError(f"the {part} gave an answer that can't be read.", fix="Try again; tell the operators.")
    failure.status, failure.title = 502, "Bad gateway"
    return failure
