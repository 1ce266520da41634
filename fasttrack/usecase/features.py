"""Feature definitions, and the columns that they expand to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field

from fasttrack.usecase.durations import Duration, format_duration
from fasttrack.usecase.streams import Strict

Aggregate = Literal["count", "mean", "max", "std"]
Transform = Literal["hour", "weekday", "month", "day_of_year"]


class FieldFeature(Strict):
    """A value of the event that asks for the prediction, known at its event time."""

    kind: Literal["field"]
    field: str
    transform: Transform | None = Field(None, description="a calendar part of a timestamp, taken in `timezone`")
    timezone: str = "UTC"
    categorical: bool = Field(False, description="treat a number as a category")


class WindowFeature(Strict):
    """Aggregates over a window [t - w, t) of another stream's events with the same entity."""

    kind: Literal["window"]
    stream: str
    entity: str
    field: str | None = Field(None, description="the aggregated number; not needed for count alone")
    aggregates: tuple[Aggregate, ...] = Field(min_length=1, strict=False)
    windows: tuple[Duration, ...] = Field(min_length=1, strict=False)


class LastFeature(Strict):
    """The last known values of another stream's events with the same entity, as of the prediction time."""

    kind: Literal["last"]
    stream: str
    entity: str
    fields: tuple[str, ...] = Field(min_length=1, strict=False)
    max_age: Duration = timedelta(days=7)
    age: bool = Field(False, description="also give the age of the value, in hours")


class SequenceFeature(Strict):
    """The last N events of an entity, oldest first, as a matrix (N, fields [+ age])."""

    kind: Literal["sequence"]
    stream: str
    entity: str
    fields: tuple[str, ...] = Field(min_length=1, strict=False)
    length: int = Field(gt=0, le=256)
    max_age: Duration = timedelta(days=30)


FeatureDefinition = Annotated[FieldFeature | WindowFeature | LastFeature | SequenceFeature, Field(discriminator="kind")]


@dataclass(frozen=True)
class Column:
    """One column of the feature table.

    Attributes:
        name: column name.
        role: ``numeric`` (float), ``category`` (string) or ``sequence`` (N x channels floats).
        definition: name of the definition that it comes from.
        aggregate: for windows, the aggregate.
        window: for windows, the length.
        field: the source field, where there is one; ``None`` for counts and ages.
        channels: for sequences, the channel names; the last one is ``age_hours``.
        length: for sequences, N.
    """

    name: str
    role: Literal["numeric", "category", "sequence"]
    definition: str
    aggregate: Aggregate | None = None
    window: timedelta | None = None
    field: str | None = None
    channels: tuple[str, ...] = ()
    length: int = 0


def expand(name: str, definition: FeatureDefinition, source_type: str | None = None) -> list[Column]:
    """The columns of one definition, in a fixed order.

    Args:
        name: the definition's name.
        definition: the definition.
        source_type: for a `FieldFeature`, the contract type of its field.
    """
    match definition:
        case FieldFeature():
            text = source_type == "string" and definition.transform is None
            role: Literal["numeric", "category"] = "category" if text or definition.categorical else "numeric"
            return [Column(name, role, name, field=definition.field)]
        case WindowFeature():
            return [
                Column(
                    f"{name}_{aggregate}_{format_duration(window)}",
                    "numeric",
                    name,
                    aggregate,
                    window,
                    definition.field,
                )
                for window in definition.windows
                for aggregate in definition.aggregates
            ]
        case LastFeature():
            columns = [Column(f"{name}_{field}", "numeric", name, field=field) for field in definition.fields]
            return [*columns, Column(f"{name}_age_hours", "numeric", name)] if definition.age else columns
        case SequenceFeature():
            channels = (*definition.fields, "age_hours")
            return [Column(name, "sequence", name, channels=channels, length=definition.length)]
