"""signature.json: what the model takes and gives, and what values of each raw feature make sense."""

from __future__ import annotations

from typing import Any

import numpy as np

from fasttrack.models.encoding import Encoder
from fasttrack.training.data import Rows
from fasttrack.usecase import Column, UseCase
from fasttrack.usecase.features import FieldFeature, LastFeature, SequenceFeature, WindowFeature

_CALENDAR = {"hour": (0.0, 23.0), "weekday": (0.0, 6.0), "month": (1.0, 12.0), "day_of_year": (1.0, 366.0)}


def signature(usecase: UseCase, encoder: Encoder, train: Rows) -> dict[str, Any]:
    """The document; ``minimum`` and ``maximum`` are limits, ``observed`` is the range of the training rows."""
    inputs = [_tensor("numeric", "FP32", encoder.numeric_width), _tensor("categorical", "INT64", len(encoder.category))]
    if encoder.sequence is not None:
        shape = (encoder.sequence.length, len(encoder.sequence.channels))
        inputs += [_tensor("sequence", "FP32", *shape), _tensor("length", "INT64")]
    nullable = {column.name: column.nullable for column in encoder.numeric}
    nullable |= {column.name: column.nullable for column in encoder.category}
    words = {column.name: list(column.words) for column in encoder.category}
    features = []
    for column in usecase.columns():
        values = train.columns[column.name]
        entry: dict[str, Any] = {
            "name": column.name,
            "role": column.role,
            "nullable": nullable.get(column.name, True),
            "minimum": None,
            "maximum": None,
        }
        if column.role == "numeric":
            entry |= _range(_limits(usecase, column, None), values)
        elif column.role == "category":
            entry |= {"categories": words[column.name], "closed": _closed(usecase, column)}
        else:
            entry |= {"length": column.length, "channels": _channels(usecase, column, values)}
        features.append(entry)
    return {
        "inputs": inputs,
        "outputs": [_tensor(name, "FP32") for name in ("probability", "value", "lower", "upper")],
        "features": features,
        "entity": {"name": usecase.prediction.entity, "keys": list(usecase.entities[usecase.prediction.entity].keys)},
        "positive": usecase.label.positive_name,
        "unit": usecase.label.unit,
        "coverage": usecase.gate.coverage,
    }


def _tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [-1, *shape]}


def _channels(usecase: UseCase, column: Column, values: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"name": channel, **_range(_limits(usecase, column, channel), values[:, :, position])}
        for position, channel in enumerate(column.channels)
    ]


def _closed(usecase: UseCase, column: Column) -> bool:
    """Whether the contract lists all words; otherwise a new one is allowed, and the model takes it as unknown."""
    definition = usecase.features[column.definition]
    if not isinstance(definition, FieldFeature) or definition.transform is not None:
        return definition.kind == "field"
    return usecase.streams[usecase.prediction.stream].fields[definition.field].enum is not None


def _range(limits: tuple[float | None, float | None], values: np.ndarray) -> dict[str, Any]:
    """Limits that the contract leaves open are the observed range, widened by its own width on each side."""
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    width = max(high - low, abs(high), 1.0)
    minimum = low - width if limits[0] is None else limits[0]
    maximum = high + width if limits[1] is None else limits[1]
    return {"minimum": minimum, "maximum": maximum, "observed": {"minimum": low, "maximum": high}}


def _limits(usecase: UseCase, column: Column, channel: str | None) -> tuple[float | None, float | None]:
    """What the contracts say about a column (or a channel of a sequence); None where they say nothing."""
    definition = usecase.features[column.definition]
    if isinstance(definition, FieldFeature):
        if definition.transform is not None:
            return _CALENDAR[definition.transform]
        return _contract(usecase, usecase.prediction.stream, definition.field)
    if isinstance(definition, WindowFeature):
        if column.aggregate == "count" or definition.field is None:
            return 0.0, None
        low, high = _contract(usecase, definition.stream, definition.field)
        if column.aggregate == "std":
            return 0.0, None if low is None or high is None else high - low
        return low, high
    field = column.field if channel is None else channel
    if isinstance(definition, (LastFeature, SequenceFeature)) and field in definition.fields:
        return _contract(usecase, definition.stream, field)
    # The age in hours, which no field stands for.
    return 0.0, definition.max_age.total_seconds() / 3600


def _contract(usecase: UseCase, stream: str, field: str) -> tuple[float | None, float | None]:
    contract = usecase.streams[stream].fields[field]
    if contract.type == "boolean":
        return 0.0, 1.0
    low, high = contract.minimum, contract.maximum
    return None if low is None else float(low), None if high is None else float(high)
