"""The process: the KServe SDK's model server with our edges, address, logs and way to stop.

Of the SDK stay the model registry, health, metadata and metrics routes, V1, and the gRPC service. Its start is
replaced, because it binds 0.0.0.0, lets anybody unload the model, and logs three lines a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from typing import Any, Final

from kserve.errors import InferenceError, InvalidInput, ModelNotFound, ModelNotReady
from kserve.model_server import ModelServer, app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer

from fasttrack.errors import AuthorizationError, ConfigurationError, FastTrackError
from fasttrack.serving import grpc_edge
from fasttrack.serving.flags import ServerOptions
from fasttrack.serving.model import ServedModel
from fasttrack.serving.rest import Edge, handle
from fasttrack.tls import ServerTls

_LOG: Final = logging.getLogger("fasttrack.serving")
_HANDLED: Final = (FastTrackError, InvalidInput, InferenceError, ModelNotFound, ModelNotReady, NotImplementedError)


class _DataPlane(DataPlane):  # type: ignore[misc]  # the SDK has no types
    """The SDK's data plane, with versions in the metadata and without the caller's headers in explanations."""

    def __init__(self, model_registry: Any, served: ServedModel) -> None:
        super().__init__(model_registry=model_registry)
        self._served = served

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        metadata: dict[str, Any] = await super().model_metadata(model_name)
        return {**metadata, "platform": "fasttrack", "versions": [self._served.package.version]}

    async def ready(self) -> bool:
        return bool(self._served.ready)

    async def explain(self, model_name: str, request: Any, headers: Any = None) -> tuple[Any, dict[str, str]]:
        # The SDK answers with the request's headers, authorization and transfer-encoding included.
        response, _ = await super().explain(model_name, request, dict(headers or {}))
        return response, {}


class _FrozenRepository(ModelRepositoryExtension):  # type: ignore[misc]  # the SDK has no types
    """Refuses to load or unload models over the network, which the SDK lets anybody do."""

    async def load(self, model_name: str) -> None:
        raise AuthorizationError(
            "models are not loaded over the network.", where=model_name, fix="Deploy another version."
        )

    async def unload(self, model_name: str) -> None:
        raise AuthorizationError("models are not unloaded over the network.", where=model_name, fix="Stop the server.")


class _Rest(RESTServer):  # type: ignore[misc]  # the SDK has no types
    def _add_middlewares(self, app: Any) -> None:
        """None: the SDK's only logs timings."""

    def _add_exception_handlers(self, app: Any) -> None:
        super()._add_exception_handlers(app)
        for kind in _HANDLED:
            app.add_exception_handler(kind, handle)
        app.add_exception_handler(Exception, handle)


class Server(ModelServer):  # type: ignore[misc]  # the SDK has no types
    """Serves one model over REST and gRPC until SIGTERM or SIGINT, then lets requests in flight finish.

    Args:
        options: the flags.
        model: the model; while it isn't ``ready``, readiness and inference answer 503.
        tls: for both; None: plain text.
    """

    def __init__(self, options: ServerOptions, model: ServedModel, tls: ServerTls | None = None) -> None:
        super().__init__(http_port=options.http_port, grpc_port=options.grpc_port, workers=1)
        self._options = options
        self._model = model
        self._tls = tls
        self.dataplane = _DataPlane(self.registered_models, model)
        self.model_repository_extension = _FrozenRepository(self.registered_models)
        self.register_model(model)

    def serve(self) -> None:
        """Run until stopped.

        Raises:
            ConfigurationError: if a port can't be listened on.
        """
        listener = _listen(self._options.host, self._options.http_port)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._run(listener))

    async def _run(self, listener: socket.socket) -> None:
        options, stop = self._options, asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self._model.open()
        http = self._http_server()
        # What is loaded now stays: to look through torch's million objects again would take a fifth of a second. What a
        # request makes holds hardly any cycles.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        calls = self._grpc_server_on(f"{options.host}:{options.grpc_port}") if options.grpc_port else None
        if calls is not None:
            await calls.start()
        serving = asyncio.create_task(http.serve(sockets=[listener]))
        _LOG.info(
            "%s serves %s on %s:%d, gRPC %d%s",
            options.role,
            self._model.name,
            options.host,
            options.http_port,
            options.grpc_port,
            ", by TLS" if self._tls else "",
        )
        await asyncio.wait([serving, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        http.should_exit = True
        stopping = [serving] if calls is None else [serving, asyncio.ensure_future(calls.stop(options.grace))]
        await asyncio.gather(*stopping)
        await self._model.close()
        _LOG.info("%s stopped", options.role)

    def _http_server(self) -> Any:
        rest = _Rest(
            "kserve.model_server:app",
            self.dataplane,
            self.model_repository_extension,
            self._options.http_port,
            grace_period=self._options.grace,
        )
        rest.create_application()
        rest.config.app = Edge(self._model, app, self._options.max_body)
        rest.config.http = "httptools"
        # The caller's address is shown nowhere, so nobody need say another one.
        rest.config.proxy_headers = False
        if (tls := self._tls) is not None:
            rest.config.ssl_context_factory = lambda *_: tls.listener()
        server = rest._server
        # The loop's own handlers stop REST and gRPC together; uvicorn's would raise the signal again at the end.
        server.capture_signals = contextlib.nullcontext
        return server

    def _grpc_server_on(self, address: str) -> Any:
        servicer = grpc_edge.Servicer(self._model, self.dataplane, self.model_repository_extension)
        register, limit = add_GRPCInferenceServiceServicer_to_server, self._options.max_body
        return grpc_edge.build(servicer, register, address, limit, self._tls)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise ConfigurationError(
            f"it can't be listened on: {error.strerror}.",
            where=f"{host}:{port}",
            fix="Choose another --http_port or --host, or stop the process that has it.",
        ) from error
