"""The gRPC edge: the SDK's service with our codec, errors as statuses, and one log line a call."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
from kserve.protocol.grpc.servicer import InferenceServicer

from fasttrack.errors import ConfigurationError, NotFoundError, UnavailableError
from fasttrack.serving import grpc_codec
from fasttrack.serving.model import ServedModel
from fasttrack.serving.request_log import log_request
from fasttrack.serving.rest import problem
from fasttrack.serving.trace import RequestContext, enter
from fasttrack.tls import Loaded, ServerTls

_STATUS: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Servicer(InferenceServicer):  # type: ignore[misc]  # the SDK has no types
    """The Open Inference service over one model."""

    def __init__(self, model: ServedModel, dataplane: Any, repository: Any) -> None:
        super().__init__(dataplane, repository)
        self._model = model

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Infer.

        Raises:
            FastTrackError: turned into a status by `Statuses`.
        """
        if request.model_name != self._model.name:
            raise NotFoundError(
                f"model {request.model_name!r} is not served here.", fix=f"There is {self._model.name!r}."
            )
        if not self._model.ready:
            raise UnavailableError(f"model {self._model.name} is not ready.", fix="Try again in a few seconds.")
        call = grpc_codec.decode(request)
        return grpc_codec.encode(await self._model.infer(call), call)


class Statuses(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Sets the request's context, turns errors into statuses, and logs."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Wrap the handler of a call (gRPC's protocol)."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        inner, method = handler.unary_unary, details.method

        async def wrapped(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            metadata = {item[0]: item[1] for item in context.invocation_metadata() if isinstance(item[1], str)}
            trace = RequestContext.read(metadata, context.time_remaining())
            enter(trace)
            try:
                answer = await inner(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                status, message = problem(error)
                code = _STATUS.get(status, grpc.StatusCode.INTERNAL)
                log_request(trace, "grpc", method, code.name, started, message)
                await context.abort(code, message)
            log_request(trace, "grpc", method, "OK", started)
            return answer

        return grpc.unary_unary_rpc_method_handler(wrapped, handler.request_deserializer, handler.response_serializer)


def build(
    servicer: Servicer,
    register: Callable[[Any, Any], None],
    address: str,
    max_message: int,
    tls: ServerTls | None = None,
) -> Any:
    """A gRPC server bound to `address`, not yet started.

    Args:
        servicer: the service.
        register: the generated function that adds it to a server.
        address: ``host:port``.
        max_message: most bytes of a message, both ways.
        tls: None: plain text.

    Raises:
        ConfigurationError: if the address can't be bound.
    """
    options = [
        ("grpc.max_receive_message_length", max_message),
        ("grpc.max_send_message_length", max_message),
        # Two servers on one port would each get half of the calls, without a word.
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(interceptors=(Statuses(),), options=options)
    register(servicer, server)
    try:
        bound = server.add_secure_port(address, _credentials(tls)) if tls else server.add_insecure_port(address)
    except RuntimeError as error:
        raise _taken(address) from error
    if bound == 0:
        raise _taken(address)
    return server


def _credentials(tls: ServerTls) -> Any:
    """Asked for each new connection, so that it uses the files as they stand then."""
    given = tls.current()

    def renewed() -> Any:
        nonlocal given
        loaded = tls.current()
        if loaded is given:
            return None  # no change
        given = loaded
        return _configuration(loaded)

    return grpc.dynamic_ssl_server_credentials(_configuration(given), renewed, tls.demands)


def _configuration(loaded: Loaded) -> Any:
    return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.certificate)], loaded.ca)


def _taken(address: str) -> ConfigurationError:
    return ConfigurationError(
        "the address can't be listened on; another process has the port, or the host is not this machine's.",
        where=address,
        fix="Choose another --grpc_port or --host, or stop that process.",
    )
