"""The transformer: entity keys, events or raw features in, the predictor's outputs out.

Loads no torch, unless the predictor is to be in its own process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fasttrack import usecase as usecases
from fasttrack.serving.flags import ServerOptions
from fasttrack.serving.model import ServedModel
from fasttrack.serving.online import FeatureRows, Store, open_store
from fasttrack.serving.package import ServedPackage
from fasttrack.serving.predicting import Predicting, chosen
from fasttrack.serving.rows import RawReader
from fasttrack.serving.tensors import InferenceCall, Tensor
from fasttrack.serving.trace import current
from fasttrack.serving.unusual import UnusualRows

_DATATYPES = {"numeric": "FP32", "category": "BYTES", "sequence": "FP32"}


class TransformerModel(ServedModel):
    """Looks features up, encodes them with the package's encoder, asks the predictor (see `ServedModel`).

    Args:
        options: the flags.
        package: the same package that the predictor serves.
        store: the online store.
        predictor: who predicts the encoded rows.
        unusual: judges the encoded rows.
    """

    nullable = True

    def __init__(
        self,
        options: ServerOptions,
        package: ServedPackage,
        store: Store | None,
        predictor: Predicting,
        unusual: UnusualRows,
    ) -> None:
        super().__init__(options.model_name, package, options.max_batch)
        self._reader = RawReader(package.signature, options.max_batch)
        self._rows = FeatureRows(package.encoder, store)
        self._predictor = predictor
        self._unusual = unusual

    async def open(self) -> None:
        """Connect to the predictor, lazily: it may start later than we do."""
        await self._predictor.open()
        self.ready = True

    async def close(self) -> None:
        """Close the connection."""
        await self._predictor.close()

    async def answer(self, call: InferenceCall) -> tuple[tuple[Tensor, ...], Mapping[str, str]]:
        """Predict.

        Raises:
            InvalidRequestError: the request doesn't fit the signature, or has rows that the use case refuses.
            NotFoundError: an entity is unknown.
            UnavailableError: the store or the predictor doesn't answer.
            DeadlineError: not in time.
        """
        columns, as_of = await self._rows.columns(self._reader.tensors(call))
        batch = self._rows.encode(columns)
        noted = self._unusual.judge(batch)
        current().check()
        outputs, parameters = await self._predictor.predict(batch, call.id)
        wanted = self.package.signature.choose(outputs, call)
        return wanted, {**parameters, **noted, **({"as_of": as_of} if as_of else {})}

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
    usecase = usecases.load(options.usecase) if options.usecase else None
    unusual = UnusualRows(package, usecase)
    return TransformerModel(options, package, open_store(usecase), chosen(options, package), unusual)
