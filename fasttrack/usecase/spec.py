"""The use case as a whole: references between its parts are checked here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from fasttrack.usecase.features import Column, FeatureDefinition, FieldFeature, SequenceFeature, WindowFeature, expand
from fasttrack.usecase.learning import Candidate, Gate, Label, PredictionPoint, Split, Training, Tuning
from fasttrack.usecase.serving import Quality, Replay, Role, Serving
from fasttrack.usecase.sources import OF_TRANSACTION, PostgresReplicationSource, Source
from fasttrack.usecase.streams import Entity, Stream, Strict


class ReferenceProblem(ValueError):
    """A part refers to something undefined; `path` says where in the document."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


def suggestion(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?``, or the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there is: {', '.join(names) or 'nothing'}."


#: Of each use case: how far its sources are, which history was replayed, which dead letters were sent again.
_OWN_TOPICS = ("sources", "replays", "deadletters")


class UseCase(Strict):
    """One use case: everything that FastTrack needs to know (see docs/reference/usecase.md)."""

    api_version: Literal["fasttrack.ai/v1"]
    name: str = Field(pattern=r"^[a-z]([a-z0-9-]{0,40}[a-z0-9])?$", description="a DNS label")
    description: str = ""
    owner: str = ""
    streams: dict[str, Stream] = Field(min_length=1)
    entities: dict[str, Entity] = Field(min_length=1)
    prediction: PredictionPoint
    label: Label
    features: dict[str, FeatureDefinition] = Field(min_length=1)
    split: Split
    models: tuple[Candidate, ...] = Field(min_length=1, strict=False)
    tuning: Tuning = Tuning()
    training: Training = Training()
    gate: Gate
    quality: Quality = Quality()
    serving: Serving = Serving()
    roles: dict[str, Role] = Field(min_length=1)
    replay: Replay | None = None
    sources: dict[str, Source] = Field({}, description="where `fasttrack ingest` gets events from")

    _base: str = PrivateAttr(default=".")

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        for check in (
            self._check_streams,
            self._check_sources,
            self._check_prediction,
            self._check_features,
            self._check_gate,
        ):
            check()
        return self

    def topic(self, stream: str) -> str:
        """The Kafka topic of a stream."""
        return self.streams[stream].topic or f"{self.name}.{stream}"

    def columns(self) -> list[Column]:
        """The feature columns in the order in which they stand in tables and tensors."""
        fields = self.streams[self.prediction.stream].fields
        found: list[Column] = []
        for name, definition in self.features.items():
            source = fields[definition.field].type if isinstance(definition, FieldFeature) else None
            found.extend(expand(name, definition, source))
        return found

    @property
    def base(self) -> str:
        """The folder of the file that this use case was read from."""
        return self._base

    def _known(self, path: tuple[str | int, ...], kind: str, word: str, known: Iterable[str]) -> None:
        names = list(known)
        if word not in names:
            raise ReferenceProblem(path, f"{kind} {word!r} is not defined; {suggestion(word, names)}")

    def _check_streams(self) -> None:
        ours = [f"{self.name}.{word}" for word in _OWN_TOPICS]
        for name, stream in self.streams.items():
            if (topic := self.topic(name)) in ours:
                raise ReferenceProblem(
                    ("streams", name), f"its topic {topic!r} is one that FastTrack keeps for itself; give it another"
                )
            for role in ("key", "event_id", "event_time"):
                field = getattr(stream, role)
                self._known(("streams", name, role), "field", field, stream.fields)
                if stream.fields[field].nullable:
                    raise ReferenceProblem(
                        ("streams", name, role), f"field {field!r} is the {role}, so it can't be nullable"
                    )
            if stream.fields[stream.event_time].type != "timestamp":
                raise ReferenceProblem(
                    ("streams", name, "event_time"), f"field {stream.event_time!r} is not a timestamp"
                )

    def _check_sources(self) -> None:
        for name, source in self.sources.items():
            self._known(("sources", name, "stream"), "stream", source.stream, self.streams)
            for part in ("fields", "constants"):
                for field in getattr(source, part):
                    self._known(("sources", name, part, field), "field", field, self.streams[source.stream].fields)
            if isinstance(source, PostgresReplicationSource):
                self._check_change_ids(name, source)

    def _check_change_ids(self, name: str, source: PostgresReplicationSource) -> None:
        """All rows of a transaction share its place and time: but one of them would count as duplicates."""
        field = self.streams[source.stream].event_id
        path = source.fields.get(field, field)
        if path in OF_TRANSACTION and field not in source.constants:
            raise ReferenceProblem(
                ("sources", name, "fields", field),
                f"{path} is not of one change alone, and events of one {field!r} are duplicates; take _change_id, or a "
                "column that each version of a row has of its own.",
            )

    def _check_entity(self, path: tuple[str | int, ...], entity: str, stream: str) -> None:
        self._known(path, "entity", entity, self.entities)
        for key in self.entities[entity].keys:
            if key not in self.streams[stream].fields:
                raise ReferenceProblem(
                    path,
                    f"entity {entity!r} is identified by {key!r}, which stream {stream!r} has not; "
                    f"{suggestion(key, self.streams[stream].fields)}",
                )

    def _check_prediction(self) -> None:
        point = self.prediction
        self._known(("prediction", "stream"), "stream", point.stream, self.streams)
        fields = self.streams[point.stream].fields
        self._known(("prediction", "time_field"), "field", point.time_field, fields)
        if fields[point.time_field].type != "timestamp":
            raise ReferenceProblem(("prediction", "time_field"), f"field {point.time_field!r} is not a timestamp")
        self._check_entity(("prediction", "entity"), point.entity, point.stream)
        self._known(("label", "stream"), "stream", self.label.stream, self.streams)
        self._check_number(("label", "field"), self.label.stream, self.label.field)
        self._check_entity(("label", "stream"), point.entity, self.label.stream)

    def _check_number(self, path: tuple[str | int, ...], stream: str, field: str) -> None:
        fields = self.streams[stream].fields
        self._known(path, "field", field, fields)
        if fields[field].type not in ("number", "integer", "boolean"):
            raise ReferenceProblem(
                path, f"field {field!r} of stream {stream!r} is a {fields[field].type}, not a number"
            )

    def _check_features(self) -> None:
        seen: dict[str, str] = {}
        for name, definition in self.features.items():
            at: tuple[str | int, ...] = ("features", name)
            if isinstance(definition, FieldFeature):
                fields = self.streams[self.prediction.stream].fields
                self._known((*at, "field"), "field", definition.field, fields)
                if definition.transform and fields[definition.field].type != "timestamp":
                    raise ReferenceProblem((*at, "transform"), f"{definition.transform} needs a timestamp field")
                if not definition.transform and fields[definition.field].type == "timestamp":
                    raise ReferenceProblem((*at, "field"), "a timestamp needs a transform, such as hour or month")
                continue
            self._known((*at, "stream"), "stream", definition.stream, self.streams)
            self._check_entity((*at, "entity"), definition.entity, definition.stream)
            self._check_entity((*at, "entity"), definition.entity, self.prediction.stream)
            if isinstance(definition, WindowFeature):
                if definition.field is None and set(definition.aggregates) != {"count"}:
                    raise ReferenceProblem(at, "only count can do without a field")
                sources: tuple[str, ...] = () if definition.field is None else (definition.field,)
            else:
                sources = definition.fields
            for source in sources:
                self._check_number(at, definition.stream, source)
        sequences = [n for n, d in self.features.items() if isinstance(d, SequenceFeature)]
        if len(sequences) > 1:
            raise ReferenceProblem(
                ("features", sequences[1]), f"there is a sequence already ({sequences[0]!r}); one is supported"
            )
        for column in self.columns():
            if column.name in seen:
                raise ReferenceProblem(
                    ("features", column.definition),
                    f"column {column.name!r} is also made by {seen[column.name]!r}; rename one of the two",
                )
            seen[column.name] = column.definition

    def _check_gate(self) -> None:
        categories = [c.name for c in self.columns() if c.role == "category"]
        for index, name in enumerate(self.gate.slices):
            self._known(("gate", "slices", index), "category column", name, categories)
