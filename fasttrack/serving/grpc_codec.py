"""The V2 protocol over gRPC: protobuf messages to tensors and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

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

_CONTENTS: Final = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def decode(request: Any) -> InferenceCall:
    """Read a ModelInferRequest; when its inputs are raw, so are the outputs.

    Raises:
        InvalidRequestError: if it breaks the protocol.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(
            f"{len(request.inputs)} inputs, but {len(raw)} raw contents.",
            where="raw_input_contents",
            fix="Send raw contents for all inputs or for none.",
        )
    inputs: dict[str, Tensor] = {}
    for position, item in enumerate(request.inputs):
        if item.name in inputs:
            raise InvalidRequestError("it occurs twice.", where=f"input {item.name!r}", fix="Send every input once.")
        shape = checked_shape(item.name, list(item.shape))
        if raw:
            inputs[item.name] = from_bytes(item.name, item.datatype, shape, raw[position])
        else:
            values = list(getattr(item.contents, _CONTENTS.get(item.datatype, "bytes_contents")))
            inputs[item.name] = from_values(item.name, item.datatype, shape, values)
    outputs = tuple(WantedOutput(item.name, bool(raw)) for item in request.outputs)
    return InferenceCall(inputs, request.id, _values(request.parameters), outputs, bool(raw))


def _values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
        for name, value in parameters.items()
    }


def encode(answer: InferenceAnswer, call: InferenceCall) -> Any:
    """The ModelInferResponse to a call."""
    message = pb.ModelInferResponse(model_name=answer.model_name, model_version=answer.model_version, id=answer.id)
    for name, value in answer.parameters.items():
        message.parameters[name].string_param = value
    for tensor in answer.outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if call.binary:
            message.raw_output_contents.append(to_bytes(tensor))
        else:
            values = tensor.array.reshape(-1).tolist()
            encoded = [value.encode() if isinstance(value, str) else value for value in values]
            getattr(output.contents, _CONTENTS[tensor.datatype]).extend(encoded)
    return message


def encode_call(model_name: str, inputs: Mapping[str, Tensor], identity: str, parameters: Mapping[str, str]) -> Any:
    """A ModelInferRequest with raw inputs."""
    message = pb.ModelInferRequest(model_name=model_name, id=identity)
    for name, value in parameters.items():
        message.parameters[name].string_param = value
    for tensor in inputs.values():
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(to_bytes(tensor))
    return message


def decode_answer(message: Any) -> InferenceAnswer:
    """Read a ModelInferResponse with raw outputs.

    Raises:
        InvalidRequestError: if it breaks the protocol.
    """
    pairs = zip(message.outputs, message.raw_output_contents, strict=True)
    outputs = tuple(from_bytes(item.name, item.datatype, tuple(item.shape), raw) for item, raw in pairs)
    parameters = {name: str(value) for name, value in _values(message.parameters).items()}
    return InferenceAnswer(message.model_name, message.model_version, message.id, outputs, parameters)
