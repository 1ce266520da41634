"""The transformer's calls to the predictor, over one kept connection, with trace and deadline."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

import orjson

from fasttrack.errors import (
    ConflictError,
    DeadlineError,
    FastTrackError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from fasttrack.http_link import HttpLink, TlsError
from fasttrack.serving import rest_codec
from fasttrack.serving.tensors import InferenceAnswer, Tensor, from_bytes, to_bytes
from fasttrack.serving.trace import current
from fasttrack.tls import ClientTls

_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_MAX_MESSAGE: Final = 64 * 2**20
_IDLE_SECONDS: Final = 30.0
_VERIFICATION: Final = re.compile(r"CERTIFICATE_VERIFY_FAILED: ([^:]+)")
_ERRORS: Final[Mapping[int, type[FastTrackError]]] = {400: InvalidRequestError, 404: NotFoundError, 409: ConflictError}


class PredictorClient(Protocol):
    """Sends encoded tensors to the predictor."""

    async def infer(
        self, inputs: Mapping[str, Tensor], identity: str, parameters: Mapping[str, str]
    ) -> InferenceAnswer:
        """The predictor's answer; errors are the predictor's own, UnavailableError or DeadlineError."""

    async def close(self) -> None:
        """Close the connection."""


def connect(protocol: str, host: str, model_name: str, timeout: float, tls: ClientTls | None = None) -> PredictorClient:
    """A client on the running event loop.

    Args:
        protocol: ``grpc-v2`` or ``v2`` (REST with binary tensors).
        host: ``host:port``.
        model_name: name of the model at the predictor.
        timeout: seconds to wait where the caller sets no deadline.
        tls: whom to trust, and who we are; None: plain text.
    """
    kind = GrpcClient if protocol == "grpc-v2" else RestClient
    return kind(host, model_name, timeout, tls)


def _failure(status: int, message: str, host: str) -> FastTrackError:
    kind = _ERRORS.get(status)
    if kind is not None:
        return kind(message)
    if status == 504:
        return DeadlineError("the predictor did not answer in time.", where=host, fix="Try again, or allow more time.")
    return UnavailableError(f"the predictor failed: {message}", where=host, fix="Look into its log for this trace id.")


def _untrusted(why: str, host: str) -> UnavailableError:
    fix = "Renew its certificate, or correct FASTTRACK_TLS_CA, --predictor_host and --predictor_use_ssl."
    return UnavailableError(f"the predictor is not trusted: {why}", where=host, fix=fix)


def _distrust(details: str) -> str | None:
    """Why gRPC found no connection that can be trusted: it has no status for that, only words."""
    if (found := _VERIFICATION.search(details)) is not None:
        return f"its certificate is not accepted: {found[1]}."
    if "Hostname Verification Check failed" in details:
        return "its certificate is not accepted: it is for another host."
    return "no TLS with it." if "handshake failed" in details else None


class GrpcClient:
    """Over gRPC, without the SDK's client, which converts each tensor twice."""

    def __init__(self, host: str, model_name: str, timeout: float, tls: ClientTls | None) -> None:
        import grpc

        codes = grpc.StatusCode
        self._status = {
            codes.INVALID_ARGUMENT: 400,
            codes.NOT_FOUND: 404,
            codes.FAILED_PRECONDITION: 409,
            codes.DEADLINE_EXCEEDED: 504,
        }
        self._error = grpc.aio.AioRpcError
        self._host, self._model_name, self._timeout, self._tls = host, model_name, timeout, tls
        limits = [("grpc.max_send_message_length", _MAX_MESSAGE), ("grpc.max_receive_message_length", _MAX_MESSAGE)]
        # A predictor that was restarted is found again within a second, not after gRPC's 20 s to 2 min.
        backoff = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
        # By default gRPC sends every call to the first of several replicas.
        balanced = [("grpc.lb_policy_name", "round_robin")]
        self._options = [*limits, *backoff, *balanced]
        self._loaded = tls.current() if tls else None
        self._left: set[asyncio.Task[None]] = set()
        self._open()

    def _open(self) -> None:
        import grpc
        from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

        if (loaded := self._loaded) is None:
            self._channel = grpc.aio.insecure_channel(self._host, options=self._options)
        else:
            credentials = grpc.ssl_channel_credentials(loaded.ca, loaded.key, loaded.certificate)
            self._channel = grpc.aio.secure_channel(self._host, credentials, options=self._options)
        self._infer: Any = self._channel.unary_unary(
            _METHOD, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString
        )

    def _renew(self) -> None:
        """Leave a channel whose files were renewed, as it shows the old ones for ever; what is asked there ends."""
        if self._tls is None or (loaded := self._tls.current()) is self._loaded:
            return
        left = asyncio.get_running_loop().create_task(self._channel.close(self._timeout))
        self._left.add(left)
        left.add_done_callback(self._left.discard)
        self._loaded = loaded
        self._open()

    async def infer(
        self, inputs: Mapping[str, Tensor], identity: str, parameters: Mapping[str, str]
    ) -> InferenceAnswer:
        """See `PredictorClient`."""
        from fasttrack.serving import grpc_codec

        context = current()
        left = context.remaining()
        message = grpc_codec.encode_call(self._model_name, inputs, identity, parameters)
        self._renew()
        try:
            found = await self._infer(
                message, timeout=self._timeout if left is None else left, metadata=tuple(context.outgoing().items())
            )
        except self._error as error:
            text = error.details() or error.code().name
            if self._tls and (why := _distrust(text)):
                raise _untrusted(why, self._host) from error
            raise _failure(self._status.get(error.code(), 503), text, self._host) from error
        try:
            return grpc_codec.decode_answer(found)
        except (ValueError, InvalidRequestError) as error:
            raise _failure(502, f"its answer breaks the protocol ({error!r})", self._host) from error

    async def close(self) -> None:
        """See `PredictorClient`."""
        await asyncio.gather(self._channel.close(), *self._left)


class RestClient:
    """Over HTTP with binary tensors."""

    def __init__(self, host: str, model_name: str, timeout: float, tls: ClientTls | None) -> None:
        self._host, self._timeout = host, timeout
        self._path = f"/v2/models/{model_name}/infer"
        # Shorter than the servers' keep-alive, so that no request meets a connection that is being closed.
        base = f"http{'s' if tls else ''}://{host}"
        self._link = HttpLink(base, idle_seconds=_IDLE_SECONDS, connect_seconds=math.inf, tls=tls)

    async def infer(
        self, inputs: Mapping[str, Tensor], identity: str, parameters: Mapping[str, str]
    ) -> InferenceAnswer:
        """See `PredictorClient`."""
        context = current()
        left = context.remaining()
        body, length = _request(inputs, identity, parameters)
        headers = {
            **context.outgoing(),
            rest_codec.JSON_LENGTH_HEADER: str(length),
            "content-type": "application/octet-stream",
        }
        try:
            response = await self._link.exchange(self._path, body, headers, self._timeout if left is None else left)
            content = response.body
            split = int(response.headers.get(rest_codec.JSON_LENGTH_HEADER, len(content)))
            document = orjson.loads(memoryview(content)[:split])
        except TimeoutError as error:
            raise _failure(504, "", self._host) from error
        except TlsError as error:
            raise _untrusted(str(error), self._host) from error
        except (OSError, ValueError) as error:
            raise _failure(503, str(error) or type(error).__name__, self._host) from error
        if response.status != 200:
            text = str(document.get("error") if isinstance(document, dict) else document)
            raise _failure(response.status, text, self._host)
        try:
            return _answer(document, memoryview(content)[split:])
        except (KeyError, TypeError, InvalidRequestError) as error:
            raise _failure(502, f"its answer breaks the protocol ({error!r})", self._host) from error

    async def close(self) -> None:
        """See `PredictorClient`."""
        await self._link.close()


def _request(inputs: Mapping[str, Tensor], identity: str, parameters: Mapping[str, str]) -> tuple[bytes, int]:
    raw = [to_bytes(tensor) for tensor in inputs.values()]
    listed = [
        {"name": t.name, "datatype": t.datatype, "shape": t.shape, "parameters": {"binary_data_size": len(part)}}
        for t, part in zip(inputs.values(), raw, strict=True)
    ]
    document = {"id": identity, "parameters": {**parameters, "binary_data_output": True}, "inputs": listed}
    head = orjson.dumps(document)
    return b"".join([head, *raw]), len(head)


def _answer(document: dict[str, Any], tail: memoryview) -> InferenceAnswer:
    outputs, offset = [], 0
    for item in document["outputs"]:
        size = item["parameters"]["binary_data_size"]
        outputs.append(from_bytes(item["name"], item["datatype"], item["shape"], tail[offset : offset + size]))
        offset += size
    return InferenceAnswer(
        document["model_name"], document["model_version"], document["id"], tuple(outputs), document["parameters"]
    )
