"""The model's signature: which tensors it takes and gives, checked once a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from fasttrack.errors import IntegrityError, InvalidRequestError
from fasttrack.serving.tensors import Array, InferenceCall, Tensor


@dataclass(frozen=True)
class TensorSpec:
    """Name, V2 datatype and shape of a tensor; -1 is the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As the metadata endpoint shows it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {list(self.shape)}"


@dataclass(frozen=True)
class Feature:
    """A raw feature as the signature describes it: its role, and whether it may be missing."""

    name: str
    role: str
    nullable: bool


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives.

    Attributes:
        inputs: tensors of the predictor.
        outputs: tensors that it answers with.
        features: the raw features behind the inputs.
        entity: name of the entity that predictions are about.
        keys: the fields that identify it.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    features: tuple[Feature, ...]
    entity: str
    keys: tuple[str, ...]

    @classmethod
    def parse(cls, document: bytes) -> Signature:
        """Read signature.json.

        Raises:
            IntegrityError: if it is not what a package of this version holds.
        """
        try:
            found = orjson.loads(document)
            inputs, outputs = (
                [TensorSpec(t["name"], t["datatype"], tuple(t["shape"])) for t in found[k]]
                for k in ("inputs", "outputs")
            )
            features = tuple(Feature(f["name"], f["role"], bool(f["nullable"])) for f in found["features"])
            return cls(tuple(inputs), tuple(outputs), features, found["entity"]["name"], tuple(found["entity"]["keys"]))
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"it can't be read ({error!r}).",
                where="signature.json",
                fix="Publish the package again with this version of FastTrack.",
            ) from error

    def check(self, call: InferenceCall, max_batch: int) -> dict[str, Array]:
        """The arrays of a call, in the order of the signature.

        Raises:
            InvalidRequestError: a tensor is unknown, missing, of another datatype or shape, or holds NaN or infinity;
                the batch sizes differ, or the batch is empty or larger than `max_batch`.
        """
        unknown = sorted(call.inputs.keys() - {spec.name for spec in self.inputs})
        if unknown:
            raise InvalidRequestError("there is no such input.", where=f"input {unknown[0]!r}", fix=self._takes())
        arrays = {spec.name: self._checked(spec, call.inputs.get(spec.name)) for spec in self.inputs}
        batch_size(arrays, max_batch)
        return arrays

    def _takes(self) -> str:
        return f"The model takes: {'; '.join(map(str, self.inputs))}."

    def _checked(self, spec: TensorSpec, tensor: Tensor | None) -> Array:
        if tensor is None:
            raise InvalidRequestError("it is missing.", where=f"input {spec.name!r}", fix=self._takes())
        if tensor.datatype != spec.datatype:
            raise InvalidRequestError(
                f"its datatype is {tensor.datatype}, not {spec.datatype}.",
                where=f"input {spec.name!r}",
                fix=self._takes(),
            )
        same_rank = len(tensor.shape) == len(spec.shape)
        if not same_rank or any(want not in (-1, got) for want, got in zip(spec.shape, tensor.shape, strict=True)):
            raise InvalidRequestError(
                f"its shape is {list(tensor.shape)}, not {list(spec.shape)}.",
                where=f"input {spec.name!r}",
                fix=self._takes(),
            )
        if tensor.array.dtype.kind == "f" and not np.isfinite(tensor.array).all():
            raise InvalidRequestError(
                "it holds NaN or infinity.", where=f"input {spec.name!r}", fix="Send finite numbers only."
            )
        return tensor.array

    def choose(self, outputs: Mapping[str, Array], call: InferenceCall) -> tuple[Tensor, ...]:
        """The output tensors that the call wants.

        Raises:
            InvalidRequestError: it wants one that the model doesn't give.
        """
        specs = {spec.name: spec for spec in self.outputs}
        names = [wanted.name for wanted in call.outputs] or list(specs)
        for name in names:
            if name not in specs:
                raise InvalidRequestError(
                    "there is no such output.", where=f"output {name!r}", fix=f"The model gives: {', '.join(specs)}."
                )
        return tuple(Tensor(name, specs[name].datatype, outputs[name]) for name in names)


def batch_size(arrays: Mapping[str, Array], max_batch: int) -> int:
    """The number of rows, the same in all arrays.

    Raises:
        InvalidRequestError: the arrays differ, or there are no rows, or more than `max_batch`.
    """
    sizes = {name: (len(array) if array.ndim else 0) for name, array in arrays.items()}
    rows = next(iter(sizes.values()), 0)
    if any(size != rows for size in sizes.values()):
        raise InvalidRequestError(
            f"the inputs have different numbers of rows: {sizes}.", fix="Send the same number in each."
        )
    if not 1 <= rows <= max_batch:
        raise InvalidRequestError(
            f"the batch has {rows} rows.", where="inputs", fix=f"Send 1 to {max_batch} rows a request."
        )
    return rows
