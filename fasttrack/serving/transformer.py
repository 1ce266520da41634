"""The transformer: entity keys, events or raw features in, the predictor's outputs out. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fasttrack.models import Batch
from fasttrack.serving import upstream
from fasttrack.serving.flags import ServerOptions
from fasttrack.serving.model import ServedModel
from fasttrack.serving.online import FeatureRows, Store, open_store
from fasttrack.serving.package import ServedPackage
from fasttrack.serving.rows import RawReader
from fasttrack.serving.tensors import InferenceCall, Tensor
from fasttrack.serving.trace import current
from fasttrack.settings import Settings
from fasttrack.tls import ClientTls

_DATATYPES = {"numeric": "FP32", "category": "BYTES", "sequence": "FP32"}


class TransformerModel(ServedModel):
    """Looks features up, encodes them with the package's encoder, asks the predictor (see `ServedModel`).

    Args:
        options: the flags.
        package: the same package that the predictor serves; the predictor refuses another.
        store: the online store.
        tls: whom to trust as the predictor, and who we are to it; None: plain text.
    """

    nullable = True

    def __init__(
        self, options: ServerOptions, package: ServedPackage, store: Store | None, tls: ClientTls | None = None
    ) -> None:
        super().__init__(options.model_name, package, options.max_batch)
        self._options = options
        self._reader = RawReader(package.signature, options.max_batch)
        self._rows = FeatureRows(package.encoder, store)
        self._tls = tls
        self._client: upstream.PredictorClient | None = None

    async def open(self) -> None:
        """Connect to the predictor, lazily: it may start later than we do."""
        options = self._options
        self._client = upstream.connect(
            options.predictor_protocol, options.predictor_host, options.model_name, options.predictor_timeout, self._tls
        )
        self.ready = True

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()

    async def answer(self, call: InferenceCall) -> tuple[tuple[Tensor, ...], Mapping[str, str]]:
        """Predict.

        Raises:
            InvalidRequestError: the request doesn't fit the signature.
            NotFoundError: an entity is unknown.
            UnavailableError: the store or the predictor doesn't answer.
            DeadlineError: not in time.
        """
        if self._client is None:
            raise RuntimeError("open() was not called")
        columns, as_of = await self._rows.columns(self._reader.tensors(call))
        batch = self._rows.encode(columns)
        current().check()
        answer = await self._client.infer(self._tensors(batch), call.id, {"digest": self.package.digest})
        outputs = {tensor.name: tensor.array for tensor in answer.outputs}
        chosen = self.package.signature.choose(outputs, call)
        return chosen, {**answer.parameters, **({"as_of": as_of} if as_of else {})}

    def _tensors(self, batch: Batch) -> dict[str, Tensor]:
        arrays = batch.tensors()
        return {s.name: Tensor(s.name, s.datatype, arrays[s.name]) for s in self.package.signature.inputs}

    def get_input_types(self) -> list[dict[str, Any]]:
        """What may be sent: the entity's keys, or instead of them any of the features, or (not shown) `rows.EVENT`."""
        signature, sequence = self.package.signature, self.package.encoder.sequence
        keys = [{"name": key, "datatype": "BYTES", "shape": [-1]} for key in signature.keys]
        features = []
        for feature in signature.features:
            shape = [-1, sequence.length, len(sequence.channels)] if feature.role == "sequence" and sequence else [-1]
            features.append({"name": feature.name, "datatype": _DATATYPES[feature.role], "shape": shape})
        return [*keys, *features]


def build(options: ServerOptions, package: ServedPackage) -> TransformerModel:
    """The transformer of a verified package.

    Raises:
        FastTrackError: the use case, its online store or the settings for TLS can't be used.
    """
    tls = ClientTls.from_settings(Settings.from_environment()) if options.predictor_use_ssl else None
    return TransformerModel(options, package, open_store(options.usecase), tls)
