"""What has to be computed: the use case's definitions grouped by entity and by stream."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from fasttrack.errors import UseCaseError
from fasttrack.features.clock import microseconds
from fasttrack.usecase import Column, UseCase
from fasttrack.usecase.features import FieldFeature, LastFeature, SequenceFeature, WindowFeature, expand

HistoryFeature = WindowFeature | LastFeature | SequenceFeature

EVENT_ID = "_event_id"
PREDICTION_TIME = "_prediction_time"
LABEL = "_label"
LABEL_TIME = "_label_time"
LENGTH_SUFFIX = "_length"

TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Feed:
    """One stream as seen from one entity.

    Attributes:
        stream: its name.
        time_field: the field with the event time.
        id_field: the field with the event id; it orders events of the same time, compared as text.
        fields: the numeric fields that are needed.
    """

    stream: str
    time_field: str
    id_field: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class EntityPlan:
    """Everything that is computed with one sort by one entity's key.

    Attributes:
        entity: its name.
        keys: the fields that identify it, in every stream.
        feeds: the streams that are read.
        definitions: (name, definition) of the features.
        label_stream: the stream of the label, if this plan finds the label.
        label_field: its field.
    """

    entity: str
    keys: tuple[str, ...]
    feeds: tuple[Feed, ...]
    definitions: tuple[tuple[str, HistoryFeature], ...]
    label_stream: str | None = None
    label_field: str | None = None

    def columns(self) -> list[Column]:
        """The feature columns, in order."""
        return [column for name, definition in self.definitions for column in expand(name, definition)]

    def schema(self) -> pa.Schema:
        """The columns that `compute.entity_columns` returns."""
        fields = [field for column in self.columns() for field in column_fields(column)]
        if self.label_stream is not None:
            fields += [pa.field(LABEL, pa.float64()), pa.field(LABEL_TIME, TIMESTAMP)]
        return pa.schema(fields)

    def horizon(self) -> int:
        """How far back the features look, in microseconds."""
        reach = [_reach(definition) for _, definition in self.definitions]
        return max(reach, default=0)

    def without_label(self) -> EntityPlan:
        """The same plan for serving, where no label is known; streams that only the label needs are left out."""
        streams = {definition.stream for _, definition in self.definitions}
        feeds = tuple(feed for feed in self.feeds if feed.stream in streams)
        return replace(self, feeds=feeds, label_stream=None, label_field=None)


def column_fields(column: Column) -> list[pa.Field]:
    """The table columns of one feature column: its own, and for a sequence also its length."""
    if column.role == "category":
        return [pa.field(column.name, pa.string())]
    if column.role == "sequence":
        return [pa.field(column.name, pa.list_(pa.float64())), pa.field(column.name + LENGTH_SUFFIX, pa.int32())]
    return [pa.field(column.name, pa.float64())]


def entity_plans(usecase: UseCase) -> list[EntityPlan]:
    """One plan an entity that has windowed, last or sequence features; the prediction entity's also finds the label."""
    names = [d.entity for d in usecase.features.values() if not isinstance(d, FieldFeature)]
    entities = dict.fromkeys([usecase.prediction.entity, *names])
    return [_entity_plan(usecase, entity) for entity in entities]


def field_definitions(usecase: UseCase) -> list[tuple[str, FieldFeature]]:
    """The features that are read from the prediction event itself."""
    return [(name, d) for name, d in usecase.features.items() if isinstance(d, FieldFeature)]


def table_schema(usecase: UseCase) -> pa.Schema:
    """The schema of the feature table: keys, event id, prediction time, features, label and its time.

    Raises:
        UseCaseError: a feature column has the name of a key, but other contents.
    """
    keys = [pa.field(key, pa.string()) for key in _own_keys(usecase)]
    head = [*keys, pa.field(EVENT_ID, pa.string()), pa.field(PREDICTION_TIME, TIMESTAMP)]
    body = [field for column in usecase.columns() for field in column_fields(column)]
    return pa.schema([*head, *body, pa.field(LABEL, pa.float64()), pa.field(LABEL_TIME, TIMESTAMP)])


def _own_keys(usecase: UseCase) -> list[str]:
    """The prediction entity's keys that are not feature columns as well.

    Raises:
        UseCaseError: a feature column has the name of a key, but other contents.
    """
    columns = {column.name: column for column in usecase.columns()}
    keys = usecase.entities[usecase.prediction.entity].keys
    for key in keys:
        column = columns.get(key)
        if column is not None and (column.role, column.field, column.definition) != ("category", key, key):
            raise UseCaseError(
                f"column {key!r} has the name of a key of the prediction entity.",
                where=f"features.{column.definition}",
                fix="Rename the feature.",
            )
    return [key for key in keys if key not in columns]


def streams_used(usecase: UseCase) -> list[str]:
    """The streams on which the feature table depends, sorted."""
    named = {d.stream for d in usecase.features.values() if not isinstance(d, FieldFeature)}
    return sorted(named | {usecase.prediction.stream, usecase.label.stream})


def _entity_plan(usecase: UseCase, entity: str) -> EntityPlan:
    found: list[tuple[str, HistoryFeature]] = []
    fields: dict[str, dict[str, None]] = {}
    for name, definition in usecase.features.items():
        if isinstance(definition, FieldFeature) or definition.entity != entity:
            continue
        found.append((name, definition))
        fields.setdefault(definition.stream, {}).update(dict.fromkeys(_sources(definition)))
    labelled = entity == usecase.prediction.entity
    if labelled:
        fields.setdefault(usecase.label.stream, {})[usecase.label.field] = None
    return EntityPlan(
        entity,
        usecase.entities[entity].keys,
        tuple(_feed(usecase, stream, tuple(sources)) for stream, sources in fields.items()),
        tuple(found),
        usecase.label.stream if labelled else None,
        usecase.label.field if labelled else None,
    )


def _feed(usecase: UseCase, stream: str, fields: tuple[str, ...]) -> Feed:
    contract = usecase.streams[stream]
    return Feed(stream, contract.event_time, contract.event_id, fields)


def _sources(definition: HistoryFeature) -> tuple[str, ...]:
    if isinstance(definition, WindowFeature):
        return () if definition.field is None else (definition.field,)
    return definition.fields


def _reach(definition: HistoryFeature) -> int:
    spans = definition.windows if isinstance(definition, WindowFeature) else (definition.max_age,)
    return max(microseconds(span) for span in spans)
