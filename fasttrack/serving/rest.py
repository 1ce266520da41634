"""The HTTP edge: our V2 inference route before the SDK's routes; trace, errors and one log line around all.

The SDK's V2 route parses JSON three times, answers malformed requests with 422 or 500, and V1 ``:explain``
returns the caller's own headers. What is not inference (health, metadata, metrics, V1) stays the SDK's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import orjson
from fastapi import Request
from fastapi.responses import Response
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady

from fasttrack.errors import FastTrackError, InvalidRequestError, NotFoundError, UnavailableError
from fasttrack.serving import rest_codec
from fasttrack.serving.model import ServedModel
from fasttrack.serving.request_log import log_request
from fasttrack.serving.trace import RequestContext, enter

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_LOG: Final = logging.getLogger("fasttrack.serving")
#: Where the handler of errors leaves the message for the log line.
_MESSAGE: Final = "fasttrack.error"
_JSON: Final = (b"content-type", b"application/json")
_BINARY: Final = (b"content-type", b"application/octet-stream")


def translated(error: Exception) -> FastTrackError | None:
    """The error of ours that an error of the SDK stands for; ``None`` for one that nobody foresaw."""
    if isinstance(error, FastTrackError):
        return error
    if isinstance(error, InvalidInput):
        return InvalidRequestError(str(error), fix="Send a body that follows the protocol.")
    if isinstance(error, NotImplementedError):
        return NotFoundError(str(error), fix="Ask without a version, or for the one in the model's metadata.")
    if isinstance(error, ModelNotFound):
        return NotFoundError(str(error), fix="GET /v2/models lists the models.")
    if isinstance(error, ModelNotReady):
        return UnavailableError(str(error), fix="Try again in a few seconds.")
    return None


class Edge:
    """The ASGI application in front of the SDK's.

    Args:
        model: the one model that is served.
        inner: the SDK's application.
        max_body: most bytes of a request's body.
    """

    def __init__(self, model: ServedModel, inner: Application, max_body: int) -> None:
        self._model = model
        self._inner = inner
        self._max_body = max_body
        self._root = f"/v2/models/{model.name}"
        self._infer_path = f"{self._root}/infer"
        self._version = f"{self._root}/versions/{model.package.version}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        started = time.perf_counter()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        context = RequestContext.read(headers)
        enter(context)
        path = scope["path"]
        if path.startswith(self._version):
            # The SDK knows no versions; the one that is served is the model itself.
            scope["path"] = self._root + path.removeprefix(self._version)
        call = self._infer if scope["method"] == "POST" and scope["path"] == self._infer_path else self._pass
        status, message = await call(scope, receive, send, headers)
        log_request(context, "http", f"{scope['method']} {path}", status, started, message)

    async def _infer(self, _: Scope, receive: Receive, send: Send, headers: dict[str, str]) -> tuple[int, str]:
        try:
            if not self._model.ready:
                raise UnavailableError(f"model {self._model.name} is not ready.", fix="Try again in a few seconds.")
            body = await _read(receive, self._max_body)
            length = headers.get(rest_codec.JSON_LENGTH_HEADER)
            call = rest_codec.decode(body, length, nullable=self._model.nullable)
            answer = await self._model.infer(call)
            content, json_length = rest_codec.encode(answer, call)
        except Exception as error:
            return await _refuse(send, error)
        extra = (
            [_JSON] if json_length is None else [_BINARY, (rest_codec.JSON_LENGTH_HEADER.encode(), b"%d" % json_length)]
        )
        await _respond(send, 200, content, extra)
        return 200, ""

    async def _pass(self, scope: Scope, receive: Receive, send: Send, _: dict[str, str]) -> tuple[int, str]:
        status = 0

        async def remember(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._inner(scope, _limited(receive, self._max_body), remember)
        except Exception as error:
            if status == 0:
                return await _refuse(send, error)
            _LOG.exception("the response broke off")
            return status, str(error)
        return status, scope.get(_MESSAGE, "")


def _limited(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def counted() -> MutableMapping[str, Any]:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> InvalidRequestError:
    error = InvalidRequestError(f"the body has more than {limit} bytes.", fix="Send smaller batches.")
    error.status = 413
    return error


async def _read(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    counted = _limited(receive, limit)
    while True:
        message = await counted()
        if message["type"] == "http.disconnect":
            raise InvalidRequestError("the client went away before the end of the body.", fix="Send the whole body.")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _respond(send: Send, status: int, content: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers = [*headers, (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def problem(error: Exception) -> tuple[int, str]:
    """HTTP status and message of an error; what nobody foresaw is logged, and told to nobody."""
    known = translated(error)
    if known is None:
        _LOG.error("unexpected error", exc_info=error)
        return 500, "Internal error; the server's log has it under this request's trace id."
    return known.status, str(known)


async def _refuse(send: Send, error: Exception) -> tuple[int, str]:
    status, message = problem(error)
    await _respond(send, status, orjson.dumps({"error": message}), [_JSON])
    return status, message


async def handle(request: Request, error: Exception) -> Response:
    """The SDK application's handler of errors, ours and its own, in place of the SDK's."""
    status, message = problem(error)
    request.scope[_MESSAGE] = message
    return Response(orjson.dumps({"error": message}), status, media_type="application/json")
