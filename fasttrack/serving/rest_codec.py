"""The V2 protocol over HTTP: JSON, and JSON followed by binary tensors."""

from __future__ import annotations

from typing import Any, Final

import orjson

from fasttrack.errors import InvalidRequestError
from fasttrack.serving.tensors import (
    InferenceAnswer,
    InferenceCall,
    Tensor,
    WantedOutput,
    checked_shape,
    from_bytes,
    from_values,
    to_bytes,
)

#: Length of the JSON part when binary tensors follow it, in requests and responses.
JSON_LENGTH_HEADER: Final = "inference-header-content-length"


def decode(body: bytes, json_length: str | None, *, nullable: bool = False) -> InferenceCall:
    """Read a request.

    Args:
        body: the whole body.
        json_length: the `JSON_LENGTH_HEADER`, if there was one.
        nullable: let JSON values be null.

    Raises:
        InvalidRequestError: if the body breaks the protocol.
    """
    split = len(body) if json_length is None else _length(json_length, len(body))
    try:
        document = orjson.loads(memoryview(body)[:split])
    except orjson.JSONDecodeError as error:
        # orjson refuses NaN and Infinity, which are not JSON, so this is also where they end.
        raise InvalidRequestError(
            f"the body is not JSON: {error}.", fix="Send V2 JSON; NaN is not a JSON number."
        ) from error
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise InvalidRequestError("the body has no list of inputs.", fix='Send {"inputs": [{"name": ..., ...}]}.')
    inputs = _inputs(document["inputs"], memoryview(body)[split:], nullable)
    parameters = _mapping(document.get("parameters"), "parameters")
    binary = parameters.get("binary_data_output") is True
    identity = document.get("id") or ""
    if not isinstance(identity, str):
        raise InvalidRequestError("id is not a string.", where="id", fix="Send a string, or leave it out.")
    return InferenceCall(inputs, identity, parameters, _wanted(document.get("outputs"), binary), binary)


def _length(text: str, whole: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= whole):
        raise InvalidRequestError(
            f"{text[:20]!r} is not the length of the JSON part of {whole} bytes.",
            where=JSON_LENGTH_HEADER,
            fix="Send the number of bytes before the first binary tensor.",
        )
    return int(text)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise InvalidRequestError("it is not an object.", where=where, fix="Send a JSON object.")
    return value or {}


def _inputs(items: list[Any], tail: memoryview, nullable: bool) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    offset = 0
    for item in items:
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str):
            raise InvalidRequestError("an input has no name.", where="inputs", fix="Give every input a name.")
        if name in found:
            raise InvalidRequestError("it occurs twice.", where=f"input {name!r}", fix="Send every input once.")
        shape = checked_shape(name, item.get("shape"))
        size = _mapping(item.get("parameters"), f"input {name!r} parameters").get("binary_data_size")
        if size is None:
            found[name] = from_values(name, item.get("datatype"), shape, item.get("data"), nullable=nullable)
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - offset:
            raise InvalidRequestError(
                f"binary_data_size is {size!r}, but {len(tail) - offset} bytes are left.",
                where=f"input {name!r}",
                fix="Send the tensors' bytes after the JSON, in the order of the inputs.",
            )
        found[name] = from_bytes(name, item.get("datatype"), shape, tail[offset : offset + size])
        offset += size
    if offset != len(tail):
        raise InvalidRequestError(
            f"{len(tail) - offset} bytes belong to no input.",
            where="body",
            fix="Declare binary_data_size for every tensor.",
        )
    return found


def _wanted(items: Any, binary: bool) -> tuple[WantedOutput, ...]:
    found = []
    for item in items or ():
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise InvalidRequestError("an output has no name.", where="outputs", fix="Give every output a name.")
        parameters = _mapping(item.get("parameters"), "outputs parameters")
        found.append(WantedOutput(item["name"], parameters.get("binary_data", binary) is True))
    return tuple(found)


def encode(answer: InferenceAnswer, call: InferenceCall) -> tuple[bytes, int | None]:
    """The response's body, and the length of its JSON part when binary tensors follow."""
    binary = {wanted.name: wanted.binary for wanted in call.outputs}
    outputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for tensor in answer.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if binary.get(tensor.name, call.binary):
            raw.append(to_bytes(tensor))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = tensor.array.reshape(-1).tolist()
        outputs.append(entry)
    document = {
        "model_name": answer.model_name,
        "model_version": answer.model_version,
        "id": answer.id,
        "parameters": answer.parameters,
        "outputs": outputs,
    }
    head = orjson.dumps(document)
    return (b"".join([head, *raw]), len(head)) if raw else (head, None)
