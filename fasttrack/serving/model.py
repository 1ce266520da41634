"""The base of our KServe models: tensors in, tensors out, the same for REST and gRPC."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from kserve.metrics import PREDICT_HIST_TIME
from kserve.model import Model

from fasttrack.errors import InvalidRequestError
from fasttrack.serving.package import ServedPackage
from fasttrack.serving.tensors import InferenceAnswer, InferenceCall, Tensor
from fasttrack.serving.trace import current


class ServedModel(Model):  # type: ignore[misc]  # the SDK has no types
    """A model of a verified package.

    The REST and gRPC edges call `infer`; the SDK's own path through ``__call__`` is only taken by V1, whose
    ``:predict`` is refused. A model that isn't ready answers 503.

    Args:
        name: name in URLs.
        package: the verified package.
        max_batch: most rows a request.
    """

    #: Whether V2 JSON may hold nulls (a missing raw feature).
    nullable = False

    def __init__(self, name: str, package: ServedPackage, max_batch: int) -> None:
        super().__init__(name)
        self.package = package
        self.max_batch = max_batch
        self._origin = package.parameters()
        self._timer = PREDICT_HIST_TIME.labels(model_name=name)

    async def infer(self, call: InferenceCall) -> InferenceAnswer:
        """Answer a V2 request; counted in the SDK's ``request_predict_seconds``.

        Raises:
            FastTrackError: of the kind that says whose fault it is.
        """
        started = time.perf_counter()
        try:
            outputs, parameters = await self.answer(call)
        finally:
            self._timer.observe(time.perf_counter() - started)
        # The SDK's response model fails without an id, and clients may leave it out.
        identity = call.id or current().span_id
        parameters = {**self._origin, **parameters}
        return InferenceAnswer(self.name, self.package.version, identity, outputs, parameters)

    @abstractmethod
    async def answer(self, call: InferenceCall) -> tuple[tuple[Tensor, ...], Mapping[str, str]]:
        """Outputs and further response parameters of a request."""

    async def open(self) -> None:
        """Prepare on the running event loop, before the ports are served."""

    async def close(self) -> None:
        """Release what `open` took, after the last request."""

    def get_input_types(self) -> list[dict[str, Any]]:
        """The inputs, for the metadata endpoint."""
        return [spec.to_json() for spec in self.package.signature.inputs]

    def get_output_types(self) -> list[dict[str, Any]]:
        """The outputs, for the metadata endpoint."""
        return [spec.to_json() for spec in self.package.signature.outputs]

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """V1 prediction, which has no typed tensors: refused."""
        raise InvalidRequestError(
            "predictions are made by the V2 protocol only.", where=self.name, fix=f"POST /v2/models/{self.name}/infer."
        )

    async def explain(self, payload: Any, headers: Any = None) -> Any:
        """V1 explanation: refused here, answered by the explainer."""
        raise InvalidRequestError(
            "this server doesn't explain.", where=self.name, fix="Ask the explainer: POST /v1/models/<name>:explain."
        )
