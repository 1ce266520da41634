"""Requests in raw form: entity keys, or feature values, as tensors (V2) or JSON instances (V1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from fasttrack.errors import InvalidRequestError
from fasttrack.serving.signature import Signature, batch_size
from fasttrack.serving.tensors import Array, InferenceCall, Tensor

#: The tensor or member that holds the prediction event itself, as JSON.
EVENT = "event"
_MAX_EVENTS = 64
_NUMBERS = ("FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32")


@dataclass(frozen=True)
class RawRequest:
    """Either entity keys or raw fields of events, one dict a row, or feature columns, one value a row each."""

    keys: list[dict[str, str]] | None = None
    events: list[dict[str, Any]] | None = None
    columns: dict[str, list[Any]] | None = None


class RawReader:
    """Tells the three forms apart and checks what the encoder can't see: names, datatypes, shapes.

    Types, missing values and vocabulary are the encoder's to check, an event's fields the stream's contract's.

    Args:
        signature: of the package.
        max_batch: most rows a request.
    """

    def __init__(self, signature: Signature, max_batch: int) -> None:
        self._keys = signature.keys
        self._roles = {feature.name: feature.role for feature in signature.features}
        self._max_batch = max_batch
        # A use case that has the name for something of its own can't be asked by event.
        self._event = {EVENT} - set(self._keys) - set(self._roles) or None

    def tensors(self, call: InferenceCall) -> RawRequest:
        """Read V2 tensors.

        Raises:
            InvalidRequestError: tensors are unknown, of a wrong datatype or shape, or differ in their rows.
        """
        names = call.inputs.keys()
        arrays = {name: tensor.array for name, tensor in call.inputs.items()}
        self._choose(set(names), "input")
        rows = batch_size(arrays, self._max_batch)
        if names == self._event:
            return RawRequest(events=self._events(self._words(call.inputs[EVENT], rows)))
        if names & set(self._keys):
            columns = [self._words(call.inputs[key], rows) for key in self._keys]
            return RawRequest(
                keys=[dict(zip(self._keys, values, strict=True)) for values in zip(*columns, strict=True)]
            )
        return RawRequest(columns={name: self._column(tensor, rows) for name, tensor in call.inputs.items()})

    def instances(self, instances: Sequence[Any]) -> RawRequest:
        """Read V1 instances, all of the same form.

        Raises:
            InvalidRequestError: an instance is not an object, or has unknown names, or the forms are mixed.
        """
        if not 1 <= len(instances) <= self._max_batch:
            raise InvalidRequestError(
                f"there are {len(instances)} instances.", where="instances", fix=f"Send 1 to {self._max_batch}."
            )
        for position, instance in enumerate(instances):
            if not isinstance(instance, dict):
                raise InvalidRequestError(
                    "it is not an object.", where=f"instances[{position}]", fix="Send JSON objects."
                )
            self._choose(set(instance), f"instances[{position}]")
        described = [instance.keys() == self._event for instance in instances]
        keyed = [bool(instance.keys() & set(self._keys)) for instance in instances]
        if len({*zip(described, keyed, strict=True)}) > 1:
            raise InvalidRequestError(
                "keys, events and features are mixed.", where="instances", fix="Send a request for each."
            )
        if described[0]:
            return RawRequest(events=self._events([instance[EVENT] for instance in instances]))
        if keyed[0]:
            return RawRequest(keys=[self._key_of(instance, i) for i, instance in enumerate(instances)])
        names = sorted(set().union(*instances))
        return RawRequest(columns={name: [instance.get(name) for instance in instances] for name in names})

    def _choose(self, names: set[str], where: str) -> None:
        keys, features = set(self._keys), set(self._roles)
        lengths = {f"{name}_length" for name, role in self._roles.items() if role == "sequence"}
        if names & keys:
            if names == keys:
                return
            odd = sorted(names - keys)
            problem = f"{odd[0]!r} can't stand beside entity keys" if odd else f"{sorted(keys - names)[0]!r} is missing"
        elif not names:
            problem = "it is empty"
        elif names <= features | lengths or names == self._event:
            return
        else:
            problem = f"there is no feature {sorted(names - features - lengths)[0]!r}"
        raise InvalidRequestError(
            f"{problem}.",
            where=where,
            fix=f"Send {', '.join(self._keys)}, or {EVENT}, or features out of: {', '.join(self._roles)}.",
        )

    @staticmethod
    def _events(given: Sequence[Any]) -> list[dict[str, Any]]:
        """Objects, or their JSON texts. Each costs a look-up of its own."""
        if len(given) > _MAX_EVENTS:
            raise InvalidRequestError(
                f"there are {len(given)} events.", where=EVENT, fix=f"Send up to {_MAX_EVENTS} at a time."
            )
        try:
            found = [orjson.loads(value) if isinstance(value, str) else value for value in given]
        except orjson.JSONDecodeError as error:
            raise InvalidRequestError(f"it is not JSON: {error}.", where=EVENT, fix="Send a JSON object.") from error
        if not all(isinstance(event, dict) for event in found):
            raise InvalidRequestError("it is not an object.", where=EVENT, fix='Send {"field": value, ...}.')
        return found

    def _key_of(self, instance: Mapping[str, Any], position: int) -> dict[str, str]:
        for key in self._keys:
            if not isinstance(instance[key], str):
                raise InvalidRequestError(
                    "it is not a string.", where=f"instances[{position}].{key}", fix="Entity keys are strings."
                )
        return {key: instance[key] for key in self._keys}

    def _words(self, tensor: Tensor, rows: int, *, nullable: bool = False) -> list[Any]:
        self._fits(tensor, ("BYTES",), (rows,))
        found = [None if value is None else _text(tensor.name, value) for value in tensor.array.reshape(-1)]
        if None in found and not nullable:
            raise InvalidRequestError("it holds null.", where=f"input {tensor.name!r}", fix="Entity keys are strings.")
        return found

    def _column(self, tensor: Tensor, rows: int) -> list[Any]:
        role = self._roles.get(tensor.name, "length")
        if role == "category":
            return self._words(tensor, rows, nullable=True)
        if role == "sequence":
            self._fits(tensor, _NUMBERS, (rows, None, None))
            return [unpadded(row) for row in tensor.array.tolist()]
        self._fits(tensor, _NUMBERS, (rows,))
        return _finite(tensor).reshape(-1).tolist()

    def _fits(self, tensor: Tensor, datatypes: Sequence[str], shape: tuple[int | None, ...]) -> None:
        where = f"input {tensor.name!r}"
        if tensor.datatype not in datatypes:
            raise InvalidRequestError(
                f"its datatype is {tensor.datatype}.", where=where, fix=f"Send {' or '.join(datatypes)}."
            )
        # [B, 1] is how many clients write a column.
        got = tensor.shape[:1] if len(shape) == 1 and tensor.shape[1:] == (1,) else tensor.shape
        if len(got) != len(shape) or any(want not in (None, have) for want, have in zip(shape, got, strict=True)):
            wanted = [size if size is not None else "any" for size in shape]
            raise InvalidRequestError(f"its shape is {list(tensor.shape)}.", where=where, fix=f"Send shape {wanted}.")


def _finite(tensor: Tensor) -> Array:
    if tensor.array.dtype.kind == "f" and not np.isfinite(tensor.array).all():
        raise InvalidRequestError(
            "it holds NaN or infinity.",
            where=f"input {tensor.name!r}",
            fix="Leave a missing feature out, or send null in JSON.",
        )
    return tensor.array


def unpadded(padded: Sequence[Sequence[float | None]]) -> list[list[float | None]]:
    """The events of one sequence: leading ones that are wholly NaN or null are padding; other NaN becomes None."""
    events = [[None if value is None or value != value else value for value in event] for event in padded]
    start = next((i for i, event in enumerate(events) if any(value is not None for value in event)), len(events))
    return events[start:]


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError("it is not UTF-8.", where=f"input {name!r}", fix="Send text as UTF-8.") from error
