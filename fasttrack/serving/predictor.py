"""The predictor: encoded tensors in, probability, value and interval out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from fasttrack.errors import ConflictError, InvalidRequestError
from fasttrack.models import Batch
from fasttrack.models.inference import Predictor
from fasttrack.serving.flags import ServerOptions
from fasttrack.serving.micro_batch import MicroBatcher
from fasttrack.serving.model import ServedModel
from fasttrack.serving.package import ServedPackage
from fasttrack.serving.tensors import Array, InferenceCall, Tensor
from fasttrack.serving.trace import current


class Model:
    """The loaded model of a verified package; belongs to one event loop.

    Args:
        package: the package.
        threads: of one forward pass.
    """

    def __init__(self, package: ServedPackage, threads: int) -> None:
        torch.set_num_threads(threads)
        self._batcher = MicroBatcher(Predictor.from_files(package.files).predict)

    async def predict(self, batch: Batch) -> dict[str, Array]:
        """The outputs by name, float32 [B] each, of B encoded rows."""
        found = await self._batcher.predict(batch)
        return {
            "probability": found.probability,
            "value": found.value,
            "lower": found.lower,
            "upper": found.upper,
        }


class PredictorModel(ServedModel):
    """Serves the model of a verified package (see `ServedModel`)."""

    def __init__(self, options: ServerOptions, package: ServedPackage) -> None:
        super().__init__(options.model_name, package, options.max_batch)
        self._model = Model(package, options.threads)
        self._cardinalities = np.array(package.encoder.cardinalities)
        self.ready = True

    async def answer(self, call: InferenceCall) -> tuple[tuple[Tensor, ...], Mapping[str, str]]:
        """Check the tensors and predict.

        Raises:
            InvalidRequestError: the tensors don't fit the signature.
            ConflictError: the caller encoded for another package.
            DeadlineError: the caller's deadline has passed.
        """
        wanted = call.parameters.get("digest")
        if wanted is not None and wanted != self.package.digest:
            # A transformer of another package would send tensors of the right shape and the wrong meaning.
            raise ConflictError(
                f"the tensors were encoded for package {wanted}, and this is {self.package.digest}.",
                where=self.name,
                fix="Deploy transformer and predictor with the same package.",
            )
        batch = self._batch(self.package.signature.check(call, self.max_batch))
        current().check()
        return self.package.signature.choose(await self._model.predict(batch), call), {}

    def _batch(self, arrays: Mapping[str, Array]) -> Batch:
        batch = Batch(arrays["numeric"], arrays["categorical"], arrays.get("sequence"), arrays.get("length"))
        codes = batch.categorical
        if codes.size and (codes.min() < 0 or (codes >= self._cardinalities).any()):
            raise InvalidRequestError(
                "a code is out of range.",
                where="input 'categorical'",
                fix=f"Codes go from 0 (unknown) to {[int(c) - 1 for c in self._cardinalities]}, by column.",
            )
        if batch.sequence is not None and batch.length is not None:
            longest = batch.sequence.shape[1]
            if batch.length.min() < 0 or batch.length.max() > longest:
                raise InvalidRequestError(
                    "a length is out of range.", where="input 'length'", fix=f"From 0 to {longest}."
                )
        return batch


def build(options: ServerOptions, package: ServedPackage) -> PredictorModel:
    """The predictor of a verified package."""
    return PredictorModel(options, package)
