"""The predictor: encoded tensors in, probability, value and interval out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import numpy as np

from fasttrack.errors import ConflictError, InvalidRequestError
from fasttrack.models import Batch
from fasttrack.models.inference import Prediction, Predictor
from fasttrack.serving.flags import ServerOptions
from fasttrack.serving.model import ServedModel
from fasttrack.serving.package import ServedPackage
from fasttrack.serving.tensors import Array, InferenceCall, Tensor
from fasttrack.serving.trace import current

#: A forward pass of so many rows takes about a millisecond; handing it to a thread costs a tenth of that.
_DIRECT_ROWS: Final = 256


class PredictorModel(ServedModel):
    """Serves the model of a verified package (see `ServedModel`)."""

    def __init__(self, name: str, package: ServedPackage, max_batch: int) -> None:
        super().__init__(name, package, max_batch)
        self._predictor = Predictor.from_files(package.files)
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
        if len(batch) <= _DIRECT_ROWS:
            prediction = self._predictor.predict(batch)
        else:
            prediction = await asyncio.to_thread(self._predictor.predict, batch)
        return self.package.signature.choose(_outputs(prediction), call), {}

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


def _outputs(prediction: Prediction) -> dict[str, Array]:
    return {
        "probability": np.asarray(prediction.probability, np.float32),
        "value": np.asarray(prediction.value, np.float32),
        "lower": np.asarray(prediction.lower, np.float32),
        "upper": np.asarray(prediction.upper, np.float32),
    }


def build(options: ServerOptions, package: ServedPackage) -> PredictorModel:
    """The predictor of a verified package."""
    import torch

    torch.set_num_threads(options.threads)
    return PredictorModel(options.model_name, package, options.max_batch)
